// A dataset: rows from a file or from memory → encoded examples, with every bad row reported by file and line.

import { listArgument, optionsArgument, pathArgument, wholeArgument } from "../arguments.ts";
import { basename } from "node:path";
import { AbortError, ConfigError, DataError } from "../errors.ts";
import { FORMATS, shown, type Format } from "../options.ts";
import { ExampleBuilder, type Examples } from "./examples.ts";
import { givenRows, type GivenRows } from "./given_rows.ts";
import { originOf, readValues } from "./formats.ts";
import { locate, rowsOf, type BadRow, type GoodRow, type ReadRow, type ReadValue } from "./lines.ts";
import { fileWords, type Origin } from "./place.ts";
import { previewTokens, type Preview } from "./preview.ts";
import { rowEncoder, type EncodedRow, type EncodingOptions, type RowEncoder } from "./row_encoder.ts";
import type { Shape } from "./rows.ts";

export type { EncodingOptions };

export interface DatasetOptions {
  /** Forces a shape; without it each row's keys decide. "text" is never guessed. */
  readonly shape?: Shape | undefined;
  /** What a bad row does: refuse the dataset (default), or be left out and counted. */
  readonly onBadRow?: "error" | "skip" | undefined;
}

export interface FileOptions extends DatasetOptions {
  /** Of a file whose name does not tell it (.jsonl, .json, .csv, .parquet; .gz or not), default "jsonl". */
  readonly format?: Format | undefined;
}

export interface ReadingOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (progress: { readonly rows: number; readonly tokens: number }) => void;
  /** Asked before so many more bytes of memory are taken; throws when they are not there. */
  readonly room?: ((bytes: number) => Promise<void>) | undefined;
  /** Bad rows that the report keeps with their errors (default 100); all are counted. */
  readonly maxErrors?: number;
}

export interface EncodedRows {
  readonly examples: Examples;
  readonly report: DatasetReport;
}

export interface DatasetReport {
  readonly file: string | null;
  readonly rows: number;
  readonly good: number;
  readonly bad: number;
  /** Bad rows by code. */
  readonly codes: Readonly<Record<string, number>>;
  readonly shapes: Readonly<Record<string, number>>;
  /** The first bad rows, in order. */
  readonly errors: readonly DataError[];
  /** Rows by warning: stop-untrained, adapted, dropped, empty-answer. */
  readonly warnings: Readonly<Record<string, number>>;
}

type Counts = Record<string, number>;
type Values = (signal?: AbortSignal) => AsyncIterable<ReadValue> | Iterable<ReadValue>;

const KEPT_ERRORS = 100;
const SHOWN_ERRORS = 10;
const YIELD_EVERY = 256;
const IN_MEMORY: Origin = { file: null, unit: "row" };

export class Dataset {
  readonly file: string | null;
  readonly shape: Shape | undefined;
  readonly onBadRow: "error" | "skip";
  /** Where its rows come from, and what their numbers count. */
  readonly origin: Origin;
  readonly #values: Values;

  private constructor(origin: Origin, options: DatasetOptions, values: Values) {
    const bad = options.onBadRow ?? "error";
    if (bad !== "error" && bad !== "skip")
      throw new ConfigError(`onBadRow must be "error" or "skip", not ${JSON.stringify(bad)}`, { where: { key: "onBadRow" } });
    this.origin = origin;
    this.file = origin.file;
    this.shape = options.shape;
    this.onBadRow = bad;
    this.#values = values;
  }

  /** A file of rows: JSONL, a JSON array, CSV or Parquet, gzip or not; "-" is standard input. Nothing is read before it is needed. */
  static fromFile(file: string, asked: FileOptions = {}): Dataset {
    pathArgument(file, "Dataset.fromFile: file");
    const options = optionsArgument(asked, "Dataset.fromFile: options");
    const { format } = options;
    if (format !== undefined && !FORMATS.includes(format))
      throw new ConfigError(
        `Dataset.fromFile: options.format: expected ${FORMATS.map((f) => `"${f}"`).join(" or ")}, found ${shown(format)}`,
        {
          where: { key: "format" },
        },
      );
    return new Dataset(originOf(file, format), options, (signal) => readValues(file, format, signal));
  }

