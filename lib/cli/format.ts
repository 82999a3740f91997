// Numbers and tables for people.

export function bytes(n: number): string {
  if (n < 1000) return `${n} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let value = n / 1000;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)} ${units[unit]}`;
}

/** 12 345 → "12.3k". */
export function count(n: number): string {
  if (Math.abs(n) < 10_000) return String(Math.round(n));
  const units = ["k", "M", "B", "T"];
  let value = n / 1000;
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value < 100 ? value.toFixed(1) : value.toFixed(0)}${units[unit]}`;
}

export const percent = (share: number): string => `${(100 * share).toFixed(share < 0.1 ? 2 : share === 1 ? 0 : 1)} %`;

export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const s = Math.round(seconds);
  if (s < 60) return `${seconds < 10 ? seconds.toFixed(1) : s} s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${String(s % 60).padStart(2, "0")}s`;
  return `${Math.floor(s / 3600)}h${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
}

export type Cell = string | number;

/** Columns padded to their widest cell; the first is left-aligned, the others right-aligned unless `left` names them. */
export function table(
  header: readonly string[],
  rows: readonly (readonly Cell[])[],
  options: { readonly left?: readonly number[]; readonly indent?: string } = {},
): string {
  const all = [header, ...rows].map((row) => row.map(String));
  const width = header.map((_, c) => Math.max(...all.map((row) => displayWidth(row[c] ?? ""))));
  const isLeft = (c: number): boolean => c === 0 || (options.left?.includes(c) ?? false);
  const line = (row: readonly string[]): string =>
    (options.indent ?? "") +
    header
      .map((_, c) => {
        const cell = row[c] ?? "";
        const pad = " ".repeat(width[c]! - displayWidth(cell));
        return isLeft(c) ? cell + pad : pad + cell;
      })
      .join("  ")
      .trimEnd();
  return [line(all[0]!), (options.indent ?? "") + width.map((w) => "─".repeat(w)).join("  "), ...all.slice(1).map(line)].join("\n");
}

/** Name–value pairs in two columns. */
export function pairs(rows: readonly (readonly [string, Cell])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
}

// East Asian wide characters take two columns.
function displayWidth(text: string): number {
  let n = 0;
  for (const ch of text)
    n += /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6]/.test(ch) ? 2 : 1;
  return n;
}
