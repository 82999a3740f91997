// Numbers and tables for people.

export { bytes, change, count, duration, percent } from "../words.ts";

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
