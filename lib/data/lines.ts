// JSONL: bytes → lines → rows. UTF-8 with an optional BOM, LF or CRLF; blank lines are skipped but counted; lines count from 1.

import { DataError } from "../errors.ts";
import { streamFile } from "../files/regular.ts";
import { refuse } from "./flags.ts";
import { pythonStrip } from "../text/python_text.ts";
import { JsonTooBig, parseJson, type JsonValue } from "../text/python_json.ts";
import { normaliseRow, type Row, type Shape } from "./rows.ts";

export type GoodRow = { readonly ok: true; readonly line: number; readonly row: Row };
export type BadRow = { readonly ok: false; readonly line: number; readonly error: DataError };
export type ReadRow = GoodRow | BadRow;
/** A row as it was read, before anybody judges its keys. */
export type ReadValue = { readonly ok: true; readonly line: number; readonly value: unknown } | BadRow;

interface RowSource {
  readonly shape?: Shape | undefined;
  /** The file's name, for errors. */
  readonly file?: string | undefined;
}

/** One line of JSONL; null for a blank one. A bad line comes back as an error that names file and line. */
export function readRow(text: string, line: number, source: RowSource = {}): ReadRow | null {
  if (pythonStrip(text) === "") return null;
  return guarded(line, source, () => normaliseRow(parseLine(text), source.shape));
}

function parseLine(text: string): JsonValue {
  try {
    return parseJson(text);
  } catch (cause) {
    if (cause instanceof JsonTooBig) return refuse("depth", "", `${cause.message}; no row needs that`, cause);
    return refuse("json", "", `not JSON (${cause instanceof Error ? cause.message : String(cause)})`, cause);
  }
}

function guarded(line: number, source: RowSource, read: () => Row): ReadRow {
  const found = tried(line, source.file, read);
  return found.ok ? { ok: true, line, row: found.value } : found;
}

/** What `read` makes of a line, or its complaint with the line's place. */
function tried<T>(
  line: number,
  file: string | undefined,
  read: () => T,
): { readonly ok: true; readonly line: number; readonly value: T } | BadRow {
  try {
    return { ok: true, line, value: read() };
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    return { ok: false, line, error: locate(error, line, file) };
  }
}

/** The same complaint with its place: "file:line: …". */
export function locate(error: DataError, line: number, file: string | undefined): DataError {
  const place = file === undefined ? `row ${line}` : `${file}:${line}`;
  const where = { ...error.where, ...(file === undefined ? {} : { file }), line };
  return new DataError(`${place}: ${error.message}`, { cause: error.cause, where });
}

/** Rows given as objects, numbered from 1. */
export function* readObjects(values: readonly unknown[], source: RowSource = {}): Generator<ReadRow> {
  for (const [i, value] of values.entries()) yield guarded(i + 1, source, () => normaliseRow(value, source.shape));
}

const MAX_LINE = 256 * 2 ** 20;

/** Streams a file: memory is one line, whatever the size of the file. Invalid UTF-8 makes its line bad, not the file. */
export async function* readRowsFromFile(
  file: string,
  source: RowSource = {},
  signal?: AbortSignal,
  maxLine = MAX_LINE,
): AsyncGenerator<ReadRow> {
  const named: RowSource = { ...source, file };
  for await (const { line, text } of textLines(file, signal, maxLine)) {
    const row = text === null ? guarded(line, named, notText) : readRow(text, line, named);
    if (row !== null) yield row;
  }
}

/** The same lines as the JSON that they are. */
export async function* readValuesFromFile(file: string, signal?: AbortSignal): AsyncGenerator<ReadValue> {
  for await (const { line, text } of textLines(file, signal, MAX_LINE))
    if (text === null || pythonStrip(text) !== "") yield tried(line, file, () => (text === null ? notText() : parseLine(text)));
}

const notText = (): never => refuse("json", "", "not valid UTF-8");

/** Lines counted from 1; null: not UTF-8. */
async function* textLines(
  file: string,
  signal: AbortSignal | undefined,
  maxLine: number,
): AsyncGenerator<{ readonly line: number; readonly text: string | null }> {
  let line = 0;
  for await (const bytes of fileLines(file, signal, maxLine)) {
    line++;
    yield { line, text: decode(line === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes) };
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decode(bytes: Uint8Array): string | null {
  try {
    return utf8.decode(bytes);
  } catch {
    return null;
  }
}

async function* fileLines(file: string, signal: AbortSignal | undefined, maxLine: number): AsyncGenerator<Uint8Array> {
  let parts: Buffer[] = [];
  let held = 0;
  for await (const chunk of streamFile(file, signal)) {
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
      throw new DataError(`${file}: a line is longer than ${maxLine} bytes; is this JSONL?`, { where: { file, rule: "json" } });
  }
  yield Buffer.concat(parts); // a blank line where the last one ended
}
