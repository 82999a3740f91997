// Numbers as people read them: sizes, counts, shares, times.

/** n in the largest of the units (thousands, millions …) that leaves at most three digits. */
function scaled(n: number, units: readonly string[]): { readonly value: number; readonly unit: string } {
  const power = units.findIndex((_, i) => Math.abs(n) < 999.5 * 1000 ** (i + 1));
  const i = power < 0 ? units.length - 1 : power;
  return { value: n / 1000 ** (i + 1), unit: units[i]! };
}

export function bytes(n: number): string {
  if (n < 1000) return `${n} B`;
  const { value, unit } = scaled(n, ["kB", "MB", "GB", "TB"]);
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${unit}`;
}

/** 12 345 → "12.3k". */
export function count(n: number): string {
  if (Math.abs(n) < 10_000) return String(Math.round(n));
  const { value, unit } = scaled(n, ["k", "M", "B", "T"]);
  return value.toFixed(value < 100 ? 1 : 0) + unit;
}

/** A difference with its sign. */
export const change = (x: number, digits: number): string => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(digits)}`;

export const percent = (share: number): string => `${(100 * share).toFixed(share < 0.1 ? 2 : share === 1 ? 0 : 1)} %`;

export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const s = Math.round(seconds);
  if (s < 60) return `${seconds < 10 ? seconds.toFixed(1) : s} s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${String(s % 60).padStart(2, "0")}s`;
  return `${Math.floor(s / 3600)}h${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
}
