// Which K experts each token takes, at sizes that matter. The popularity of the experts is fixed by quantiles, not drawn, so that the peer's routing has
// the same loads; only the tokens' choices are random.
//
//   uniform        K different experts at random
//   balanced       round robin: every expert the same number of rows
//   lognormalσ     popularity exp(σ·z) with z the normal quantiles (0.7 and 1.0 match the published expert scores of ESFT tasks)
//   extreme        every token takes the same K experts, the others have no rows

import { ConfigError } from "../../lib/errors.ts";

export interface Routing {
  /** [T, K]. */
  readonly ids: Int32Array;
  /** [T, K], positive, Σ over K near 1. */
  readonly weights: Float32Array;
  /** [T · K]: the token behind every row, sorted by expert. */
  readonly tokens: Int32Array;
  /** Rows of each expert. */
  readonly counts: readonly number[];
}

/** mulberry32. */
function uniforms(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Φ⁻¹(p) by bisection of a rational approximation of Φ (Abramowitz and Stegun 26.2.17): more than enough for loads. */
export function normalQuantile(p: number): number {
  const tail = (z: number): number => {
    const t = 1 / (1 + 0.2316419 * z);
    const poly = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
    return (poly * Math.exp((-z * z) / 2)) / Math.sqrt(2 * Math.PI);
  };
  if (p > 0.5) return -normalQuantile(1 - p);
  let [low, high] = [0, 10];
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (tail(middle) > p) low = middle;
    else high = middle;
  }
  return -low;
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

/** Expert of popularity rank r: hot experts are spread over the numbers. */
function spread(E: number): (rank: number) => number {
  let step = Math.max(1, Math.round(E * 0.382));
  while (gcd(step, E) !== 1) step++;
  return (rank) => (rank * step) % E;
}

const made = new Map<string, Routing>();

/** @throws ConfigError unknown kind */
export function route(kind: string, T: number, E: number, K: number): Routing {
  const key = `${kind} ${T} ${E} ${K}`;
  const known = made.get(key);
  if (known) return known;
  const random = uniforms(T * 31 + E * 7 + K);
  const ids = new Int32Array(T * K);
  const expert = spread(E);
  const sigma = kind === "uniform" ? 0 : Number(/^lognormal(\d+(?:\.\d+)?)$/.exec(kind)?.[1] ?? Number.NaN);
  if (kind === "balanced") {
    for (let i = 0; i < ids.length; i++) ids[i] = i % E;
  } else if (kind === "extreme") {
    for (let i = 0; i < ids.length; i++) ids[i] = expert(i % K);
  } else {
    if (Number.isNaN(sigma)) throw new ConfigError(`unknown routing "${kind}"`);
    // Gumbel top-K of the log popularity: K draws without replacement.
    const logit = new Float64Array(E);
    for (let r = 0; r < E; r++) logit[expert(r)] = sigma * normalQuantile(1 - (r + 0.5) / E);
    const score = new Float64Array(E);
    for (let t = 0; t < T; t++) {
      for (let e = 0; e < E; e++) score[e] = logit[e]! - Math.log(-Math.log(random() + 1e-12));
      for (let k = 0; k < K; k++) {
        let best = 0;
        for (let e = 1; e < E; e++) if (score[e]! > score[best]!) best = e;
        ids[t * K + k] = best;
        score[best] = Number.NEGATIVE_INFINITY;
      }
    }
  }
  const counts = Array.from({ length: E }, () => 0);
  for (const e of ids) counts[e]!++;
  const tokens = new Int32Array(T * K);
  let begin = 0;
  const next = counts.map((n) => (begin += n) - n);
  for (let i = 0; i < ids.length; i++) tokens[next[ids[i]!]!++] = Math.floor(i / K);
  const routing = { ids, weights: Float32Array.from(ids, () => (0.5 + random()) / K), tokens, counts };
  made.set(key, routing);
  return routing;
}

/** The n experts with the most rows, ascending by number. */
export function hottest(counts: readonly number[], n: number): number[] {
  return counts
    .map((rows, e) => ({ rows, e }))
    .sort((a, b) => b.rows - a.rows || a.e - b.e)
    .slice(0, n)
    .map(({ e }) => e)
    .sort((a, b) => a - b);
}

export function routingFacts(counts: readonly number[], trained: readonly number[]): Record<string, number> {
  const total = counts.reduce((a, b) => a + b, 0);
  return {
    maxOverMean: (Math.max(...counts) * counts.length) / total,
    trainedRowShare: trained.reduce((n, e) => n + counts[e]!, 0) / total,
  };
}
