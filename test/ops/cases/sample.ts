// Cases of sample (csrc/ops/sample.h).

import { at, colsOf, f32, filled, has, i32, out, rowsOf, strided, tensor } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";

const f64 = (values: readonly number[]): HostTensor => ({ dtype: "f64", shape: [values.length], values: Float64Array.from(values) });

// ---- in plain JavaScript: real numbers in place of integers --------------------------------------------------------------------

const sum = (v: readonly number[]): number => v.reduce((a, b) => a + b, 0);
const legal = (z: readonly number[]): boolean => z.every((x) => x < Infinity) && z.some((x) => x > -Infinity);
/** Ids by descending value, the lower one first on ties. */
const ordered = (z: readonly number[]): number[] => z.map((_, i) => i).sort((i, j) => (z[i]! === z[j]! ? i - j : z[j]! > z[i]! ? 1 : -1));
const highest = (z: readonly number[]): number => z.reduce((a, b) => Math.max(a, b), -Infinity);
const logSoftmax = (z: readonly number[]): number[] => {
  const top = highest(z);
  const all = Math.log(sum(z.map((x) => Math.exp(x - top))));
  return z.map((x) => Math.fround(x - top - all));
};

/** The ids that the row's settings leave, and the weight of each: for the tests of what is kept, too. */
export function keptOf(a: Args, r: number, z: readonly number[]): { readonly id: number; readonly weight: number }[] {
  const option = (name: string, off: number): number => (has(a, name) ? tensor(a, name).values[r]! : off);
  const top = highest(z);
  let kept = ordered(z).map((id) => ({ id, weight: Math.exp((z[id]! - top) / option("temperature", 0)) }));
  const k = option("top_k", 0);
  if (k > 0) kept = kept.slice(0, k);
  const p = option("top_p", 1);
  if (p < 1) {
    const all = sum(kept.map(({ weight }) => weight));
    let before = 0;
    kept = kept.filter(({ weight }, i) => ((before += weight), i === 0 || before - weight < p * all));
  }
  return kept.filter(({ weight }) => weight >= option("min_p", 0));
}

export function penalised(a: Args, r: number, raw: readonly number[]): number[] {
  const z = [...raw];
  if (!has(a, "seen")) return z;
  const [seen, offsets] = [tensor(a, "seen").values, tensor(a, "seen_offsets").values];
  const penalty = tensor(a, "repetition_penalty").values[r]!;
  for (let i = offsets[r]!; i < offsets[r + 1]!; i++) {
    const x = raw[seen[i]!]!;
    z[seen[i]!] = Math.fround(x > 0 ? x / penalty : x * penalty);
  }
  return z;
}

function drawn(a: Args, r: number, z: readonly number[]): number {
  if (!has(a, "temperature") || tensor(a, "temperature").values[r] === 0) return ordered(z)[0]!;
  const kept = keptOf(a, r, z).sort((x, y) => x.id - y.id);
  const target = tensor(a, "u").values[r]! * sum(kept.map(({ weight }) => weight));
  let upto = 0;
  return kept.find(({ weight }) => (upto += weight) > target)!.id;
}

export function expectedSample(a: Args): Record<string, number[]> {
  const logits = tensor(a, "logits");
  const N = has(a, "top_ids") ? colsOf(tensor(a, "top_ids")) : 0;
  const result = { ids: [] as number[], logprob: [] as number[], top_ids: [] as number[], top_logprobs: [] as number[] };
  for (let r = 0; r < rowsOf(logits); r++) {
    const raw = Array.from({ length: colsOf(logits) }, (_, v) => at(logits, r, v));
    const z = penalised(a, r, raw);
    const good = legal(raw) && legal(z);
    const id = good ? drawn(a, r, z) : -1;
    const logprobs = good ? logSoftmax(raw) : [];
    result.ids.push(id);
    result.logprob.push(good ? logprobs[id]! : NaN);
    const best = good ? ordered(raw) : new Array<number>(N).fill(-1);
    for (const top of best.slice(0, N)) {
      result.top_ids.push(top);
      result.top_logprobs.push(good ? logprobs[top]! : NaN);
    }
  }
  return N > 0 ? result : { ids: result.ids, logprob: result.logprob };
}

// ---- calls -----------------------------------------------------------------------------------------------------------------------

