// Answers of an evaluation as JSONL, row by row, so that a killed one goes on where it was.
//
//   {"format":"esft-answers","version":1,"model":…,"adapter":…,"data":…,"rows":…,"metrics":[…],"options":{…}}
//   {"row":0,"prompt":…,"answer":…,"references":[…],"scores":{"exact":1},"finish_reason":"stop","tokens":17}
//   …
//
// The first line says what the answers belong to; a file that belongs to something else is refused with what differs. Rows stand in
// the order of the data, whatever the order in which they are answered, and nothing in them depends on time: a finished file has the
// same bytes whether or not it was killed in between. A row is one write; what a killed process left of its last line is cut off.

import { basename, dirname, join, resolve } from "node:path";
import type { FileHandle } from "node:fs/promises";
import { stat } from "node:fs/promises";
import { z } from "zod";
import { pathArgument } from "../arguments.ts";
import { ConfigError, DataError, LayoutError } from "../errors.ts";
import { makeFolder, writeFileAtomic } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { flatFacts, shownFact } from "../files/facts.ts";
import { checkSchema, parseStrictJson } from "../files/json.ts";
import { takeLock } from "../files/lock.ts";
import type { Lock } from "../files/lock.ts";
import { RegularFile } from "../files/regular.ts";
import { ioError } from "../task.ts";

const Header = z.strictObject({
  format: z.literal("esft-answers"),
  version: z.literal(1),
  /** Fingerprint of the base model. */
  model: z.string(),
  /** Digest of the adapter; null: the base alone. */
  adapter: z.string().nullable(),
  /** Hash of the rows that are asked. */
  data: z.string(),
  /** How many there are; a file with as many answers is complete. */
  rows: z.int().min(0),
  /** `identity` of each metric. */
  metrics: z.array(z.string()),
  /** What else answers depend on: sampling, length, template, … */
  options: z.record(z.string(), z.json()),
});
const Row = z.strictObject({
  /** Place in the data, from 0. */
  row: z.int().min(0),
  prompt: z.string().optional(),
  answer: z.string(),
  references: z.array(z.string()),
  /** By the metrics' names. */
  scores: z.record(z.string(), z.number()),
  finish_reason: z.string(),
  /** Of the answer. */
  tokens: z.int().min(0),
});
export type AnswersHeader = Omit<z.output<typeof Header>, "format" | "version">;
export type AnswerRow = z.output<typeof Row>;

const MAX_BYTES = 2 ** 30;
const LINE_FEED = 10;

const headerLine = ({ model, adapter, data, rows, metrics, options }: AnswersHeader): string =>
  `${JSON.stringify({ format: "esft-answers", version: 1, model, adapter, data, rows, metrics, options })}\n`;
const rowLine = ({ row, prompt, answer, references, scores, finish_reason, tokens }: AnswerRow): string =>
  `${JSON.stringify({ row, prompt, answer, references, scores, finish_reason, tokens })}\n`;

/** What lies in a file of answers. */
export interface Answers {
  readonly header: AnswersHeader;
  /** The first ones of the data, in its order. */
  readonly rows: readonly AnswerRow[];
  /** Bytes of whole lines; what follows is half a line. */
  readonly whole: number;
}

/** @throws LayoutError it is none, or a whole line is damaged · IoError */
export async function readAnswers(path: string): Promise<Answers> {
  pathArgument(path, "readAnswers: path");
  await using file = await RegularFile.open(path);
  if (file.size > MAX_BYTES)
    throw new LayoutError(`${path}: expected at most ${MAX_BYTES} bytes of answers, found ${file.size}`, { where: { file: path } });
  const bytes = await file.content();
  const whole = bytes.lastIndexOf(LINE_FEED) + 1;
  const rows: AnswerRow[] = [];
  let header: AnswersHeader | null = null;
  for (let at = 0, line = 1; at < whole; line++) {
    const end = bytes.indexOf(LINE_FEED, at);
    const value = parseLine(bytes.subarray(at, end), path, line);
    at = end + 1;
    if (header === null) {
      const { format: _, version: __, ...facts } = checkSchema(Header, value, `${path}:1`);
      header = facts;
      continue;
    }
    const row = checkSchema(Row, value, `${path}:${line}`);
    if (row.row !== rows.length || row.row >= header.rows) {
      const says = `${path}:${line}: expected the answer to row ${rows.length} of ${header.rows}, found one to row ${row.row}`;
      throw new LayoutError(`${says}; remove the file, or the line and what follows`, { where: { file: path, line } });
    }
    rows.push(row);
  }
  if (header === null) throw new LayoutError(`${path}: expected a file of answers, found no whole line`, { where: { file: path } });
  return { header, rows, whole };
}

