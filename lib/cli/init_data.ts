// What a file of rows is, for whoever writes a job for it: format and shape, how many rows, and how long they are for a tokenizer.

import { open } from "node:fs/promises";
import { Dataset, noUsableRow } from "../data/dataset.ts";
import { ExampleBuilder } from "../data/examples.ts";
import { formatOf } from "../data/formats.ts";
import { IGNORE } from "../data/masks.ts";
import type { Encoded } from "../data/masks.ts";
import { isPlain } from "../options.ts";
import type { Format, Shape } from "../options.ts";
import { ioError } from "../task.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export interface DataFacts {
  readonly file: string;
  /** Null: the name tells it. */
  readonly askedFormat: Format | null;
  readonly format: Format;
  /** Null: each row's keys tell it. */
  readonly askedShape: Shape | null;
  readonly shapes: Readonly<Record<string, number>>;
  readonly rows: number;
  /** Rows that cannot be used, and the first of them in words. */
  readonly bad: number;
  readonly firstFault: string | null;
  /** Tokens of each usable row, ascending. */
  readonly lengths: readonly number[];
  readonly tokens: number;
  /** Of these, those that are trained on. */
  readonly trained: number;
}

/** Counts what it is given, and keeps none. */
class Lengths extends ExampleBuilder {
  readonly lengths: number[] = [];
  trained = 0;
  override growth(): number {
    return 0;
  }
  override add({ inputIds, labels }: Encoded): void {
    this.lengths.push(inputIds.length);
    for (let t = 0; t < labels.length; t++) if (labels[t] !== IGNORE) this.trained++;
  }
}

/** @throws DataError no row can be used · IoError · AbortError */
export async function surveyData(
  file: string,
  tokenizer: Tokenizer,
  template: "tokenizer" | "esft",
  task: { readonly signal: AbortSignal; readonly onProgress: (p: { readonly rows: number; readonly tokens: number }) => void },
): Promise<DataFacts> {
  const askedFormat = await formatInside(file);
  const format = formatOf(file, askedFormat ?? undefined);
  const asked = { onBadRow: "skip", ...(askedFormat === null ? {} : { format: askedFormat }) } as const;
  const askedShape = await shapeInside(Dataset.fromFile(file, asked));
  const dataset = Dataset.fromFile(file, { ...asked, ...(askedShape === null ? {} : { shape: askedShape }) });
  const counted = new Lengths();
  const { rows, bad, shapes, errors } = await dataset.encodeInto(counted, { tokenizer, template }, { ...task, maxErrors: 1 });
  const lengths = counted.lengths.sort((a, b) => a - b);
  const tokens = lengths.reduce((sum, n) => sum + n, 0);
  if (tokens === 0) throw noUsableRow({ file, rows, bad });
  return { file, askedFormat, format, askedShape, shapes, rows, bad, firstFault: errors[0]?.message ?? null, lengths, tokens, trained: counted.trained }; // prettier-ignore
}

/** The format that the first bytes show where the name tells none, or tells JSON of a file with a row on each line; null: the name's. */
async function formatInside(file: string): Promise<Format | null> {
  const named = /\.(\w+)(?:\.gz)?$/.exec(file)?.[1]?.toLowerCase() ?? "";
  if (/^(?:jsonl|ndjson|jsonlines|csv|parquet)$/.test(named) || /\.gz$/i.test(file)) return null;
  let head: string;
  try {
    await using handle = await open(file);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(4096), 0, 4096, 0);
    head = buffer.toString("utf8", 0, bytesRead).trimStart();
  } catch (error) {
    throw ioError(error, `cannot read ${file}`, { file });
  }
  if (named === "json") return head.startsWith("{") ? "jsonl" : null;
  return head.startsWith("PAR1") ? "parquet" : head.startsWith("[") ? "json" : head.startsWith("{") ? "jsonl" : "csv";
}

/** Rows of plain text are read as such only where that is asked for. */
async function shapeInside(dataset: Dataset): Promise<Shape | null> {
  for await (const read of dataset.values()) {
    if (!read.ok) continue;
    const { value } = read;
    return isPlain(value) && typeof value["text"] === "string" && !["messages", "conversations", "prompt", "instruction"].some((key) => key in value) ? "text" : null; // prettier-ignore
  }
  return null;
}
