// A micro-batch on the host and its way to the device. Rows are laid one after another; documents never see each other.

import { DataError } from "../errors.ts";
import type { Device, Tensor } from "../tensor.ts";
import type { Batch } from "./run.ts";

/** A flat sequence of T tokens. */
export interface HostBatch {
  readonly ids: Int32Array;
  /** Position of each token inside its document. */
  readonly positions: Int32Array;
  /** Index in this batch of the first token of each token's document; non-decreasing. */
  readonly docStart: Int32Array;
  /** The token to predict at each position (already shifted by one), −100 = not supervised. */
  readonly targets: Int32Array;
  /** Position of the last token of each token's document, where tokens of it are not in the batch. */
  readonly lastPositions?: Int32Array;
  /** Number of targets that are not −100. */
  readonly supervised: number;
}

export interface BatchRow {
  readonly ids: ArrayLike<number>;
  /** −100 or the token to predict next. */
  readonly targets: ArrayLike<number>;
  /** First token (index in the row) of each token's document; absent = the row is one document. */
  readonly docStart?: ArrayLike<number>;
  /** Absent = counted from docStart. */
  readonly positions?: ArrayLike<number>;
}

/** Concatenates rows. */
export function hostBatch(rows: readonly BatchRow[]): HostBatch {
  const T = rows.reduce((n, r) => n + r.ids.length, 0);
  const ids = new Int32Array(T);
  const positions = new Int32Array(T);
  const docStart = new Int32Array(T);
  const targets = new Int32Array(T);
  let at = 0;
  let supervised = 0;
  for (const row of rows) {
    for (let i = 0; i < row.ids.length; i++) {
      const start = row.docStart?.[i] ?? 0;
      ids[at + i] = row.ids[i]!;
      docStart[at + i] = at + start;
      positions[at + i] = row.positions?.[i] ?? i - start;
      targets[at + i] = row.targets[i]!;
      if (row.targets[i]! >= 0) supervised++;
    }
    at += row.ids.length;
  }
  return { ids, positions, docStart, targets, supervised };
}

/** The first token of each token's chunk: chunks of `size` tokens, counted from the start of each document. */
export function chunkStarts(docStart: Int32Array, size: number): Int32Array {
  return docStart.map((start, t) => t - ((t - start) % size));
}

/** Row of each token in a table with two rows for each position: the second is for documents of more than `length` tokens. */
function rowsByLength({ positions, docStart, lastPositions }: HostBatch, length: number): Int32Array {
  const T = positions.length;
  const rows = new Int32Array(T);
  for (let begin = 0, end = 0; begin < T; begin = end) {
    let last = 0;
    for (end = begin; end < T && docStart[end] === docStart[begin]; end++) last = Math.max(last, lastPositions?.[end] ?? positions[end]!);
    for (let t = begin; t < end; t++) rows[t] = 2 * positions[t]! + (last >= length ? 1 : 0);
  }
  return rows;
}

/** What the model wants of a batch besides. */
export interface BatchTables {
  /** Sizes of the chunks whose starts are wanted. */
  readonly chunks: readonly number[];
  /** Tokens of a document from which on its rotary tables are others; null: never. */
  readonly length: number | null;
}

/** A batch's vectors side by side, each beginning at a multiple of so many numbers: one copy brings them all. */
const APART = 16;
const apart = (tokens: number): number => Math.ceil(tokens / APART) * APART;

/** What there is for batches of T tokens. */
interface Bound {
  readonly tokens: number;
  readonly batch: Batch;
  readonly targets: Tensor;
  readonly all: Tensor;
  /** What is copied to `all`, and the parts of it that are its vectors. */
  readonly staged: Int32Array;
  readonly parts: readonly Int32Array[];
}

/** Device tensors for batches of up to `capacity` tokens, reused. */
export class BatchBuffers {
  readonly capacity: number;
  private readonly device: Device;
  private readonly tables: BatchTables;
  private readonly vectors: number;
  private readonly memory: Tensor;
  private readonly bounds: Tensor;
  private bound: Bound | null = null;

  constructor(device: Device, capacity: number, tables: BatchTables) {
    this.device = device;
    this.capacity = capacity;
    this.tables = tables;
    this.vectors = 4 + (tables.length === null ? 0 : 1) + tables.chunks.length;
    this.memory = device.empty("i32", [this.vectors * apart(capacity)]);
    this.bounds = this.device.empty("i32", [2]);
  }

  /** @throws DataError token id or label outside the vocabulary, or an empty batch */
  upload(host: HostBatch, vocab: number): { batch: Batch; targets: Tensor; maxPosition: number } {
    const T = host.ids.length;
    if (T === 0) throw new DataError("a batch must have at least one token, found none");
    let maxPosition = 0;
    for (let t = 0; t < T; t++) {
      const id = host.ids[t]!;
      if (id < 0 || id >= vocab)
        throw new DataError(
          `token id ${id} at position ${t} is outside the model's vocabulary of ${vocab}; the tokenizer does not belong to this model`,
          {
            where: { token: id, vocab },
          },
        );
      const target = host.targets[t]!;
      if (target !== -100 && (target < 0 || target >= vocab))
        throw new DataError(`label ${target} at position ${t} is neither −100 nor inside the model's vocabulary of ${vocab}`, {
          where: { label: target, vocab },
        });
      if (host.positions[t]! > maxPosition) maxPosition = host.positions[t]!;
    }
    const { batch, targets, all, staged, parts } = this.bind(T);
    const { length, chunks } = this.tables;
    const byLength = length === null ? [] : [rowsByLength(host, length)];
    const starts = chunks.map((size) => chunkStarts(host.docStart, size));
    [host.ids, host.positions, host.docStart, host.targets, ...byLength, ...starts].forEach((x, i) => parts[i]!.set(x));
    all.write(staged);
    return { batch, targets, maxPosition };
  }

  private bind(T: number): Bound {
    if (this.bound?.tokens === T) return this.bound;
    this.unbind();
    const stride = apart(T);
    const { bounds, memory, vectors } = this;
    const staged = new Int32Array(vectors * stride);
    const parts = Array.from({ length: vectors }, (_, i) => staged.subarray(i * stride, i * stride + T));
    const views = parts.map((_, i) => memory.view(i * stride, [T])) as [Tensor, Tensor, Tensor, Tensor, ...Tensor[]];
    const [ids, positions, docStart, targets, ...others] = views;
    const rowsByLength = this.tables.length === null ? null : (others.shift() ?? null);
    const batch = { tokens: T, ids, positions, rowsByLength, docStart, chunkStarts: others, bounds };
    bounds.write([0, T]);
    return (this.bound = { tokens: T, batch, targets, all: memory.view(0, [staged.length]), staged, parts });
  }

  private unbind(): void {
    if (!this.bound) return;
    const { batch, targets, all } = this.bound;
    for (const t of [batch.ids, batch.positions, batch.rowsByLength, batch.docStart, ...batch.chunkStarts, targets, all]) t?.dispose();
    this.bound = null;
  }

  dispose(): void {
    this.unbind();
    this.memory.dispose();
    this.bounds.dispose();
  }
}
