// Where rows come from, and how they become examples: a file, a Dataset, or Examples that are encoded already. Knows no device.

import { pathArgument, readSafely } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import { shown } from "../options.ts";
import type { DataOptions } from "../options.ts";
import { readTextFile } from "../files/regular.ts";
import { compileChatTemplate, type ChatTemplate } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { Dataset } from "./dataset.ts";
import type { DatasetReport, ReadingOptions } from "./dataset.ts";
import { ExampleBuilder, Examples } from "./examples.ts";
import { chosenRows, type DataFile } from "./mixture.ts";
import type { Origin } from "./place.ts";

/** Rows to encode (a file, a Dataset), or examples that are encoded already. */
export type DataSource = Dataset | Examples | string;

export interface EncodedSource {
  readonly examples: Examples;
  /** What was read; null when the examples were encoded already. */
  readonly report: DatasetReport | null;
}

export function dataArgument(value: unknown, key: string): void {
  if (typeof value === "string") return void pathArgument(value, key);
  if (!readSafely(key, () => value instanceof Dataset || value instanceof Examples))
    throw new ConfigError(`${key}: expected a file, a Dataset or Examples, found ${shown(value)}`, { where: { key } });
}

/** The file that rows come from; null when they come from memory. */
export const fileOf = (source: DataSource): string | null => (typeof source === "string" ? source : source.file);

/** What `template` of the data options names: the tokenizer's own template, the official format, or a Jinja file. @throws IoError */
export async function openTemplate(name: string): Promise<"tokenizer" | "esft" | ChatTemplate> {
  if (name === "tokenizer" || name === "esft") return name;
  return compileChatTemplate(await readTextFile(name), name);
}

/**
 * Rows → token ids and labels. Examples pass as they are; the tokenizer is asked for only when there is something to encode.
 * @throws DataError a row that cannot be used, with file and line · ConfigError · IoError · AbortError · what `room` throws
 */
export async function encodeSource(
  source: DataSource,
  options: DataOptions,
  tokenizer: () => Promise<Tokenizer>,
  { signal, room }: Pick<ReadingOptions, "signal" | "room"> = {},
): Promise<EncodedSource> {
  dataArgument(source, "data");
  if (source instanceof Examples) return { examples: source, report: null };
  const { onBadRow, onDropped, shape, format } = options;
  const dataset = typeof source === "string" ? Dataset.fromFile(source, { onBadRow, shape, format }) : source;
  const template = await openTemplate(options.template);
  return dataset.encode({ tokenizer: await tokenizer(), template, onDropped }, { signal, room });
}

/**
 * The rows of several files, mixed by their weights where they have any. `seed` chooses the rows where only some are asked for.
 * @throws DataError a row that cannot be used, with file and line, or too few rows · ConfigError · IoError · AbortError · what `room` throws
 */
export async function encodeFiles(
  files: readonly DataFile[],
  options: DataOptions,
  tokenizer: () => Promise<Tokenizer>,
  seed: number,
  { signal, room }: Pick<ReadingOptions, "signal" | "room"> = {},
): Promise<{ readonly examples: Examples; readonly reports: readonly DatasetReport[] }> {
  const { onBadRow, onDropped, shape, format } = options;
  const encoding = { template: await openTemplate(options.template), tokenizer: await tokenizer(), onDropped };
  const builder = new ExampleBuilder();
  const reports: DatasetReport[] = [];
  const parts: { origin: Origin; end: number }[] = [];
  const chosen: number[] = [];
  for (const [i, of] of files.entries()) {
    const dataset = Dataset.fromFile(of.file, { onBadRow, shape, format });
    const before = builder.length;
    reports.push(await dataset.encodeInto(builder, encoding, { signal, room }));
    for (const row of chosenRows(of, i, builder.length - before, seed)) chosen.push(before + row);
    parts.push({ origin: dataset.origin, end: builder.length });
  }
  await room?.(builder.buildBytes);
  const all = builder.buildFiles(parts);
  const some = files.some((f) => f.rows !== undefined) ? all.subset(chosen) : all;
  const weights = files.flatMap(({ weight }) => weight ?? []);
  return { examples: weights.length > 0 ? some.mixed(weights) : some, reports };
}