/** A number for all rows, or one for each. */
type PerRow = number | readonly number[];
interface Options {
  readonly temperature?: PerRow;
  readonly u?: PerRow;
  readonly k?: PerRow;
  readonly p?: PerRow;
  readonly min?: PerRow;
  readonly penalty?: PerRow;
  /** Ids seen by each row; default: some of V, some of them twice. */
  readonly seen?: readonly (readonly number[])[];
  readonly top?: number;
  readonly logits?: (r: Random, R: number, V: number) => HostTensor;
  readonly scale?: number;
  readonly strided?: boolean;
}
export function sampling(R: number, V: number, o: Options = {}): (r: Random) => Args {
  return (r) => {
    const rows = (x: PerRow): number[] => (typeof x === "number" ? new Array<number>(R).fill(x) : [...x]);
    const vector = (x: PerRow | undefined): HostTensor | null => (x === undefined ? null : f32([R], rows(x)));
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    const logits = o.logits?.(r, R, V) ?? r.normal([R, V], o.scale ?? 3);
    const seen = o.seen ?? Array.from({ length: R }, (_, row) => Array.from({ length: (row * 5 + 7) % 23 }, () => r.below(V)));
    const offsets = [0];
    for (const ids of seen) offsets.push(offsets.at(-1)! + ids.length);
    const penalised = o.penalty !== undefined;
    return {
      logits: wrap(logits),
      temperature: vector(o.temperature),
      u: o.temperature === undefined ? null : f64(o.u === undefined ? Array.from({ length: R }, () => r.uniform()) : rows(o.u)),
      top_k: o.k === undefined ? null : i32(rows(o.k)),
      top_p: vector(o.p),
      min_p: vector(o.min),
      repetition_penalty: vector(o.penalty),
      seen: penalised ? i32(seen.flat()) : null,
      seen_offsets: penalised ? i32(offsets) : null,
      ids: out([R], "i32"),
      logprob: out([R]),
      top_ids: o.top ? wrap(out([R, o.top], "i32")) : null,
      top_logprobs: o.top ? wrap(out([R, o.top])) : null,
    };
  };
}
const row = (name: string, R: number, V: number, o?: Options): OpCase => ({
  op: "sample",
  name: `${name}, R ${R} V ${V}`,
  args: sampling(R, V, o),
  k: V,
  expected: expectedSample,
});

const given =
  (...values: readonly number[]) =>
  (_: Random, R: number, V: number): HostTensor =>
    f32(
      [R, V],
      Array.from({ length: R * V }, (__, i) => values[i % values.length]!),
    );
/** A third of the tokens cannot be. */
const masked = (r: Random, R: number, V: number): HostTensor =>
  f32(
    [R, V],
    Array.from(r.normal([R, V], 3).values, (x, i) => (i % 3 === 1 ? -Infinity : x)),
  );
/** Few values, so that every bound falls among equals. */
const coarse = (r: Random, R: number, V: number): HostTensor =>
  f32(
    [R, V],
    Array.from(r.normal([R, V], 2).values, (x) => Math.round(x * 2) / 2),
  );
const bad = (at: number, value: number) => (r: Random, R: number, V: number) =>
  f32(
    [R, V],
    Array.from(r.normal([R, V]).values, (x, i) => (i === at ? value : x)),
  );
const all = { temperature: 0.8, k: 20, p: 0.9, min: 0.02, penalty: 1.3, top: 5 };

