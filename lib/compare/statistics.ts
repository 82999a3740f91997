// Means, spreads and paired differences over repetitions: sums in the order given, so that the same values are the same bits.

import type { Estimate } from "./result.ts";

type Values = readonly (number | null | undefined)[];

/** Of the values that are there; null of none. */
export function meanOf(all: Values): number | null {
  const values = all.filter((x) => x !== null && x !== undefined);
  return values.length === 0 ? null : values.reduce((sum, x) => sum + x, 0) / values.length;
}

/** Mean and standard deviation of the sample (n − 1 in the denominator) of the values that are there; null of none. */
export function estimate(all: Values): Estimate | null {
  const values = all.filter((x) => x !== null && x !== undefined);
  const mean = meanOf(values);
  if (mean === null) return null;
  const n = values.length;
  const squares = values.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  return { mean, sd: n === 1 ? null : Math.sqrt(squares / (n - 1)), n };
}

/**
 * Mean of all values; the standard deviation of those of one group around their own mean, pooled over the groups: what repetitions differ
 * by, and not what the groups do. Null of none; sd null where no group has two.
 */
export function estimateWithin(groups: readonly Values[]): Estimate | null {
  const all = groups.map(estimate).filter((of) => of !== null);
  const whole = estimate(groups.flat());
  if (whole === null) return null;
  const freedom = all.reduce((sum, { n }) => sum + n - 1, 0);
  const squares = all.reduce((sum, { sd, n }) => sum + (sd ?? 0) ** 2 * (n - 1), 0);
  return { ...whole, sd: freedom === 0 ? null : Math.sqrt(squares / freedom) };
}

export interface PairedDifference extends Estimate {
  /** Bounds of the confidence interval; null of one pair. */
  readonly low: number | null;
  readonly high: number | null;
}

/** Of a[i] − b[i]: mean ± t · sd / √n, with t the quantile of Student's distribution of n − 1 degrees of freedom. */
export function pairedDifference(a: readonly number[], b: readonly number[], confidence = 0.95): PairedDifference | null {
  const of = estimate(a.map((x, i) => x - b[i]!));
  if (of === null) return null;
  if (of.sd === null) return { ...of, low: null, high: null };
  const half = (studentQuantile((1 + confidence) / 2, of.n - 1) * of.sd) / Math.sqrt(of.n);
  return { ...of, low: of.mean - half, high: of.mean + half };
}

/** The t that Student's distribution stays below with probability p, ½ ≤ p < 1. */
export function studentQuantile(p: number, freedom: number): number {
  const above = 2 * (1 - p); // P(|T| > t) = I_x(ν/2, ½) at x = ν / (ν + t²)
  let [low, high] = [0, 1];
  while (bothTails(high, freedom) > above) [low, high] = [high, 2 * high];
  for (let middle = (low + high) / 2; low < middle && middle < high; middle = (low + high) / 2)
    if (bothTails(middle, freedom) > above) low = middle;
    else high = middle;
  return high;
}

const bothTails = (t: number, freedom: number): number => incompleteBeta(freedom / (freedom + t * t), freedom / 2, 0.5);

/** The regularised incomplete beta function I_x(a, b), by its continued fraction (Abramowitz and Stegun, 26.5.8). */
function incompleteBeta(x: number, a: number, b: number): number {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  // The fraction converges fast below the mean of the distribution; above it the symmetry I_x(a, b) = 1 − I_{1−x}(b, a) helps.
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const front = Math.exp(a * Math.log(x) + b * Math.log1p(-x) - logGamma(a) - logGamma(b) + logGamma(a + b)) / a;
  // 1/(1+ d1/(1+ d2/(1+ …))) by the modified method of Lentz.
  let [f, c, d] = [1, 1, 0];
  for (let i = 0; i < 500; i++) {
    const m = i >> 1;
    const term =
      i === 0
        ? 1
        : i % 2 === 0
          ? (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m))
          : -((a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / away(1 + term * d);
    c = away(1 + term / c);
    f *= c * d;
    if (Math.abs(1 - c * d) < 1e-15) break;
  }
  return front * (f - 1);
}

/** A value that can be divided by. */
const away = (x: number): number => (Math.abs(x) < 1e-300 ? 1e-300 : x);

/** ln Γ(x), x > 0: Stirling's series after the recurrence has brought x above 10, where five terms are exact to 1e-15. */
function logGamma(x: number): number {
  let [shift, z] = [0, x];
  while (z < 10) shift -= Math.log(z++);
  const r = 1 / (z * z);
  const series = (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r * (1 / 1680 - r * (1 / 1188 - r * (691 / 360360)))))) / z;
  return shift + (z - 0.5) * Math.log(z) - z + 0.5 * Math.log(2 * Math.PI) + series;
}
