// Cells of tables as rows: what CSV holds as text and Parquet as typed values becomes what a line of JSONL would hold.

import { ExactNumber, JsonTooBig, parseJson, type JsonValue } from "../text/python_json.ts";
import { refuse } from "./flags.ts";

/** Columns that hold lists: as text they are JSON. (rows.ts reads tools as text itself.) */
const LISTS = ["messages", "conversations", "history"];

/** Text → JSON. @throws DataError of rule "json" or "depth"; `key`: the column */
export function jsonText(text: string, key: string): JsonValue {
  try {
    return parseJson(text);
  } catch (cause) {
    if (cause instanceof JsonTooBig) return refuse("depth", key, `${cause.message}; no row needs that`, cause);
    return refuse("json", key, `not JSON (${cause instanceof Error ? cause.message : String(cause)})`, cause);
  }
}

/** Cells by column, null = no value, as a row: lists given as text are parsed, an empty one is none. @throws DataError */
export function rowOfCells(cells: Iterable<readonly [column: string, cell: unknown]>): Record<string, unknown> {
  const row: [string, unknown][] = [];
  for (const [key, cell] of cells) {
    if (cell === null || cell === undefined) continue;
    const text = typeof cell === "string" ? cell.trim() : null;
    if (text !== null && LISTS.includes(key)) {
      if (text !== "") row.push([key, jsonText(text, key)]);
    } else if (text === "" && key === "tools") continue;
    else if (key === "answers" && text?.startsWith("[") === true) row.push([key, listOrText(text)]);
    else row.push([key, cell]);
  }
  return Object.fromEntries(row);
}

/** Answers of the official evaluation files; any other column may have that name. */
function listOrText(text: string): unknown {
  try {
    return parseJson(text);
  } catch {
    return text;
  }
}

/** Stands for bytes that should be text, and are not. */
export const NOT_TEXT = Symbol("not valid UTF-8");

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** UTF-8 → text; null: it is none. */
export function decodeText(bytes: Uint8Array): string | null {
  try {
    return utf8.decode(bytes);
  } catch {
    return null;
  }
}

/** A typed value as JSON would hold it. In lists and structs null is a key that a row does not have. @throws DataError not UTF-8 */
export function jsonOfTyped(value: unknown, key: string): unknown {
  if (value === NOT_TEXT) return refuse("json", key, "not valid UTF-8");
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : new ExactNumber(String(value));
  if (typeof value === "number") return Number.isFinite(value) ? value : null; // pandas writes NaN where there is no value
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (value instanceof Uint8Array) return decodeText(value); // no text: an image, say, which no row uses
  if (Array.isArray(value)) return value.map((item, i) => jsonOfTyped(item, `${key}[${i}]`));
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<unknown>, (item, i) => jsonOfTyped(item, `${key}[${i}]`));
  if (typeof value !== "object" || value === null) return value ?? null;
  const entries = Object.entries(value).map(([k, v]) => [k, jsonOfTyped(v, key === "" ? k : `${key}.${k}`)] as const);
  return Object.fromEntries(entries.filter(([, v]) => v !== null));
}
