// CSV with a header: RFC 4180 quoting, commas, UTF-8 with an optional BOM. The header names the keys of the rows; columns that hold
// lists (messages, conversations, history, tools) hold them as JSON, all else is text. Rows are known by the line that they begin in.

import { pipeline, Readable } from "node:stream";
import { DataError } from "../errors.ts";
import { dataBytes } from "./bytes.ts";
import { refuse } from "./flags.ts";
import { tried, type ReadValue } from "./lines.ts";
import { fileWords } from "./place.ts";
import { decodeText, NOT_TEXT, rowOfCells } from "./table_rows.ts";

interface CsvRecord {
  readonly record: readonly Buffer[];
  readonly info: { readonly lines: number };
}
type Cell = string | typeof NOT_TEXT;

const MAX_RECORD = 256 * 2 ** 20;

/** @throws DataError no header, or quotes that do not close: where the next row begins is not known then · IoError · AbortError */
export async function* readCsv(file: string, signal?: AbortSignal): AsyncGenerator<ReadValue> {
  let header: readonly string[] | null = null;
  let ended = 0; // the line that the last row ended in
  for await (const { record, info } of records(file, signal)) {
    const line = ended + 1;
    ended = info.lines;
    if (record.length === 1 && record[0]!.length === 0) continue; // a blank line
    const cells = record.map((cell) => decodeText(cell) ?? NOT_TEXT);
    if (header === null) header = headerOf(cells, file);
    else yield rowOf(cells, header, line, file);
  }
  if (header === null) throw fault(file, 1, "expected a header that names the columns, found an empty file");
}

function rowOf(cells: readonly Cell[], header: readonly string[], line: number, file: string): ReadValue {
  return tried(line, { file }, () => {
    const names = header.join(", ");
    if (cells.length !== header.length)
      refuse("columns", "", `expected ${header.length} columns (${names}), found ${cells.length}; quote cells that hold commas or quotes`);
    return rowOfCells(
      cells.map((cell, i) => {
        if (cell === NOT_TEXT) refuse("json", header[i]!, "not valid UTF-8");
        return [header[i]!, cell] as const;
      }),
    );
  });
}

function headerOf(cells: readonly Cell[], file: string): readonly string[] {
  const names = cells.map((cell) => (cell === NOT_TEXT ? "" : cell.trim()));
  if (cells.includes(NOT_TEXT)) throw fault(file, 1, "expected a header in UTF-8, found bytes that are none; save it as UTF-8");
  const twice = names.find((name, i) => name !== "" && names.indexOf(name) < i);
  if (twice !== undefined) throw fault(file, 1, `expected columns of different names, found ${JSON.stringify(twice)} twice; rename one`);
  const other = [";", "\t", "|"].find((c) => names.length === 1 && names[0]!.includes(c));
  if (other !== undefined)
    throw fault(file, 1, `expected columns between commas, found ${JSON.stringify(other)} between them; save it with commas`);
  return names;
}

const fault = (file: string, line: number, says: string, cause?: unknown): DataError =>
  new DataError(`${fileWords(file)}:${line}: ${says}`, { where: { file, line, rule: "csv" }, cause });

async function* records(file: string, signal: AbortSignal | undefined): AsyncGenerator<CsvRecord> {
  const { parse } = await import("csv-parse");
  const parser = parse({
    encoding: null,
    info: true,
    relax_column_count: true,
    record_delimiter: ["\r\n", "\n", "\r"],
    max_record_size: MAX_RECORD,
  });
  pipeline(Readable.from(withoutBom(dataBytes(file, signal)), { objectMode: false }), parser, () => undefined); // its errors come out of the parser
  try {
    yield* parser as AsyncIterable<CsvRecord>;
  } catch (cause) {
    const { code, lines } = cause as { readonly code?: string; readonly lines?: number };
    if (code?.startsWith("CSV_") !== true && code !== "INVALID_OPENING_QUOTE") throw cause;
    throw fault(file, lines ?? 1, MEANT[code ?? ""] ?? `not CSV (${(cause as Error).message})`, cause);
  }
}

/** Before the first name; the library would take all that follows as text. */
async function* withoutBom(bytes: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
  let head: Buffer | null = Buffer.alloc(0);
  for await (const piece of bytes) {
    if (head === null) yield piece;
    else if ((head = Buffer.concat([head, piece])).length >= 3) {
      yield head[0] === 0xef && head[1] === 0xbb && head[2] === 0xbf ? head.subarray(3) : head;
      head = null;
    }
  }
  if (head !== null && head.length > 0) yield head;
}

const MEANT: { readonly [code: string]: string } = {
  CSV_QUOTE_NOT_CLOSED: "expected a closing quote, found the end of the file; double the quotes inside of quoted cells",
  CSV_INVALID_CLOSING_QUOTE: "expected a comma or the end of the line after a closing quote; double the quotes inside of quoted cells",
  INVALID_OPENING_QUOTE: "expected no quote inside of a cell without quotes; quote the cell and double the quotes inside",
  CSV_MAX_RECORD_SIZE: `expected rows of at most ${MAX_RECORD} bytes; is a quote not closed?`,
};
