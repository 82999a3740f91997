// Low-rank factors of all experts of a layer as PEFT stacks them: A [r·E, in] is expert-major (expert e = rows e·r … (e+1)·r − 1), B
// [out, r·E] is rank-major (expert e = columns e, e + E, e + 2E, …).

/** A [rank, in] and B [out, rank] of one matrix. */
export interface Factors {
  readonly a: Float32Array;
  readonly b: Float32Array;
  readonly rank: number;
  readonly scaling: number;
}

/** Both halves of a matrix as one: A over A, B as blocks of a diagonal. Absent ones are zero. */
export function fuseHalves(upper: Factors | undefined, lower: Factors | undefined, out: number): Factors | undefined {
  if (!upper && !lower) return undefined;
  const [ru, rl] = [upper?.rank ?? 0, lower?.rank ?? 0];
  const rank = ru + rl;
  const scaling = (upper ?? lower)!.scaling;
  const input = (upper ?? lower)!.a.length / (upper ?? lower)!.rank;
  const a = new Float32Array(rank * input);
  if (upper) a.set(upper.a);
  if (lower) a.set(lower.a, ru * input);
  const b = new Float32Array(2 * out * rank);
  const put = (half: Factors | undefined, row0: number, column0: number): void => {
    if (!half) return;
    const factor = half.scaling / scaling;
    for (let row = 0; row < out; row++)
      for (let k = 0; k < half.rank; k++) b[(row0 + row) * rank + column0 + k] = factor * half.b[row * half.rank + k]!;
  };
  put(upper, 0, 0);
  put(lower, out, ru);
  return { a, b, rank, scaling };
}

/** The factors of all experts as two matrices; smaller ranks are filled with zeros, other factors than the first one's go into B. */
export function stack(experts: readonly (Factors | undefined)[], [out, input]: readonly [number, number]): Factors {
  const E = experts.length;
  const rank = Math.max(...experts.map((f) => f?.rank ?? 0));
  const scaling = experts.find((f) => f)!.scaling;
  const a = new Float32Array(rank * E * input);
  const b = new Float32Array(out * rank * E);
  experts.forEach((f, e) => {
    if (!f) return;
    a.set(f.a, e * rank * input);
    const factor = f.scaling / scaling;
    for (let row = 0; row < out; row++) for (let k = 0; k < f.rank; k++) b[row * rank * E + k * E + e] = factor * f.b[row * f.rank + k]!;
  });
  return { a, b, rank, scaling };
}

/** One expert's factors of a stack. */
export function unstack({ a, b, rank, scaling }: Factors, e: number, E: number, [out, input]: readonly [number, number]): Factors {
  const own = new Float32Array(out * rank);
  for (let row = 0; row < out; row++) for (let k = 0; k < rank; k++) own[row * rank + k] = b[row * rank * E + k * E + e]!;
  return { a: a.slice(e * rank * input, (e + 1) * rank * input), b: own, rank, scaling };
}