function parseLine(bytes: Uint8Array, file: string, line: number): unknown {
  try {
    return parseStrictJson(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    const says = `${file}:${line}: expected a line of JSON, found: ${(cause as Error).message}; remove the file, or the line and what follows`;
    throw new LayoutError(says, { where: { file, line }, cause });
  }
}

/** A file of answers that is being written. */
export class AnswersFile implements AsyncDisposable {
  readonly path: string;
  readonly header: AnswersHeader;
  readonly #rows: AnswerRow[];
  readonly #waiting = new Map<number, AnswerRow>();
  readonly #file: FileHandle;
  readonly #lock: Lock;
  #at: number; // bytes of whole lines
  #writing: Promise<void> = Promise.resolve();
  #closed = false;

  private constructor(path: string, { header, rows, whole }: Answers, file: FileHandle, lock: Lock) {
    this.path = path;
    this.header = header;
    this.#rows = [...rows];
    this.#at = whole;
    this.#file = file;
    this.#lock = lock;
  }

  /**
   * Begins a file, or goes on with the one that is there.
   * @throws ConfigError it belongs to something else · LayoutError it is damaged · LockError another process writes it · IoError
   */
  static async open(path: string, asked: AnswersHeader): Promise<AnswersFile> {
    const header = checkSchema(Header.omit({ format: true, version: true }), asked, "answers: header", ConfigError);
    const target = resolve(path);
    await makeFolder(dirname(target));
    const lock = await takeLock(join(dirname(target), `.${basename(target)}.lock`), path);
    let file: FileHandle | null = null;
    try {
      if ((await sizeOf(target)) === 0) await writeFileAtomic(path, headerLine(header));
      const found = await readAnswers(path);
      requireSame(path, found.header, header);
      file = await disk.open(path, "r+");
      await file.truncate(found.whole);
      return new AnswersFile(path, found, file, lock);
    } catch (error) {
      await file?.close().catch(() => undefined);
      await lock.release();
      throw ioError(error, `cannot write ${path}`, { file: path });
    }
  }

  /** In the order of the data, without gaps: what is in the file. */
  get rows(): readonly AnswerRow[] {
    return this.#rows;
  }

  get complete(): boolean {
    return this.#rows.length === this.header.rows;
  }

  /** Takes rows in any order, each once; a row is written when all before it are. Resolves when what can be written is. @throws IoError */
  async add(asked: AnswerRow): Promise<void> {
    const row = checkSchema(Row, asked, `${this.path}: answer`, DataError);
    const fail = (says: string): never => {
      throw new DataError(`${this.path}: ${says}`, { where: { file: this.path, row: row.row } });
    };
    if (this.#closed) fail("the file of answers is closed");
    if (row.row >= this.header.rows) fail(`expected a row below ${this.header.rows}, found ${row.row}`);
    if (row.row < this.#rows.length || this.#waiting.has(row.row)) fail(`row ${row.row} has an answer already`);
    this.#waiting.set(row.row, row);
    await this.#write();
  }

  /** One write after the other; one that failed is tried again by the next, at the same place. */
  #write(): Promise<void> {
    const run = this.#writing.then(async () => {
      for (let row; (row = this.#waiting.get(this.#rows.length)) !== undefined;) {
        const line = Buffer.from(rowLine(row));
        for (let done = 0; done < line.length;)
          done += (await this.#file.write(line, done, line.length - done, this.#at + done)).bytesWritten;
        this.#at += line.length;
        this.#waiting.delete(row.row);
        this.#rows.push(row);
      }
    });
    this.#writing = run.catch(() => undefined);
    return run.catch((error: unknown) => {
      throw ioError(error, `cannot write ${this.path}`, { file: this.path });
    });
  }

  /** Puts on disk what is written; rows that wait for one before them are lost. @throws IoError */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#writing;
    try {
      await this.#file.truncate(this.#at);
      await this.#file.sync();
    } catch (error) {
      throw ioError(error, `cannot write ${this.path}`, { file: this.path });
    } finally {
      await this.#file.close().catch(() => undefined);
      await this.#lock.release();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** 0 where there is none, too. */
async function sizeOf(path: string): Promise<number | null> {
  return stat(path).then(
    (found) => (found.isFile() ? found.size : null),
    (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return 0;
      throw error;
    },
  );
}

const LABELS: Readonly<Record<string, string>> = { model: "the base model", data: "the rows of data", rows: "the number of rows" };

function requireSame(path: string, before: AnswersHeader, now: AnswersHeader): void {
  const [old, asked] = [flatFacts(before), flatFacts(now)];
  const differing = [...new Set([...old.keys(), ...asked.keys()])].filter((key) => old.get(key) !== asked.get(key));
  const [first] = differing;
  if (first === undefined) return;
  const list = differing.map(
    (key) => `${LABELS[key] ?? key} ${shownFact(old.get(key), asked.get(key))} → ${shownFact(asked.get(key), old.get(key))}`,
  );
  throw new ConfigError(
    `${path}: the answers in it belong to another evaluation: ${list.join(", ")}; evaluate with the same, or choose another file`,
    { where: { file: path, key: first, expected: old.get(first), found: asked.get(first) } },
  );
}
