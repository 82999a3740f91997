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

/** Device tensors for batches of up to `capacity` tokens, reused. */
export class BatchBuffers {
  readonly capacity: number;
  private readonly device: Device;
  private readonly tables: BatchTables;
  private readonly all: Tensor[];
  private readonly bounds: Tensor;
  private views: { tokens: number; batch: Batch; targets: Tensor } | null = null;

  constructor(device: Device, capacity: number, tables: BatchTables) {
    this.device = device;
    this.capacity = capacity;
    this.tables = tables;
    const vectors = 4 + (tables.length === null ? 0 : 1) + tables.chunks.length;
    this.all = Array.from({ length: vectors }, () => this.device.empty("i32", [capacity]));
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
    if (this.views?.tokens !== T) {
      this.dropViews();
      const views = this.all.map((t) => t.view(0, [T])) as [Tensor, Tensor, Tensor, Tensor, ...Tensor[]];
      const [ids, positions, docStart, targets, ...others] = views;
      const rowsByLength = this.tables.length === null ? null : (others.shift() ?? null);
      const batch = { tokens: T, ids, positions, rowsByLength, docStart, chunkStarts: others, bounds: this.bounds };
      this.views = { tokens: T, batch, targets };
      this.bounds.write([0, T]);
    }
    const { batch, targets } = this.views;
    batch.ids.write(host.ids);
    batch.positions.write(host.positions);
    const { length, chunks } = this.tables;
    if (length !== null) batch.rowsByLength?.write(rowsByLength(host, length));
    batch.docStart.write(host.docStart);
    chunks.forEach((size, i) => batch.chunkStarts[i]?.write(chunkStarts(host.docStart, size)));
    targets.write(host.targets);
    return { batch, targets, maxPosition };
  }

  private dropViews(): void {
    if (!this.views) return;
    const { batch, targets } = this.views;
    for (const t of [batch.ids, batch.positions, batch.rowsByLength, batch.docStart, ...batch.chunkStarts, targets]) t?.dispose();
    this.views = null;
  }

  dispose(): void {
    this.dropViews();
    for (const t of [...this.all, this.bounds]) t.dispose();
  }
}
