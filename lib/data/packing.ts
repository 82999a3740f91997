// Rows for training from examples. By default whole examples ("documents") fill rows of at most maxLength tokens; a document never
// sees another one: positions start anew and position t predicts t+1 of the same document only.

import { ConfigError, DataError } from "../errors.ts";
import type { DataOptions } from "../options.ts";
import type { Examples } from "./examples.ts";
import { packEsft } from "./esft_format.ts";
import { IGNORE, type Encoded } from "./masks.ts";
import { PythonRandom } from "./mt19937.ts";

/** A row of tokens; all arrays have its length. */
export interface PackedRow {
  readonly ids: Int32Array;
  /** Aligned with ids: the id itself where supervised, −100 elsewhere. */
  readonly labels: Int32Array;
  /** What each position must predict, already shifted by one inside its document; −100 = nothing. */
  readonly targets: Int32Array;
  /** Index in the row of the first token of the token's document. */
  readonly docStart: Int32Array;
  /** Position inside the document, from 0. */
  readonly positions: Int32Array;
  /** Targets that are not −100. */
  readonly supervised: number;
}

/** What of the data options (options.ts) decides the rows, checked there. */
export type PackingOptions = Pick<DataOptions, "packing" | "maxLength" | "onOverflow">;
type Overflow = "error" | "drop" | "truncateLeft" | "truncateRight";

/** Concatenates documents into one row. */
export function packDocuments(documents: readonly Encoded[]): PackedRow {
  const n = documents.reduce((sum, d) => sum + d.inputIds.length, 0);
  const ids = new Int32Array(n);
  const labels = new Int32Array(n);
  const targets = new Int32Array(n).fill(IGNORE);
  const docStart = new Int32Array(n);
  const positions = new Int32Array(n);
  let supervised = 0;
  let at = 0;
  for (const { inputIds, labels: own } of documents) {
    ids.set(inputIds, at);
    labels.set(own, at);
    targets.set(own.slice(1), at);
    docStart.fill(at, at, at + inputIds.length);
    for (let t = 0; t < inputIds.length; t++) positions[at + t] = t;
    at += inputIds.length;
  }
  for (const target of targets) if (target !== IGNORE) supervised++;
  return { ids, labels, targets, docStart, positions, supervised };
}

/** One example cut to maxLength. */
export function fit(example: Encoded, maxLength: number, how: Overflow): Encoded {
  if (example.inputIds.length <= maxLength) return example;
  const [start, end] = how === "truncateLeft" ? [-maxLength, undefined] : [0, maxLength];
  return { inputIds: example.inputIds.slice(start, end), labels: example.labels.slice(start, end) };
}

function isSupervised(example: Encoded): boolean {
  for (let t = 1; t < example.labels.length; t++) if (example.labels[t] !== IGNORE) return true;
  return false;
}

/** Which examples can be learned from, as indices. @throws DataError one is too long (onOverflow "error"), or none is left */
export function usableExamples(examples: Examples, { maxLength, onOverflow: how }: PackingOptions): Uint32Array {
  const usable: number[] = [];
  const long: number[] = [];
  let unsupervised = 0;
  for (let i = 0; i < examples.length; i++) {
    const isLong = examples.size(i) > maxLength;
    if (isLong) long.push(i);
    if (isLong && (how === "drop" || how === "error")) continue;
    if (isSupervised(fit(examples.get(i), maxLength, how))) usable.push(i);
    else unsupervised++;
  }
  const first = long[0];
  if (first !== undefined && how === "error") {
    const longest = long.reduce((max, i) => Math.max(max, examples.size(i)), 0);
    const file = examples.file === null ? {} : { file: examples.file };
    throw new DataError(
      `${long.length} of ${examples.length} examples are longer than maxLength ${maxLength}: the first at ${examples.place(first)} has ${examples.size(first)} tokens, the longest ${longest}; raise maxLength, or set onOverflow to "drop", "truncateLeft" or "truncateRight"`,
      { where: { rule: "overflow", line: examples.line(first), ...file, maxLength, found: longest } },
    );
  }
  if (usable.length === 0)
    throw new DataError(
      `no example is left: ${examples.length} given, ${long.length} longer than maxLength ${maxLength}, ${unsupervised} without a supervised token`,
      { where: { rule: "nothing-to-learn", maxLength } },
    );
  return Uint32Array.from(usable);
}

const OPEN_ROWS = 32;

/**
 * Which examples share a row: first fit over a few open rows, in the given order. Rows come out when full, when the oldest of too
 * many open ones, or at the end. A pure function of its arguments, so a resumed run makes the same rows.
 */
export function planRows(order: Iterable<number>, size: (i: number) => number, maxLength: number): Uint32Array[] {
  const rows: Uint32Array[] = [];
  let open: { items: number[]; room: number }[] = [];
  const close = (row: { items: number[] }): void => void rows.push(Uint32Array.from(row.items));
  for (const i of order) {
    const n = Math.min(size(i), maxLength);
    let row = open.find((r) => r.room >= n);
    if (row === undefined) {
      if (open.length >= OPEN_ROWS) close(open.shift() as { items: number[]; room: number });
      open.push((row = { items: [], room: maxLength }));
    }
    row.items.push(i);
    row.room -= n;
    if (row.room < 2) {
      const full = row;
      close(full);
      open = open.filter((r) => r !== full);
    }
  }
  open.forEach(close);
  return rows;
}

/** random_concat_ratio of the official configuration: how often an example that does not begin a row loses its first token. */
const CONCAT_RATIO = 0.2;

/** The paper's rows over all examples in file order: fixed length, padded, one causal sequence without document masks. */
export function esftRows(examples: Examples, length: number, padId: number | undefined, seed: number): PackedRow[] {
  if (padId === undefined)
    throw new ConfigError('packing "esft" needs padId (the tokenizer\'s pad token, or its eos where it has none)', {
      where: { key: "padId" },
    });
  const random = new PythonRandom(seed);
  const rows = packEsft(examples, { length, ratio: CONCAT_RATIO, padId, draw: () => random.random() });
  return rows.map((row) => packDocuments([row]));
}
