// Parquet files as rows: lists and structs become what JSON would hold, no value (null) a key that the row does not have. Row groups are
// read one after the other, so that memory is one of them. Parquet is read from its end: what comes out of a pipe, or is gzip, is
// written to a temporary file first.

import { mkdtemp, open, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import type { AsyncBuffer, Compressors, FileMetaData, ParquetParsers, SchemaTree } from "hyparquet";
import { DataError, EsftError } from "../errors.ts";
import { RegularFile } from "../files/regular.ts";
import { STANDARD_INPUT } from "../files/standard_input.ts";
import { ioError, throwIfAborted } from "../task.ts";
import { dataBytes, isGzip, ZIPPED } from "./bytes.ts";
import { tried, type ReadValue } from "./lines.ts";
import { fileWords } from "./place.ts";
import { decodeText, jsonOfTyped, NOT_TEXT, rowOfCells } from "./table_rows.ts";

/** Text that is none is told at its row; JSON stays text, which the keys that mean it parse exactly. */
const text = (bytes: Uint8Array | undefined): unknown => (bytes === undefined ? undefined : (decodeText(bytes) ?? NOT_TEXT));
const PARSERS: Partial<ParquetParsers> = { stringFromBytes: text, jsonFromBytes: text };

/** Rows counted from 1. @throws DataError no Parquet, or damaged · IoError · AbortError */
export async function* readParquet(file: string, signal?: AbortSignal): AsyncGenerator<ReadValue> {
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await import("hyparquet");
  const compressors = wholePages((await import("hyparquet-compressors")).compressors);
  await using source = await seekable(file, signal);
  const buffer = bufferOf(source.file);
  const metadata = await asData(file, "", async () => {
    const found = await parquetMetadataAsync(buffer, { geoparquet: false });
    requireSound(found, parquetSchema(found));
    return found;
  });
  let row = 0;
  for (const [i, group] of metadata.row_groups.entries()) {
    throwIfAborted(signal, `reading ${file}`);
    const rows = await asData(file, ` in row group ${i + 1} of ${metadata.row_groups.length} (from row ${row + 1} on)`, () => {
      const one: FileMetaData = { ...metadata, num_rows: group.num_rows, row_groups: [group] };
      return parquetReadObjects({ file: buffer, metadata: one, compressors, parsers: PARSERS as ParquetParsers, utf8: false });
    });
    for (const cells of rows)
      yield tried(++row, { file, unit: "row" }, () =>
        rowOfCells(Object.entries(cells).map(([key, cell]) => [key, jsonOfTyped(cell, key)])),
      );
  }
}

/** Gzip and Brotli by Node, which ends on damaged bytes; a page of nothing is nothing, which the library's LZ4 takes as damaged. */
function wholePages(compressors: Compressors): Compressors {
  const all: Compressors = {
    ...compressors,
    GZIP: (input, length) => gunzipSync(input, { maxOutputLength: length }),
    BROTLI: (input, length) => brotliDecompressSync(input, { maxOutputLength: length }),
  };
  const whole = Object.entries(all).map(
    ([codec, unzip]) => [codec, (input: Uint8Array, length: number) => (length === 0 ? new Uint8Array(0) : unzip(input, length))] as const,
  );
  return Object.fromEntries(whole);
}

/** What the library throws is about the file; what reading it throws, of its own. */
async function asData<T>(file: string, where: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    if (cause instanceof EsftError) throw cause;
    const says = cause instanceof Error ? cause.message : String(cause);
    throw new DataError(
      `${fileWords(file)}: expected Parquet, found what cannot be read as such${where}: ${says}; copy or write it again`,
      {
        where: { file, rule: "parquet" },
        cause,
      },
    );
  }
}

/** A row group is held as a whole, and no memory holds more rows than these; a number beyond is a damaged one, mostly. */
const MAX_ROWS = 2 ** 24;

/**
 * Each column of a row group has its own place in the schema (without that the library would begin columns that it never waits for, and
 * what they throw would end the process), and the rows of a group are as many as its columns and the file say: the library makes as
 * many as it is told, however long that takes.
 */
function requireSound({ num_rows: all, row_groups: groups }: FileMetaData, schema: SchemaTree): void {
  /** By the path of a column: may a row have several of its values? */
  const leaves = new Map<string, boolean>();
  const walk = (node: SchemaTree, above: boolean): void => {
    const repeated = above || node.element.repetition_type === "REPEATED";
    if (node.children.length === 0) leaves.set(JSON.stringify(node.path), repeated);
    for (const child of node.children) walk(child, repeated);
  };
  walk(schema, false);
  let sum = 0n;
  for (const { columns, num_rows: rows } of groups) {
    if (!(rows >= 0n && rows <= MAX_ROWS))
      throw new Error(`it names a row group of ${rows} rows, expected at most ${MAX_ROWS} (in pyarrow row_group_size=100000)`);
    sum += rows;
    const seen = new Set<string>();
    for (const { meta_data: of } of columns) {
      const path = JSON.stringify(of?.path_in_schema);
      const repeated = leaves.get(path);
      if (of === undefined || repeated === undefined || seen.has(path)) throw new Error(`column ${path} is not one of its schema`);
      if (repeated ? of.num_values < rows : of.num_values !== rows)
        throw new Error(`column ${path} has ${of.num_values} values in a row group of ${rows} rows`);
      seen.add(path);
    }
  }
  if (sum !== all) throw new Error(`its row groups have ${sum} rows, and it as a whole ${all}`);
}

function bufferOf(file: RegularFile): AsyncBuffer {
  const { size } = file;
  const read = async (from: number, to: number): Promise<ArrayBuffer> => {
    // The places stand in the file itself, which may be damaged.
    if (!(from >= 0 && from <= to && to <= size)) throw new Error(`it names bytes ${from} to ${to} of ${size}`);
    return (await file.read(from, to)).buffer;
  };
  return {
    byteLength: size,
    slice: (from, to = size) => {
      const bytes = read(from, to);
      bytes.catch(() => undefined); // the library begins all reads at once, and may give up before it waits for each
      return bytes;
    },
  };
}

/** The file itself, or a copy of what can be read once only. */
async function seekable(file: string, signal: AbortSignal | undefined): Promise<AsyncDisposable & { readonly file: RegularFile }> {
  const once = file === STANDARD_INPUT || ZIPPED.test(file) || (await stat(file).then((s) => s.isFIFO(), () => false)); // prettier-ignore
  if (!once) {
    const opened = await RegularFile.open(file);
    if (!isGzip(await opened.read(0, Math.min(2, opened.size)))) return { file: opened, [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose]() }; // prettier-ignore
    await opened[Symbol.asyncDispose]();
  }
  const folder = await mkdtemp(join(tmpdir(), "esft-parquet-"));
  try {
    const copy = join(folder, "rows.parquet");
    await using out = await open(copy, "wx").catch((error: unknown) => {
      throw ioError(error, `cannot write ${copy}`, { file: copy });
    });
    for await (const piece of dataBytes(file, signal))
      await out.write(piece).catch((error: unknown) => {
        throw ioError(error, `cannot write ${copy}`, { file: copy });
      });
    const opened = await RegularFile.open(copy);
    return {
      file: opened,
      [Symbol.asyncDispose]: async () => {
        await opened[Symbol.asyncDispose]();
        await rm(folder, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}
