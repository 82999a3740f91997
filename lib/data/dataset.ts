// A dataset: rows from a file or from memory → encoded examples, with every bad row reported by file and line.

import { basename } from "node:path";
import { AbortError, ConfigError, DataError } from "../errors.ts";
import { ExampleBuilder, type Examples } from "./examples.ts";
import { locate, readObjects, readRowsFromFile, type BadRow, type GoodRow, type ReadRow } from "./lines.ts";
import { encodeEsft } from "./esft_format.ts";
import { encodeConversation, type Encoded } from "./masks.ts";
import { refuse } from "./flags.ts";
import type { JsonObject, JsonValue } from "../text/python_json.ts";
import type { Row, Shape } from "./rows.ts";
import { ChatTemplate, compileChatTemplate, type Message } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export interface DatasetOptions {
  /** Forces a shape; without it each row's keys decide. "text" is never guessed. */
  readonly shape?: Shape | undefined;
  /** What a bad row does: refuse the dataset (default), or be left out and counted. */
  readonly onBadRow?: "error" | "skip" | undefined;
}

export interface EncodingOptions {
  readonly tokenizer: Tokenizer;
  /** "tokenizer": the published chat template (default); "esft": the official ESFT format; or Jinja source. */
  readonly template?: "tokenizer" | "esft" | ChatTemplate | { readonly source: string };
  /**
   * "all" (default): every assistant message that its flags do not exclude; "last": only the last of them. Templates that rewrite
   * earlier turns (Qwen3, GPT-OSS, Phi-3.5 …) can only be trained on the last one.
   */
  readonly trainOn?: "all" | "last";
  /** A named template of the tokenizer ("tool_use", "rag" …). */
  readonly templateName?: string;
  /** More variables for the template: enable_thinking, reasoning_effort … */
  readonly variables?: JsonObject;
  /** The clock of templates that write the date. Fix it for runs that must be repeatable. */
  readonly now?: Date;
  readonly stops?: readonly string[];
  /** Give the template null content as "" and tool arguments in the other form where it needs that; counted as warning "adapted". Default true. */
  readonly adapt?: boolean;
  /** End plain-text documents with EOS, so that the model learns where they end. Default true when the tokenizer has one. */
  readonly textEos?: boolean;
}

export interface ReadingOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (progress: { readonly rows: number; readonly tokens: number }) => void;
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
  /** Warnings by code, e.g. stop-untrained. */
  readonly warnings: Readonly<Record<string, number>>;
}

export interface PreviewToken {
  readonly id: number;
  readonly text: string;
  readonly supervised: boolean;
}
export interface Preview {
  readonly line: number;
  readonly shape: Shape;
  readonly tokens: readonly PreviewToken[];
  readonly warnings: readonly string[];
}

type Counts = Record<string, number>;

const KEPT_ERRORS = 100;
const SHOWN_ERRORS = 10;
const YIELD_EVERY = 256;

export class Dataset {
  readonly file: string | null;
  readonly #read: (signal?: AbortSignal) => AsyncIterable<ReadRow> | Iterable<ReadRow>;
  readonly #onBadRow: "error" | "skip";

  private constructor(
    file: string | null,
    options: DatasetOptions,
    read: (signal?: AbortSignal) => AsyncIterable<ReadRow> | Iterable<ReadRow>,
  ) {
    const bad = options.onBadRow ?? "error";
    if (bad !== "error" && bad !== "skip")
      throw new ConfigError(`onBadRow must be "error" or "skip", not ${JSON.stringify(bad)}`, { where: { key: "onBadRow" } });
    this.file = file;
    this.#read = read;
    this.#onBadRow = bad;
  }

  /** A JSONL file. Nothing is read before it is needed. */
  static fromFile(file: string, options: DatasetOptions = {}): Dataset {
    return new Dataset(file, options, (signal) => readRowsFromFile(file, { shape: options.shape }, signal));
  }

  /** Rows as objects of any supported shape. */
  static fromRows(rows: Iterable<unknown>, options: DatasetOptions = {}): Dataset {
    const kept = Array.from(rows) as JsonValue[];
    return new Dataset(null, options, () => readObjects(kept, { shape: options.shape }));
  }

