// JSONL: bytes → lines → rows. UTF-8 with an optional BOM, LF or CRLF; blank lines are skipped but counted; lines count from 1.

import { DataError } from "../errors.ts";
import { pythonStrip } from "../text/python_text.ts";
import type { JsonValue } from "../text/python_json.ts";
import { dataBytes } from "./bytes.ts";
import { refuse } from "./flags.ts";
import { fileWords, placeIn, type Origin } from "./place.ts";
import { normaliseRow, type Row, type Shape } from "./rows.ts";
import { decodeText, jsonText } from "./table_rows.ts";

export type GoodRow = { readonly ok: true; readonly line: number; readonly row: Row };
export type BadRow = { readonly ok: false; readonly line: number; readonly error: DataError };
export type ReadRow = GoodRow | BadRow;
/** A row as it was read, before anybody judges its keys. */
export type ReadValue = { readonly ok: true; readonly line: number; readonly value: unknown } | BadRow;

interface RowSource {
  readonly shape?: Shape | undefined;
  /** The file's name, for errors, and what `line` counts in it. */
  readonly file?: string | null | undefined;
  readonly unit?: Origin["unit"] | undefined;
}

/** One line of JSONL; null for a blank one. A bad line comes back as an error that names file and line. */
export function readRow(text: string, line: number, source: RowSource = {}): ReadRow | null {
  if (pythonStrip(text) === "") return null;
  return guarded(line, source, () => normaliseRow(parseLine(text), source.shape));
}

/** JSON of a row. @throws DataError */
export const parseLine = (text: string): JsonValue => jsonText(text, "");

function guarded(line: number, source: RowSource, read: () => Row): ReadRow {
  const found = tried(line, source, read);
  return found.ok ? { ok: true, line, row: found.value } : found;
}

/** What `read` makes of a row, or its complaint with the row's place. */
export function tried<T>(
  line: number,
  source: Omit<RowSource, "shape">,
  read: () => T,
): { readonly ok: true; readonly line: number; readonly value: T } | BadRow {
  try {
    return { ok: true, line, value: read() };
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    return { ok: false, line, error: locate(error, line, source.file, source.unit) };
  }
}

/** Values as rows, by their keys or by the shape that is asked for. */
export async function* rowsOf(values: AsyncIterable<ReadValue> | Iterable<ReadValue>, source: RowSource): AsyncGenerator<ReadRow> {
  for await (const read of values) yield read.ok ? guarded(read.line, source, () => normaliseRow(read.value, source.shape)) : read;
}

/** The same complaint with its place: "file:line: …". */
export function locate(error: DataError, line: number, file: string | null | undefined, unit: Origin["unit"] = "line"): DataError {
  const where = { ...error.where, ...(typeof file === "string" ? { file } : {}), line };
  return new DataError(`${placeIn({ file: file ?? null, unit }, line)}: ${error.message}`, { cause: error.cause, where });
}

/** Rows given as objects, numbered from 1. */
export function* readObjects(values: readonly unknown[], source: RowSource = {}): Generator<ReadRow> {
  for (const [i, value] of values.entries()) yield guarded(i + 1, source, () => normaliseRow(value, source.shape));
}

/** Bytes of a line, or of a row. */
export const MAX_LINE = 256 * 2 ** 20;

/** The rows of a file of lines. Invalid UTF-8 makes its line bad, not the file. */
export async function* readRowsFromFile(
  file: string,
  source: RowSource = {},
  signal?: AbortSignal,
  maxLine = MAX_LINE,
): AsyncGenerator<ReadRow> {
  yield* rowsOf(readValuesFromFile(file, signal, maxLine), { ...source, file });
}

/** Streams the lines of a file as the JSON that they are: memory is one line, whatever the size of the file. */
export async function* readValuesFromFile(file: string, signal?: AbortSignal, maxLine = MAX_LINE): AsyncGenerator<ReadValue> {
  for await (const { line, text } of textLines(file, signal, maxLine))
    if (text === null || pythonStrip(text) !== "") yield tried(line, { file }, () => (text === null ? notText() : parseLine(text)));
}

/** A row of bytes that are no text. */
export const notText = (): never => refuse("json", "", "not valid UTF-8");

/** Lines counted from 1; null: not UTF-8. */
async function* textLines(
  file: string,
  signal: AbortSignal | undefined,
  maxLine: number,
): AsyncGenerator<{ readonly line: number; readonly text: string | null }> {
  let line = 0;
  for await (const bytes of fileLines(file, signal, maxLine)) {
    line++;
    yield { line, text: decodeText(line === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes) };
  }
}

async function* fileLines(file: string, signal: AbortSignal | undefined, maxLine: number): AsyncGenerator<Uint8Array> {
  let parts: Buffer[] = [];
  let held = 0;
  for await (const chunk of dataBytes(file, signal)) {
    let at = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, at)) {
      yield parts.length === 0 ? chunk.subarray(at, end) : Buffer.concat([...parts, chunk.subarray(at, end)]);
      parts = [];
      held = 0;
      at = end + 1;
    }
    parts.push(chunk.subarray(at));
    held += chunk.length - at;
    if (held > maxLine)
      throw new DataError(`${fileWords(file)}: a line is longer than ${maxLine} bytes; is this JSONL?`, { where: { file, rule: "json" } });
  }
  yield Buffer.concat(parts); // a blank line where the last one ended
}