  /** Rows as objects of any supported shape. */
  static fromRows(rows: Iterable<unknown>, asked: DatasetOptions = {}): Dataset {
    const kept = listArgument(rows, "Dataset.fromRows: rows");
    const options = optionsArgument(asked, "Dataset.fromRows: options");
    return new Dataset(IN_MEMORY, options, () => kept.map((value, i) => ({ ok: true, line: i + 1, value })));
  }

  /**
   * Rows as they come, none kept: an iterable or async iterable, or a function that makes one. What is no list is read once, so that a
   * function is what can be linted and then trained on.
   */
  static from(rows: GivenRows, asked: DatasetOptions = {}): Dataset {
    const options = optionsArgument(asked, "Dataset.from: options");
    return new Dataset(IN_MEMORY, options, givenRows(rows, "Dataset.from: rows"));
  }

  /** Every row, good or bad, in order. */
  async *rows(signal?: AbortSignal): AsyncGenerator<ReadRow> {
    yield* rowsOf(this.#values(signal), { ...this.origin, shape: this.shape });
  }

  /** Every row as it was read, for readers of shapes of their own. */
  async *values(signal?: AbortSignal): AsyncGenerator<ReadValue> {
    yield* this.#values(signal);
  }

  /** Reads everything and reports; with a tokenizer the rows are encoded too, which finds what only the template can refuse. */
  async lint(encoding?: EncodingOptions, reading: ReadingOptions = {}): Promise<DatasetReport> {
    return await this.#readAll(new ExampleBuilder(), encoding === undefined ? null : rowEncoder(encoding), reading);
  }

  /** All rows as token ids with labels. Bad rows refuse the whole dataset unless onBadRow is "skip". */
  async encode(encoding: EncodingOptions, reading: ReadingOptions = {}): Promise<EncodedRows> {
    const builder = new ExampleBuilder();
    const report = await this.encodeInto(builder, encoding, reading);
    await reading.room?.(builder.buildBytes);
    return { examples: builder.build(this.origin), report };
  }

  /** The same behind what a builder holds already. */
  async encodeInto(builder: ExampleBuilder, encoding: EncodingOptions, reading: ReadingOptions = {}): Promise<DatasetReport> {
    const report = await this.#readAll(builder, rowEncoder(encoding), reading);
    if (report.bad > 0 && this.onBadRow === "error") throw summary(report);
    if (report.good === 0) throw noUsableRow(report);
    return report;
  }

  /** Without an encoder no row becomes an example. */
  async #readAll(builder: ExampleBuilder, encoder: RowEncoder | null, reading: ReadingOptions): Promise<DatasetReport> {
    optionsArgument(reading, "dataset: reading");
    const { maxErrors = KEPT_ERRORS } = reading;
    const { file } = this;
    const [codes, shapes, warnings] = [{}, {}, {}] as [Counts, Counts, Counts];
    const errors: DataError[] = [];
    const report = { file, rows: 0, good: 0, bad: 0, codes, shapes, errors, warnings };
    let tokens = 0;
    const count = (table: Counts, key: string): void => void (table[key] = (table[key] ?? 0) + 1);
    for await (const read of this.rows(reading.signal)) {
      if (reading.signal?.aborted === true)
        throw new AbortError(`reading ${file === null ? "the rows" : fileWords(file)} was stopped after ${report.rows} rows`, {
          cause: reading.signal.reason,
        });
      report.rows++;
      const item = encoder === null || !read.ok ? { ...read, example: null } : await encodeRow(read, encoder, this.origin);
      if (item.ok) {
        report.good++;
        count(shapes, item.row.shape);
        if (item.example !== null) {
          const more = builder.growth(item.example.inputIds.length);
          if (more > 0) await reading.room?.(more);
          builder.add(item.example, item.line);
          tokens += item.example.inputIds.length;
          for (const code of item.example.warnings) count(warnings, code);
        }
      } else {
        report.bad++;
        count(codes, String(item.error.where["rule"]));
        if (errors.length < maxErrors) errors.push(item.error);
      }
      if (report.rows % YIELD_EVERY === 0) {
        reading.onProgress?.({ rows: report.rows, tokens });
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    return report;
  }

  /** The first n usable rows as tokens with what is supervised; throws on a bad one, and when there is none, as encode does. */
  async preview(n: number, encoding: EncodingOptions): Promise<Preview[]> {
    wholeArgument(n, "preview: n");
    const encoder = rowEncoder(encoding);
    const out: Preview[] = [];
    if (n <= 0) return out;
    let rows = 0;
    for await (const read of this.rows()) {
      rows++;
      const item = read.ok ? await encodeRow(read, encoder, this.origin) : read;
      if (!item.ok) {
        if (this.onBadRow === "error") throw item.error;
        continue;
      }
      const { line, row, example } = item;
      const { unit } = this.origin;
      out.push({ line, unit, shape: row.shape, tokens: previewTokens(example, encoding.tokenizer), warnings: example.warnings });
      if (out.length >= n) break;
    }
    if (out.length === 0) throw noUsableRow({ file: this.file, rows, bad: rows });
    return out;
  }
}

async function encodeRow(
  read: GoodRow,
  encode: RowEncoder,
  { file, unit }: Origin,
): Promise<(GoodRow & { readonly example: EncodedRow }) | BadRow> {
  try {
    return { ...read, example: await encode(read.row) };
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    return { ok: false, line: read.line, error: locate(error, read.line, file, unit) };
  }
}

const words = (file: string | null): string => (file === null ? "the given rows" : fileWords(file));

/** What whoever trains on the rows should know of them, in words. */
export function remarks({ file, rows, bad, codes, warnings }: DatasetReport): string[] {
  const of = (n: number | undefined, says: string): string[] => (n ? [`${words(file)}: ${n} of ${rows} rows ${says}`] : []);
  const kinds = Object.entries(codes).map(([code, n]) => `${n} ${code}`).join(", "); // prettier-ignore
  return [
    ...of(bad, `cannot be used and are left out (${kinds})`),
    ...of(warnings["dropped"], "are trained without the messages, tool calls or tools that the chat template leaves out"),
    ...of(warnings["empty-answer"], "have an answer of no text, of which the end alone is trained"),
    ...of(warnings["stop-untrained"], "have an answer that does not teach the model to stop: no end-of-turn token follows it"),
  ];
}

/** Nothing can be learned from a file without rows, or with none that can be used. */
export function noUsableRow({ file, rows, bad }: Pick<DatasetReport, "file" | "rows" | "bad">): DataError {
  return new DataError(`${words(file)}: no usable row (${rows} rows, ${bad} bad)`, {
    where: { rule: "empty", key: "", rows, bad, ...(file === null ? {} : { file }) },
  });
}

function summary(report: DatasetReport): DataError {
  const shown = report.errors.slice(0, SHOWN_ERRORS).map((e) => `  ${e.message} [${String(e.where["rule"])}]`);
  const more = report.bad > shown.length ? `\n  … and ${report.bad - shown.length} more` : "";
  const first = report.errors[0];
  return new DataError(
    `${report.file === null || report.file === "-" ? words(report.file) : basename(report.file)}: ${report.bad} of ${report.rows} rows cannot be used; repair them, or leave them out with onBadRow: "skip"\n${shown.join("\n")}${more}`,
    { where: { ...first?.where, bad: report.bad, rows: report.rows }, cause: first },
  );
}
