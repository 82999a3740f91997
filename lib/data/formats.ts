// Which format a data file has, and its rows: JSONL, a JSON array, CSV or Parquet, told by the ending of its name, else by the options.

import type { Format } from "../options.ts";
import { ZIPPED } from "./bytes.ts";
import { readCsv } from "./csv.ts";
import { readJsonArray } from "./json_array.ts";
import { rowsOf, readValuesFromFile, type ReadRow, type ReadValue } from "./lines.ts";
import { readParquet } from "./parquet.ts";
import type { Origin } from "./place.ts";
import type { Shape } from "./rows.ts";

const ENDINGS: { readonly [ending: string]: Format } = {
  jsonl: "jsonl",
  ndjson: "jsonl",
  jsonlines: "jsonl",
  json: "json",
  csv: "csv",
  parquet: "parquet",
};

/**
 * The ending tells (.gz or none behind it); `asked` is for names that do not, as -, and for .json files with one row per line ("jsonl").
 * Without either it is JSONL.
 */
export function formatOf(file: string, asked?: Format): Format {
  const ending = /\.(\w+)$/.exec(file.replace(ZIPPED, ""))?.[1]?.toLowerCase() ?? "";
  const told = Object.hasOwn(ENDINGS, ending) ? ENDINGS[ending] : undefined;
  return told === undefined || (told === "json" && asked === "jsonl") ? (asked ?? "jsonl") : told;
}

const READERS: { readonly [format in Format]: (file: string, signal?: AbortSignal) => AsyncGenerator<ReadValue> } = {
  jsonl: readValuesFromFile,
  json: readJsonArray,
  csv: readCsv,
  parquet: readParquet,
};

/** A file, and what the numbers of its rows count. */
export function originOf(file: string, asked?: Format): Origin {
  const format = formatOf(file, asked);
  return { file, unit: format === "json" || format === "parquet" ? "row" : "line" };
}

/** Every row of a file as it was read. @throws DataError the file as a whole cannot be read · IoError · AbortError */
export async function* readValues(file: string, asked?: Format, signal?: AbortSignal): AsyncGenerator<ReadValue> {
  yield* READERS[formatOf(file, asked)](file, signal);
}

/** Every row of a file, good or bad, in order. */
export async function* readRows(
  file: string,
  { shape, format }: { readonly shape?: Shape | undefined; readonly format?: Format | undefined } = {},
  signal?: AbortSignal,
): AsyncGenerator<ReadRow> {
  yield* rowsOf(readValues(file, format, signal), { ...originOf(file, format), shape });
}
