// Evaluation by answers: a model answers the questions of a dataset, many at once, and metrics compare the answers with their
// references. With a file the answers are kept row by row (answers/answers_file.ts), and an evaluation that was killed goes on in it
// to the same bytes.

import { createHash } from "node:crypto";
import { setMaxListeners } from "node:events";
import { setImmediate } from "node:timers/promises";
import { z } from "zod";
import type { Adapter } from "./adapter/adapter.ts";
import { AnswersFile } from "./answers/answers_file.ts";
import type { AnswerRow, AnswersHeader } from "./answers/answers_file.ts";
import type { Metric } from "./answers/metric.ts";
import { metricsByName } from "./answers/metrics.ts";
import { questionsOf } from "./answers/questions.ts";
import type { Question } from "./answers/questions.ts";
import { optionsArgument, shapeArgument } from "./arguments.ts";
import { Dataset } from "./data/dataset.ts";
import { dataArgument, openTemplate } from "./data/source.ts";
import { ConfigError } from "./errors.ts";
import { answerOptions, generateSchema } from "./generate/options.ts";
import type { MoeModel } from "./moe_model.ts";
import { dataSchema, parseOptions } from "./options.ts";
import { throwIfAborted } from "./task.ts";
import type { Tokenizer } from "./text/tokenizer.ts";

export const answersSchema = generateSchema.omit({ logprobs: true }).extend({
  ...dataSchema.pick({ format: true, shape: true, template: true, onBadRow: true, onDropped: true }).shape,
  /** Names of metrics, and paths of modules (answers/module.ts). */
  metrics: z.union([z.string(), z.array(z.string()).readonly()], "expected names of metrics, or a list of them"),
  /** Name of a resident adapter (`model.adapters`); default: the model as it is. */
  adapter: z.string().nullable().default(null),
  /** Where the answers go (JSONL), and where an evaluation that was killed goes on. */
  file: z.string().min(1).optional(),
  /** Only the first so many usable rows. */
  rows: z.int().min(1).optional(),
});
export type EvaluateAnswersOptions = z.input<typeof answersSchema>;
type Options = z.output<typeof answersSchema>;

export interface EvaluateAnswersTask {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: { readonly done: number; readonly total: number }) => void) | undefined;
}

export interface AnswersEvaluation {
  /** By the metrics' names: the mean over the rows, of BLEU that of the corpus. */
  readonly scores: Readonly<Record<string, number>>;
  readonly rows: number;
  /** Rows of data that were left out (onBadRow: "skip"). */
  readonly bad: number;
  /** Answers that `maxTokens` ended. */
  readonly cut: number;
  /** Of all answers. */
  readonly tokens: number;
  /** In the order of the data. */
  readonly answers: readonly AnswerRow[];
}

/** Answers under way: twice the batch of the engine, so that another waits wherever one ends. */
const UNDER_WAY = 32;

/**
 * Answers the rows of `data` (a data file or a Dataset: the last trained answer of each is the reference; or rows of the official ESFT
 * evaluation files) and scores the answers. Greedy unless `temperature` is given; row r draws with `seed` + r.
 * @throws ConfigError options, metrics, an unknown adapter, or a file of another evaluation · DataError a row or a reference that cannot
 * be used · LayoutError the file is damaged · LockError · IoError · AbortError; what was answered until then is in the file
 */
export async function evaluateAnswers(
  model: MoeModel,
  data: Dataset | string,
  options: EvaluateAnswersOptions,
  task: EvaluateAnswersTask = {},
): Promise<AnswersEvaluation> {
  const { signal, onProgress } = optionsArgument(task, "evaluateAnswers: task");
  shapeArgument(model, ["tokenizer", "chat", "adapters"], "a MoeModel", "evaluateAnswers: model");
  const o = parseOptions(answersSchema, options, "evaluateAnswers");
  dataArgument(data, "evaluateAnswers: data");
  if (typeof data !== "string" && !(data instanceof Dataset))
    throw new ConfigError("evaluateAnswers: data: expected a data file or a Dataset, found examples without text", {
      where: { key: "data" },
    });
  const { format, shape, onBadRow, onDropped, template, file: path, rows } = o;
  const metrics = await metricsByName(o.metrics, "metrics");
  answerOptions(generationOf(o), "evaluateAnswers"); // refused before anything is read
  const tokenizer = await model.tokenizer();
  const { questions, bad } = await questionsOf(typeof data === "string" ? Dataset.fromFile(data, { shape, onBadRow, format }) : data, {
    tokenizer,
    template: await openTemplate(template),
    onDropped,
    rows,
    maxTokens: model.spec.maxPositions - 1,
    signal,
  });
  await requireReferences(questions, metrics);
  const answer = (row: number, stop: AbortSignal): Promise<AnswerRow> =>
    answerRow(model, questions[row]!, row, o, metrics, tokenizer, stop);
  const total = questions.length;
  const done = new Map<number, AnswerRow>();
  const report = (): void => onProgress?.({ done: done.size, total });
  await using file = path === undefined ? null : await AnswersFile.open(path, await headerOf(model, questions, o, metrics, signal));
  for (const row of file?.rows ?? []) done.set(row.row, row);
  report();
  await together(done.size, total, signal, async (row, stop) => {
    const answered = await answer(row, stop);
    await file?.add(answered);
    done.set(row, answered);
    report();
  });
  const answers = questions.map((_, row) => done.get(row)!);
  return { ...(await summary(answers, questions, metrics)), bad, answers };
}

