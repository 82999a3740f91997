// Rows of data as questions: the ids that a model goes on from, and the references that its answer is compared with.
//
//   any shape of data/rows.ts  the question is all before the last trained answer, encoded as training encodes it; the answer is the
//                              reference (of one that calls tools, the text that the template makes of it)
//   {prompt, answers}          a row of the official ESFT evaluation files: the prompt as it stands, each of the answers is right

import type { Dataset } from "../data/dataset.ts";
import { noUsableRow } from "../data/dataset.ts";
import { callsOf } from "../data/dropped.ts";
import { refuse } from "../data/flags.ts";
import { locate } from "../data/lines.ts";
import { IGNORE } from "../data/masks.ts";
import { placeIn } from "../data/place.ts";
import type { EncodedRow, EncodingOptions, RowEncoder } from "../data/row_encoder.ts";
import { rowEncoder } from "../data/row_encoder.ts";
import type { Conversation } from "../data/rows.ts";
import { normaliseRow } from "../data/rows.ts";
import { DataError } from "../errors.ts";
import { isPlain } from "../options.ts";
import { throwIfAborted } from "../task.ts";
import { ExactNumber } from "../text/python_json.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export interface Question {
  /** Where it comes from, for messages: file and line. */
  readonly place: string;
  readonly prompt: Int32Array;
  /** The answer is the rest of a text, its first space included; else a message of its own. */
  readonly continues: boolean;
  readonly references: readonly string[];
  /** The row as JSON has it, for metrics of users. */
  readonly row: unknown;
}

export interface QuestionOptions extends Pick<EncodingOptions, "template" | "onDropped"> {
  readonly tokenizer: Tokenizer;
  /** Only the first so many usable rows. */
  readonly rows?: number | undefined;
  /** Most tokens of a question. */
  readonly maxTokens: number;
  readonly signal?: AbortSignal | undefined;
}

export interface Questions {
  readonly questions: readonly Question[];
  /** Rows that were left out, where the dataset says so. */
  readonly bad: number;
}

/** @throws DataError a row that cannot be used, or none that can · ConfigError the template · IoError · AbortError */
export async function questionsOf(data: Dataset, options: QuestionOptions): Promise<Questions> {
  const { tokenizer, rows: most = Infinity, maxTokens, signal } = options;
  const encode = rowEncoder({ tokenizer, template: options.template ?? "tokenizer", onDropped: options.onDropped, trainOn: "last" });
  const questions: Question[] = [];
  let bad = 0;
  for await (const read of data.values(signal)) {
    if (questions.length >= most) break;
    throwIfAborted(signal, "reading the questions");
    const place = placeIn(data.origin, read.line);
    try {
      if (!read.ok) throw read.error;
      const row = plain(read.value);
      const question = isOfficial(row) ? await officialQuestion(row, tokenizer) : await lastAnswer(read.value, data, encode, tokenizer);
      if (question.prompt.length > maxTokens)
        refuse("length", "", `the question has ${question.prompt.length} tokens, the model takes ${maxTokens} and one of an answer`);
      questions.push({ place, row, ...question });
    } catch (error) {
      if (!(error instanceof DataError)) throw error;
      if (data.onBadRow === "error") throw read.ok ? locate(error, read.line, data.file, data.origin.unit) : error;
      bad++;
    }
  }
  if (questions.length === 0) throw noUsableRow({ file: data.file, rows: bad, bad });
  return { questions, bad };
}

type Asked = Pick<Question, "prompt" | "continues" | "references">;

interface Official extends Record<string, unknown> {
  readonly prompt: unknown;
  readonly answers: unknown;
}
const isOfficial = (row: unknown): row is Official =>
  isPlain(row) && Object.hasOwn(row, "prompt") && Object.hasOwn(row, "answers") && !Object.hasOwn(row, "completion");

async function officialQuestion({ prompt, answers }: Official, tokenizer: Tokenizer): Promise<Asked> {
  if (typeof prompt !== "string") return refuse("type", "prompt", "prompt must be a string");
  if (!Array.isArray(answers) || answers.length === 0 || answers.some((a) => typeof a !== "string"))
    return refuse("type", "answers", "answers must be a list of strings, at least one");
  return { prompt: Int32Array.from(await tokenizer.encodeRaw(prompt)), continues: true, references: answers as string[] };
}

async function lastAnswer(value: unknown, { shape }: Dataset, encode: RowEncoder, tokenizer: Tokenizer): Promise<Asked> {
  const row = normaliseRow(value, shape);
  if (row.shape === "text") return refuse("shape", "text", "a row of plain text asks nothing; it can be measured by its loss");
  const encoded = await encode(row);
  const [begin, end] = answerSpan(encoded);
  const reference = textOf(row.row) ?? tokenizer.decode(encoded.inputIds.slice(begin, end), { skipSpecialTokens: true });
  return { prompt: Int32Array.from(encoded.inputIds.slice(0, begin)), continues: false, references: [reference] };
}

/** The last run of trained tokens. A prompt has one token at least: the official format trains its first one. */
function answerSpan({ labels }: EncodedRow): [number, number] {
  let end = labels.length;
  while (end > 0 && labels[end - 1] === IGNORE) end--;
  let begin = end;
  while (begin > 1 && labels[begin - 1] !== IGNORE) begin--;
  return [begin, end];
}

/** What the last trained answer says; null where it calls tools. */
function textOf({ messages }: Conversation): string | null {
  const message = messages.findLast((m) => m.role === "assistant" && m["train"] !== false);
  return message !== undefined && typeof message.content === "string" && callsOf(message).length === 0 ? message.content : null;
}

/** JSON as JSON.parse gives it. */
function plain(value: unknown): unknown {
  if (value instanceof ExactNumber) return value.valueOf();
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  const entries = value instanceof Map ? [...(value as Map<string, unknown>)] : Object.entries(value);
  return Object.fromEntries(entries.map(([key, v]) => [key, plain(v)]));
}
