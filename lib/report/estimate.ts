// Mean and deviation of the values of a few runs.

export interface Mean {
  readonly mean: number;
  /** Of the sample, n − 1 in the denominator; null of one value. */
  readonly sd: number | null;
  readonly n: number;
}

/** Of the values that are there; null where there is none. */
export function meanOf(all: readonly (number | null)[]): Mean | null {
  const values = all.filter((v) => v !== null);
  const n = values.length;
  if (n === 0) return null;
  const mean = values.reduce((a, b) => a + b, 0) / n;
  const sd = n === 1 ? null : Math.sqrt(values.reduce((s, v) => s + (v - mean) ** 2, 0) / (n - 1));
  return { mean, sd, n };
}
