// Rows for training from examples. By default whole examples ("documents") fill rows of at most maxLength tokens; a document never
// sees another one: positions start anew and position t predicts t+1 of the same document only.

import { ConfigError, DataError } from "../errors.ts";
import type { DataOptions } from "../options.ts";
import { ExampleBuilder } from "./examples.ts";
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

/** What remains of an example of `size` tokens cut to maxLength: [from, to). */
export function kept(size: number, maxLength: number, how: Overflow): readonly [number, number] {
  if (size <= maxLength) return [0, size];
  return how === "truncateLeft" ? [size - maxLength, size] : [0, maxLength];
}

/** One example cut to maxLength. */
export function fit(example: Encoded, maxLength: number, how: Overflow): Encoded {
  const range = kept(example.inputIds.length, maxLength, how);
  return { inputIds: example.inputIds.slice(...range), labels: example.labels.slice(...range) };
}

/** Which examples can be learned from, as indices. @throws DataError one is too long (onOverflow "error"), or none is left */
export function usableExamples(examples: Examples, { maxLength, onOverflow: how }: PackingOptions): Uint32Array {
  const usable: number[] = [];
  const long: number[] = [];
  let unsupervised = 0;
  for (let i = 0; i < examples.length; i++) {
    const size = examples.size(i);
    const isLong = size > maxLength;
    if (isLong) long.push(i);
    if (isLong && how === "drop") continue;
    if (examples.supervised(i, ...kept(size, maxLength, how)) > 0) usable.push(i);
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
export function* planRows(order: Iterable<number>, size: (i: number) => number, maxLength: number): Generator<readonly number[]> {
  let open: { items: number[]; room: number }[] = [];
  for (const i of order) {
    const n = Math.min(size(i), maxLength);
    let row = open.find((r) => r.room >= n);
    if (row === undefined) {
      if (open.length >= OPEN_ROWS) yield (open.shift() as { items: number[] }).items;
      open.push((row = { items: [], room: maxLength }));
    }
    row.items.push(i);
    row.room -= n;
    if (row.room < 2) {
      const full = row;
      yield full.items;
      open = open.filter((r) => r !== full);
    }
  }
  for (const row of open) yield row.items;
}

/** random_concat_ratio of the official configuration: how often an example that does not begin a row loses its first token. */
const CONCAT_RATIO = 0.2;

/**
 * The paper's rows over all examples in file order, themselves as examples: fixed length, padded, each one causal sequence. Files that
 * are mixed by weights are packed each on its own.
 */
export function esftRows(examples: Examples, length: number, padId: number | undefined, seed: number): Examples {
  if (padId === undefined)
    throw new ConfigError('packing "esft" needs padId (the tokenizer\'s pad token, or its eos where it has none)', {
      where: { key: "padId" },
    });
  const rows = new ExampleBuilder();
  const pack = (of: Iterable<Encoded>): void => {
    const random = new PythonRandom(seed);
    let number = 1;
    for (const row of packEsft(of, { length, ratio: CONCAT_RATIO, padId, draw: () => random.random() })) rows.add(row, number++);
  };
  const { origins, weights } = examples;
  if (weights === null) {
    pack(examples);
    return rows.build(examples.file);
  }
  const all = Array.from({ length: examples.length }, (_, i) => i);
  const ends = origins.map((origin, file) => {
    pack(examples.subset(all.filter((i) => examples.originIndex(i) === file)));
    return { origin, end: rows.length };
  });
  return rows.buildFiles(ends).mixed(weights);
}