  /** Every row, good or bad, in order. */
  async *rows(signal?: AbortSignal): AsyncGenerator<ReadRow> {
    yield* this.#read(signal);
  }

  /** Reads everything and reports; with a tokenizer the rows are encoded too, which finds what only the template can refuse. */
  async lint(encoding?: EncodingOptions, reading: ReadingOptions = {}): Promise<DatasetReport> {
    return (await this.#encodeAll(encoding, reading)).report;
  }

  /** All rows as token ids with labels. Bad rows refuse the whole dataset unless onBadRow is "skip". */
  async encode(encoding: EncodingOptions, reading: ReadingOptions = {}): Promise<EncodedRows> {
    const result = await this.#encodeAll(encoding, reading);
    const { report } = result;
    if (report.bad > 0 && this.#onBadRow === "error") throw summary(report);
    if (result.examples.length === 0)
      throw new DataError(`${this.file ?? "the given rows"}: no usable row (${report.rows} rows, ${report.bad} bad)`, {
        where: { rule: "empty", key: "", ...(this.file === null ? {} : { file: this.file }) },
      });
    return result;
  }

  async #encodeAll(encoding: EncodingOptions | undefined, reading: ReadingOptions): Promise<EncodedRows> {
    const builder = new ExampleBuilder();
    const encoder = encoding === undefined ? null : rowEncoder(encoding);
    const { file } = this;
    const [codes, shapes, warnings] = [{}, {}, {}] as [Counts, Counts, Counts];
    const errors: DataError[] = [];
    const report = { file, rows: 0, good: 0, bad: 0, codes, shapes, errors, warnings };
    let tokens = 0;
    const count = (table: Counts, key: string): void => void (table[key] = (table[key] ?? 0) + 1);
    for await (const read of this.rows(reading.signal)) {
      if (reading.signal?.aborted === true)
        throw new AbortError(`reading ${file ?? "the rows"} was stopped after ${report.rows} rows`, { cause: reading.signal.reason });
      report.rows++;
      const item = encoder === null || !read.ok ? { ...read, example: null } : await encodeRow(read, encoder, file);
      if (item.ok) {
        report.good++;
        count(shapes, item.row.shape);
        if (item.example !== null) {
          builder.add(item.example, item.line);
          tokens += item.example.inputIds.length;
          for (const code of item.example.warnings) count(warnings, code);
        }
      } else {
        report.bad++;
        count(codes, String(item.error.where["rule"]));
        if (errors.length < KEPT_ERRORS) errors.push(item.error);
      }
      if (report.rows % YIELD_EVERY === 0) {
        reading.onProgress?.({ rows: report.rows, tokens });
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    return { examples: builder.build(file), report };
  }

  /** The first n rows as tokens with what is supervised; throws on a bad one, as encode does. */
  async preview(n: number, encoding: EncodingOptions): Promise<Preview[]> {
    const encoder = rowEncoder(encoding);
    const out: Preview[] = [];
    if (n <= 0) return out;
    for await (const read of this.rows()) {
      const item = read.ok ? await encodeRow(read, encoder, this.file) : read;
      if (!item.ok) {
        if (this.#onBadRow === "error") throw item.error;
        continue;
      }
      const { inputIds, labels, warnings } = item.example;
      const tokens = Array.from(inputIds, (id, t) => ({ id, text: encoding.tokenizer.decode([id]), supervised: labels[t] !== -100 }));
      out.push({ line: item.line, shape: item.row.shape, tokens, warnings });
      if (out.length >= n) break;
    }
    return out;
  }
}

interface EncodedRow extends Encoded {
  readonly warnings: readonly string[];
}
type RowEncoder = (row: Row) => Promise<EncodedRow>;

async function encodeRow(
  read: GoodRow,
  encode: RowEncoder,
  file: string | null,
): Promise<(GoodRow & { readonly example: EncodedRow }) | BadRow> {
  try {
    return { ...read, example: await encode(read.row) };
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    return { ok: false, line: read.line, error: locate(error, read.line, file ?? undefined) };
  }
}

/** The function from a normalised row to ids and labels; settles the template once. */
function rowEncoder(options: EncodingOptions): RowEncoder {
  const { tokenizer, template: wanted = "tokenizer", trainOn = "all" } = options;
  if (trainOn !== "all" && trainOn !== "last")
    throw new ConfigError(`trainOn must be "all" or "last", not ${JSON.stringify(trainOn)}`, { where: { key: "trainOn" } });
  const templateFor = (hasTools: boolean): ChatTemplate => {
    if (wanted instanceof ChatTemplate) return wanted;
    if (typeof wanted === "object") return compileChatTemplate(wanted.source);
    const source = tokenizer.chatTemplate(options.templateName, hasTools);
    if (source !== null) return compileChatTemplate(source);
    const known = Array.from(tokenizer.chatTemplates.keys()).join(", ");
    throw new ConfigError(
      `the tokenizer in ${tokenizer.dir} has no chat template${options.templateName === undefined ? "" : ` named ${options.templateName}`}${known === "" ? "" : ` (it has ${known})`}; give one as template: { source }, or use template: "esft"`,
      { where: { key: "template", file: tokenizer.dir } },
    );
  };
  return async (row) => {
    if (row.shape === "text") return encodeText(row.text, options);
    const { tools } = row.row;
    const messages = trainOn === "last" ? lastOnly(row.row.messages) : row.row.messages;
    if (wanted === "esft") {
      if (tools !== undefined) refuse("type", "tools", "the ESFT format has no tools");
      return { ...(await encodeEsft(messages, tokenizer)), warnings: [] };
    }
    const { adapt = true, stops, now, variables } = options;
    const render = { ...(now ? { now } : {}), ...(variables ? { variables } : {}) };
    const encoded = await encodeConversation({
      tokenizer,
      template: templateFor(tools !== undefined),
      adapt,
      messages,
      tools,
      stops,
      render,
    });
    return { ...encoded, warnings: [...encoded.warnings.map((w) => w.code), ...(encoded.adapted ? ["adapted"] : [])] };
  };
}

function lastOnly(messages: readonly Message[]): Message[] {
  const last = messages.findLastIndex((m) => m.role === "assistant" && m["train"] !== false);
  return messages.map((m, i) => (m.role === "assistant" && i !== last ? { ...m, train: false } : m));
}

// A document for language modelling: every token is supervised.
async function encodeText(text: string, { tokenizer, textEos = true }: EncodingOptions): Promise<EncodedRow> {
  const ids = await tokenizer.encodeRaw(text);
  if (textEos && tokenizer.eosId !== null && ids.at(-1) !== tokenizer.eosId) ids.push(tokenizer.eosId);
  return { inputIds: ids, labels: ids, warnings: [] };
}

function summary(report: DatasetReport): DataError {
  const shown = report.errors.slice(0, SHOWN_ERRORS).map((e) => `  ${e.message} [${String(e.where["rule"])}]`);
  const more = report.bad > shown.length ? `\n  … and ${report.bad - shown.length} more` : "";
  const first = report.errors[0];
  return new DataError(
    `${report.file === null ? "the given rows" : basename(report.file)}: ${report.bad} of ${report.rows} rows cannot be used; repair them, or leave them out with onBadRow: "skip"\n${shown.join("\n")}${more}`,
    { where: { ...first?.where, bad: report.bad, rows: report.rows }, cause: first },
  );
}

/** A preview as text: one line per run of tokens, marked with what is trained (`+`) and what is not (`·`). */
export function formatPreview(preview: Preview): string {
  const lines = [
    `line ${preview.line} (${preview.shape}): ${preview.tokens.length} tokens, ${preview.tokens.filter((t) => t.supervised).length} trained`,
  ];
  let run: PreviewToken[] = [];
  const flush = (): void => {
    if (run.length === 0) return;
    lines.push(`  ${run[0]?.supervised === true ? "+" : "·"} ${run.map((t) => JSON.stringify(t.text).slice(1, -1)).join("|")}`);
    run = [];
  };
  for (const token of preview.tokens) {
    if (run.length > 0 && run[0]?.supervised !== token.supervised) flush();
    run.push(token);
  }
  flush();
  for (const warning of preview.warnings) lines.push(`  warning: ${warning}`);
  return lines.join("\n");
}
