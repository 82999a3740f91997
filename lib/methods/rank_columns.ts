// Columns of a low-rank term on the host: which of them matter least, and new ones orthogonal to those that are there. A [columns, in] holds
// one in a row, B [out, columns] one in a column; live ones come first.

import { normal } from "./low_rank_init.ts";

/** Values with the moments that go along. */
export interface Columns {
  readonly a: Float32Array;
  readonly b: Float32Array;
  /** Columns in memory. */
  readonly columns: number;
  readonly in: number;
  readonly out: number;
}

/** Norm of what each live column adds to the weight: ‖a‖·‖b‖. */
export function contributions({ a, b, columns, in: input, out }: Columns, live: number): number[] {
  return Array.from({ length: live }, (_, k) => {
    let [rows, outs] = [0, 0];
    for (let i = 0; i < input; i++) rows += a[k * input + i]! ** 2;
    for (let o = 0; o < out; o++) outs += b[o * columns + k]! ** 2;
    return Math.sqrt(rows) * Math.sqrt(outs);
  });
}

/** The columns that stay where `live` become `rank`, in their order: those that add most, of equal ones the earlier. */
export function keptColumns(added: readonly number[], rank: number): number[] {
  const best = added.map((_, k) => k).sort((x, y) => added[y]! - added[x]! || x - y);
  return best.slice(0, rank).sort((x, y) => x - y);
}

/** Moves the columns `kept` to the front and makes all others zeros, in values or in moments. */
export function compact({ a, b, columns, in: input, out }: Columns, kept: readonly number[]): void {
  kept.forEach((from, to) => {
    if (from === to) return;
    a.copyWithin(to * input, from * input, (from + 1) * input);
    for (let o = 0; o < out; o++) b[o * columns + to] = b[o * columns + from]!;
  });
  a.fill(0, kept.length * input);
  for (let o = 0; o < out; o++) b.fill(0, o * columns + kept.length, (o + 1) * columns);
}

/**
 * Rows `live` to `rank` − 1 of A: orthogonal to the rows before and to one another, as long as those are on average. B's columns there are
 * zeros and stay so: the term is what it was.
 */
export function grow({ a, in: input }: Pick<Columns, "a" | "in">, live: number, rank: number, seed: number, name: string): void {
  const basis: Float64Array[] = [];
  const row = (k: number): Float64Array => Float64Array.from(a.subarray(k * input, (k + 1) * input));
  const lengths = Array.from({ length: live }, (_, k) => norm(row(k)));
  const length = lengths.reduce((sum, n) => sum + n, 0) / live;
  for (let k = 0; k < live; k++) {
    const own = row(k);
    const before = norm(own);
    // A row that lies among those before it spans nothing new.
    if (orthogonal(own, basis) > 1e-6 * before) basis.push(scaled(own));
  }
  for (let k = live; k < rank; k++) {
    for (let attempt = 0; ; attempt++) {
      const fresh = Float64Array.from(normal(input, 1, seed, `${name} column ${k}.${attempt}`));
      const before = norm(fresh);
      if (orthogonal(fresh, basis) <= 1e-3 * before) continue; // rank < in: another draw has more of what is left
      const unit = scaled(fresh);
      basis.push(unit);
      for (let i = 0; i < input; i++) a[k * input + i] = unit[i]! * length;
      break;
    }
  }
}

const norm = (x: Float64Array): number => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));

/** Takes what lies along the basis off x, twice, since the first pass rounds. @returns what is left of its length */
function orthogonal(x: Float64Array, basis: readonly Float64Array[]): number {
  for (let pass = 0; pass < 2; pass++)
    for (const e of basis) {
      let along = 0;
      for (let i = 0; i < x.length; i++) along += x[i]! * e[i]!;
      for (let i = 0; i < x.length; i++) x[i]! -= along * e[i]!;
    }
  return norm(x);
}

function scaled(x: Float64Array): Float64Array {
  const n = norm(x);
  return x.map((v) => v / n);
}

/** The first `rank` columns alone: of A, or of B. */
export const liveA = (a: Float32Array, rank: number, input: number): Float32Array => a.slice(0, rank * input);
export function liveB(b: Float32Array, rank: number, columns: number): Float32Array {
  const out = b.length / columns;
  const live = new Float32Array(out * rank);
  for (let o = 0; o < out; o++) live.set(b.subarray(o * columns, o * columns + rank), o * rank);
  return live;
}