/** Rows from `first` on, at most UNDER_WAY at once. What one of them throws stops the others, and is thrown when they have ended. */
async function together(
  first: number,
  total: number,
  signal: AbortSignal | undefined,
  work: (row: number, stop: AbortSignal) => Promise<void>,
): Promise<void> {
  const stop = new AbortController();
  setMaxListeners(UNDER_WAY, stop.signal);
  const abort = (): void => stop.abort(signal?.reason);
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort, { once: true });
  let failed: { readonly error: unknown } | null = null;
  let next = first;
  const one = async (): Promise<void> => {
    while (next < total && !stop.signal.aborted) await work(next++, stop.signal);
  };
  try {
    await Promise.all(
      Array.from({ length: UNDER_WAY }, () =>
        one().catch((error: unknown) => {
          failed ??= { error };
          stop.abort(error);
        }),
      ),
    );
  } finally {
    signal?.removeEventListener("abort", abort);
    await setImmediate(); // the engine leaves the model after it has told the end of its last answer
  }
  throwIfAborted(signal, "the evaluation");
  if (failed) throw (failed as { readonly error: unknown }).error;
}

async function answerRow(
  model: MoeModel,
  { place, prompt, continues, references, row: raw }: Question,
  row: number,
  options: Options,
  metrics: readonly Metric[],
  tokenizer: Tokenizer,
  signal: AbortSignal,
): Promise<AnswerRow> {
  const { adapter, seed } = options;
  const { text, ids, finishReason } = await model
    .generate([...prompt], { ...generationOf(options), stopIds: stopIdsOf(model, options, tokenizer), seed: seed + row, text: true, adapter, signal })
    .result(); // prettier-ignore
  const answer = continues ? text : text.trimStart();
  const scores: Record<string, number> = {};
  for (const metric of metrics) scores[metric.name] = await metric.score({ place, answer, references, row: raw });
  return {
    row,
    prompt: tokenizer.decode(prompt),
    answer,
    references: [...references],
    scores,
    finish_reason: finishReason,
    tokens: ids.length,
  };
}

function generationOf({ maxTokens, stop, stopIds, temperature, topK, topP, minP, repetitionPenalty, seed }: Options) {
  return { maxTokens, stop, ...(stopIds ? { stopIds } : {}), temperature, topK, topP, minP, repetitionPenalty, seed };
}

/** An answer ends as a message of a conversation does. */
function stopIdsOf({ spec }: MoeModel, { stopIds }: Options, tokenizer: Tokenizer): number[] {
  return stopIds ?? [...new Set([...spec.eosIds, ...tokenizer.stopTokens.flatMap((t) => tokenizer.tokenToId(t) ?? [])])];
}

/** References that a metric of ours cannot use are told before the first answer; modules of users are not called in vain. */
async function requireReferences(questions: readonly Question[], metrics: readonly Metric[]): Promise<void> {
  for (const metric of metrics.filter(({ name, identity }) => name === identity))
    for (const { place, references } of questions) await metric.score({ place, answer: "", references });
}

async function summary(answers: readonly AnswerRow[], questions: readonly Question[], metrics: readonly Metric[]) {
  const scores: Record<string, number> = {};
  for (const metric of metrics) {
    const rows = [];
    for (const { answer, scores: kept, row } of answers) {
      const { place, references, row: raw } = questions[row]!;
      // A module that was asked for by another path when the file began has its scores under that.
      const score = kept[metric.name] ?? (await metric.score({ place, answer, references, row: raw }));
      rows.push({ place, answer, references, score });
    }
    scores[metric.name] = metric.aggregate(rows);
  }
  const cut = answers.filter((a) => a.finish_reason === "length").length;
  return { scores, rows: answers.length, cut, tokens: answers.reduce((n, a) => n + a.tokens, 0) };
}

/** All that the bytes of a file of answers depend on. */
async function headerOf(
  model: MoeModel,
  questions: readonly Question[],
  options: Options,
  metrics: readonly Metric[],
  signal: AbortSignal | undefined,
): Promise<AnswersHeader> {
  const { adapter } = options;
  if (model.params.overridden)
    throw new ConfigError(
      "evaluateAnswers: an adapter is applied, and a file of answers says what they were made with: add it with model.adapters.add(name, dir) and give its name as adapter",
      { where: { key: "adapter" } },
    );
  const hash = createHash("sha256");
  for (const { prompt, references, row } of questions) hash.update(`${JSON.stringify([[...prompt], references, row])}\n`);
  const { transformer, device, params } = model;
  return {
    model: (await model.identity({ signal })).fingerprint,
    adapter: adapter === null ? null : await digestOf(model.adapters.adaptersOf(adapter), signal),
    data: hash.digest("hex"),
    rows: questions.length,
    metrics: metrics.map(({ identity }) => identity),
    options: {
      ...generationOf(options),
      // Sums are rounded by the order and width that a device adds with.
      backend: device.info.backend,
      precision: transformer.precision,
      ...(params.roundedBase ? { dequantise: "bf16" } : {}),
    },
  };
}

/** sha256 over what an adapter does to a model: its method and every tensor. */
async function digestOf(adapters: readonly Adapter[], signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash("sha256");
  for (const adapter of adapters) {
    hash.update(`${JSON.stringify(adapter.method)}\n`);
    for (const [key, { dtype, shape }] of [...adapter.tensors, ...adapter.attached]) {
      throwIfAborted(signal, "hashing the adapter");
      hash.update(`${JSON.stringify([key, dtype, shape])}\n`).update(await adapter.read(key));
    }
  }
  return hash.digest("hex");
}
