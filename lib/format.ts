// Numbers and tables for people.

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

type Cell = string | number;

/** Columns padded to their widest cell; the first is left-aligned, the others right-aligned unless `left` names them. */
export function table(
  header: readonly string[],
  rows: readonly (readonly Cell[])[],
  { left = [] }: { readonly left?: readonly number[] } = {},
): string {
  const all = [header, ...rows].map((row) => row.map(String));
  const width = header.map((_, c) => Math.max(...all.map((row) => displayWidth(row[c] ?? ""))));
  const padded = (cell: string, c: number): string => {
    const pad = " ".repeat(width[c]! - displayWidth(cell));
    return c === 0 || left.includes(c) ? cell + pad : pad + cell;
  };
  const [first, ...others] = all.map((row) => row.map(padded).join("  ").trimEnd());
  return [first, width.map((w) => "─".repeat(w)).join("  "), ...others].join("\n");
}

/** Name–value pairs in two columns. */
export function pairs(rows: readonly (readonly [string, Cell])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
}

// East Asian wide characters take two columns.
export function displayWidth(text: string): number {
  let n = 0;
  for (const ch of text)
    n += /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6]/.test(ch) ? 2 : 1;
  return n;
}
