// Where a row stands, in words: the line of a file of lines, else the number of the row.

/** What rows come from, and what their numbers count, from 1. */
export interface Origin {
  /** Null: rows of a program. */
  readonly file: string | null;
  /** A JSON array and Parquet have rows, JSONL and CSV have lines. */
  readonly unit: "line" | "row";
}

/** "rows.jsonl:3", "rows.parquet: row 3", "row 3". */
export function placeIn({ file, unit }: Origin, n: number): string {
  if (file === null) return `row ${n}`;
  return unit === "line" ? `${fileWords(file)}:${n}` : `${fileWords(file)}: row ${n}`;
}

/** The file's name for people. */
export const fileWords = (file: string): string => (file === "-" ? "standard input" : file);