export const sampleCases: readonly OpCase[] = [
  row("greedy", 5, 100),
  row("greedy, one token of one", 1, 1, { top: 1 }),
  row("greedy, no rows", 0, 8, { top: 2 }),
  row("greedy, ties", 3, 70, { logits: coarse, top: 9 }),
  row("greedy, -0 and 0 tie", 2, 4, { logits: given(-1, -0, 0, -2), top: 3 }),
  row("greedy, all equal", 2, 37, { logits: given(3e38), top: 32 }),
  row("greedy, penalised", 6, 90, { penalty: [1.3, 1, 2, 0.5, 1.01, 5], top: 3 }),
  row("greedy, the best one seen", 2, 5, { logits: given(1, 9, 8, -3, 0), penalty: [1.5, 0.5], seen: [[1, 1, 3], [3, 4, 2]] }), // prettier-ignore
  row("greedy, ascending, several chunks", 1, 9001, { logits: (_, R, V) => f32([R, V], Array.from({ length: V }, (__, i) => i / 300)), top: 32 }), // prettier-ignore
  row("temperature", 9, 100, { temperature: [0.1, 0.5, 1, 1.5, 2, 10, 0, 1e-30, 1e30] }),
  row("temperature, one token", 3, 1, { temperature: 1, top: 1 }),
  row("temperature, no rows", 0, 8, all),
  row("temperature, large logits", 6, 50, { temperature: [1, 1e-3, 1e-38, 1, 2, 3e38], scale: 1e4 }),
  row("huge logits", 2, 4, { temperature: [1, 3e38], logits: given(3e38, -3e38, 2.9e38, 0), top: 4 }),
  row("u at its ends", 4, 33, { temperature: 1, u: [0, 1 - 2 ** -53, 2 ** -80, 0.5] }),
  row("u at its ends, impossible tokens", 4, 33, { temperature: 1, u: [0, 1 - 2 ** -53, 2 ** -80, 0.5], logits: masked }),
  row("top_k", 8, 200, { temperature: 1.5, k: [0, 1, 2, 5, 50, 199, 200, 2147483647] }),
  row("top_k, ties", 8, 200, { temperature: 1.5, k: [0, 1, 2, 5, 50, 199, 200, 1000], logits: coarse }),
  row("top_k, all equal: the first", 3, 40, { temperature: 1, k: [1, 7, 39], u: [0.99, 0.99, 0.99], logits: given(0.5) }),
  row("top_k of impossible tokens", 3, 9, { temperature: 1, k: [2, 6, 8], logits: masked }),
  row("top_p", 8, 200, { temperature: 1, p: [0, 0.01, 0.3, 0.5, 0.9, 0.99, 0.9999999, 1] }),
  row("top_p, ties", 8, 200, { temperature: 1, p: [0, 0.01, 0.3, 0.5, 0.9, 0.99, 0.9999999, 1], logits: coarse }),
  row("top_p, hot", 6, 300, { temperature: [3, 10, 1e3, 1e30, 5, 1], p: 0.7 }),
  row("top_p, negative logits", 6, 300, { temperature: 1, p: 0.8, logits: (r, R, V) => f32([R, V], Array.from(r.normal([R, V]).values, (x) => -20 - Math.abs(x))) }), // prettier-ignore
  row("top_p of impossible tokens", 4, 50, { temperature: 1, p: [0.2, 0.6, 0.95, 0.999], logits: masked }),
  // Each of 8 equal tokens weighs an eighth: 4 reach a half, the 5th is not needed.
  row("top_p that equals a sum", 3, 8, { temperature: 1, p: [0.5, 0.5, 0.501], u: [0.999, 0, 0.999], logits: given(1) }),
  row("top_k, then top_p of what is left", 8, 150, { temperature: 1.2, k: [3, 10, 40, 0, 1, 100, 149, 150], p: 0.8 }),
  row("top_k and top_p, ties at both", 8, 150, { temperature: 3, k: [3, 10, 40, 0, 1, 100, 149, 150], p: 0.8, logits: coarse }),
  // Tokens that weigh too little to be sought weigh 0.15 together, beside 1 and 0.7: p = 0.56 of it all is above 1, of the two below.
  row("top_p, the share of what is not sought", 1, 1000, {
    temperature: 1,
    p: 0.56,
    u: 0.9,
    logits: (_, R, V) =>
      f32(
        [R, V],
        Array.from({ length: V }, (__, i) => (i < 2 ? i * Math.log(0.7) : Math.log(0.15 / (V - 2)))),
      ),
  }),
  row("top_p keeps all that top_k did, which cut among equals", 1, 8, { temperature: 1, k: 5, p: 0.99, u: 0.99, logits: given(1) }),
  row("min_p", 7, 200, { temperature: 1.5, min: [0, 1e-6, 0.01, 0.1, 0.5, 0.9, 1] }),
  row("min_p, ties with the best", 2, 12, { temperature: 1, min: 1, u: [0.2, 0.99], logits: given(2, 1, 2, 0) }),
  row("min_p, cold and hot", 4, 200, { temperature: [1e-4, 0.2, 5, 100], min: 0.3 }),
  row("penalty", 9, 64, { temperature: 1, penalty: [1, 1.1, 1.5, 2, 10, 0.9, 0.5, 1e-3, 1e3] }),
  row("penalty of nothing seen", 2, 64, { temperature: 1, penalty: 2, seen: [[], []] }),
  row("everything seen", 1, 20, { temperature: 1, penalty: 3, seen: [Array.from({ length: 20 }, (_, i) => 19 - i)] }),
  row("penalty to no number", 3, 4, { temperature: 1, penalty: [1e-45, 1e30, 1e-45], seen: [[1], [2], [2]], logits: given(-1, 3, -1e30, 0.5), top: 2 }), // prettier-ignore
  row("everything at once", 12, 257, all),
  row("everything at once, greedy rows among others", 6, 257, { ...all, temperature: [0, 1, 0, 2, 0.3, 0], k: [3, 0, 9, 200, 0, 1] }),
  row("everything at once, ties, strided", 7, 131, { ...all, logits: coarse, strided: true }),
  row("strided", 3, 61, { temperature: 1, p: 0.9, top: 32, strided: true }),
  row("several chunks", 3, 9001, { ...all, k: [0, 50, 4000], p: [0.95, 0.9, 0.99] }),
  row("several chunks, ties", 3, 8193, { ...all, k: [0, 500, 4000], p: [0.95, 0.9, 1], min: [0, 0, 0], logits: coarse }),
  row("several chunks, the first impossible", 2, 9001, {
    temperature: 1,
    u: [0, 2 ** -60],
    logits: (r, R, V) =>
      f32(
        [R, V],
        Array.from(r.normal([R, V]).values, (x, i) => (i % V < 5000 ? -Infinity : x)),
      ),
  }),
  row("several chunks, the tail", 2, 12289, { temperature: [1, 4], u: [1 - 2 ** -53, 0.999] }),
  ...([["NaN", NaN], ["+inf", Infinity]] as const).map(([name, value]) => row(name, 3, 30, { ...all, logits: bad(40, value) })), // prettier-ignore
  row("a chunk of NaN alone", 1, 9001, { logits: (r, R, V) => f32([R, V], Array.from(r.normal([R, V]).values, (x, i) => (i >> 12 === 1 ? NaN : x))) }), // prettier-ignore
  row("NaN, greedy", 3, 30, { logits: bad(89, NaN), top: 2 }),
  row("nothing is possible", 2, 9, { ...all, logits: given(-Infinity) }),
  row("one is possible", 2, 9, { ...all, penalty: 1, logits: given(-Infinity, -Infinity, -4, -Infinity, -Infinity, -Infinity, -Infinity, -Infinity, -Infinity) }), // prettier-ignore
];
/** Vocabularies of models. Plain JavaScript takes seconds for each of the large ones. */
export const largeSampleCases: readonly OpCase[] = [
  row("a vocabulary", 2, 151_936, { ...all, k: [0, 50], p: 0.95 }),
  ...[
    row("a vocabulary, ties", 2, 151_936, { ...all, k: [0, 5000], min: 0, logits: coarse }),
    row("a large vocabulary", 1, 262_144, { ...all, k: 0 }),
    row("the largest vocabulary, all equal", 1, 2 ** 20, {
      temperature: 1,
      p: 0.5,
      logits: (_, R, V) => filled("f32", [R, V], { constant: 1 }),
    }),
  ].map(({ op, name, args, k }) => ({ op, name, args, k: k! })),
];

export const sampleBase: OpCase = {
  op: "sample",
  name: "base",
  args: (r) => sampling(3, 11, { temperature: 1, k: 5, p: 0.9, min: 0.01, penalty: 1.2, seen: [[1, 2], [], [3, 3, 10]], top: 2 })(r),
};

const perf = (on: Backend, R: number, V: number, mode: string, o: Options): PerfRow =>
  perfCall(
    `sample/${R}x${V}/${on === "cuda" ? "bf16" : "f32"}/${mode}`,
    on,
    { R, V },
    "sample",
    (s, r) => sampling(s.R, s.V, o)(r),
    (s) => ({ bytes: 4 * s.R * s.V, tokens: s.R }),
  );
/** Limit: each logit read once. */
const modes: readonly (readonly [string, Options])[] = [
  ["greedy", {}],
  ["temperature", { temperature: 1 }],
  ["top-k", { temperature: 0.7, k: 50 }],
  ["top-p", { temperature: 0.7, p: 0.9 }],
  ["all", { temperature: 0.7, k: 50, p: 0.9, min: 0.02, penalty: 1.1, top: 8 }],
];
export const samplePerf: readonly PerfRow[] = (["cpu", "cuda"] as const).flatMap((on) => [
  ...modes.map(([mode, o]) => perf(on, 1, 151_936, mode, o)),
  perf(on, 16, 262_144, "top-p", { temperature: 0.7, p: 0.9 }),
]);
