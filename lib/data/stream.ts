// Batches without end, the same for the same data, options and seed, and resumable from a small cursor.
//
// Epoch e shuffles the examples by (seed, e) and plans its rows from that order alone, so the cursor (epoch, row) says everything:
// there is no packer state to save. A batch is counted when it is taken and its rows are made as they are read, so that one of a
// million rows costs no more memory than its plan.

import { ConfigError } from "../errors.ts";
import { throwIfAborted } from "../task.ts";
import { rowPlan, Rows } from "./epoch.ts";
import type { Examples } from "./examples.ts";
import { Mixture, type FileShare } from "./mixture.ts";
import { esftRows, planRows, usableExamples, type PackedRow, type PackingOptions } from "./packing.ts";
import { shuffledIndices } from "./shuffle.ts";

/** Checked by trainSchema and dataSchema. */
export interface BatchOptions extends PackingOptions {
  readonly rowsPerBatch: number;
  readonly seed: number;
  /** Default true; false keeps the order of the file in every epoch. */
  readonly shuffle?: boolean;
  /** What fills the rows of packing "esft": the tokenizer's pad token, or its eos where it has none. */
  readonly padId?: number;
}

interface Place {
  readonly epoch: number;
  readonly row: number;
}

/** Where a stream stands; plain JSON. `fingerprint` ties it to data and options. */
export interface BatchCursor extends Place {
  readonly fingerprint: string;
}

export interface Batch {
  /** Made one by one as they are read; each reading makes them anew. */
  readonly rows: Iterable<PackedRow>;
  readonly length: number;
  /** Epoch of the first row. */
  readonly epoch: number;
  readonly tokens: number;
  readonly supervised: number;
}

/** Rows that are counted before the event loop turns: some milliseconds of work. An epoch is planned in one piece. */
const TURN_ROWS = 1 << 14;

export class BatchStream {
  readonly fingerprint: string;
  readonly #examples: Examples; // packing "esft": its rows, made once; epochs only reorder them
  readonly #options: BatchOptions;
  readonly #usable: Uint32Array;
  readonly #mixture: Mixture | null; // of files that have weights
  /** What each of several files gives to an epoch; null: there is one. */
  readonly shares: readonly FileShare[] | null;
  readonly #epochs = new Map<number, Rows>();
  #epoch = 0;
  #row = 0;

  constructor(examples: Examples, options: BatchOptions) {
    const { packing, maxLength, onOverflow, seed, shuffle = true, padId } = options;
    const esft = packing === "esft";
    this.#options = options;
    this.#examples = esft ? esftRows(examples, maxLength, padId, seed) : examples;
    this.#usable = esft ? Uint32Array.from({ length: this.#examples.length }, (_, i) => i) : usableExamples(examples, options);
    const { weights } = this.#examples;
    this.#mixture = weights === null ? null : new Mixture(this.#examples, this.#usable, seed);
    this.shares =
      this.#mixture?.shares ??
      (examples.origins.length > 1 ? new Mixture(examples, esft ? examples.keys() : this.#usable, seed).shares : null);
    this.fingerprint = `${examples.fingerprint()}:${JSON.stringify([packing, maxLength, onOverflow, shuffle, seed, esft && padId])}`;
  }

  /** The rows of one epoch, leaving the cursor alone. For evaluation: shuffle false, epoch 0. */
  rows(epoch = 0): Rows {
    return this.#epochs.get(epoch) ?? this.#plan(epoch);
  }

  #plan(epoch: number): Rows {
    const { seed, shuffle = true, maxLength, packing } = this.#options;
    const usable = this.#usable;
    const mixture = shuffle ? this.#mixture : null;
    const order = mixture
      ? mixture.order(epoch)
      : shuffle
        ? shuffledIndices(usable.length, seed, epoch).map((i) => usable[i] as number)
        : usable;
    const plan =
      packing === "document"
        ? rowPlan(
            planRows(order, (i) => this.#examples.size(i), maxLength),
            order.length,
          )
        : { items: order, starts: null };
    const rows = new Rows(plan, this.#examples, this.#options);
    // Two are kept: a batch at the border of two epochs is counted over both before its rows are made.
    const [oldest] = this.#epochs.keys();
    if (this.#epochs.size > 1) this.#epochs.delete(oldest as number);
    this.#epochs.set(epoch, rows);
    return rows;
  }

  /** Rows in an epoch; it varies a little from epoch to epoch with the order. */
  rowsInEpoch(epoch: number): number {
    return this.rows(epoch).length;
  }

  /**
   * The next batch: always rowsPerBatch rows; the last one of an epoch is filled up from the next epoch. The event loop turns while a
   * large one is counted. @throws AbortError the signal fired meanwhile: the cursor stays where it was
   */
  async next(signal?: AbortSignal): Promise<Batch> {
    const { rowsPerBatch } = this.#options;
    const over = this.#row >= this.rows(this.#epoch).length;
    const first = over ? { epoch: this.#epoch + 1, row: 0 } : { epoch: this.#epoch, row: this.#row };
    let [tokens, supervised, sinceTurn] = [0, 0, 0];
    let last = first;
    for (const part of this.#parts(first, rowsPerBatch)) {
      for (let row = part.row; row < part.end; row++) {
        const count = part.rows.count(row);
        tokens += count.tokens;
        supervised += count.supervised;
        if (++sinceTurn < TURN_ROWS) continue;
        sinceTurn = 0;
        await new Promise(setImmediate);
        throwIfAborted(signal, "training");
      }
      last = { epoch: part.epoch, row: part.end };
    }
    this.#epoch = last.epoch;
    this.#row = last.row;
    return {
      rows: { [Symbol.iterator]: () => this.#make(first, rowsPerBatch) },
      length: rowsPerBatch,
      epoch: first.epoch,
      tokens,
      supervised,
    };
  }

  /** The parts of epochs that the `n` rows from a place on are. */
  *#parts(from: Place, n: number): Generator<Place & { readonly rows: Rows; readonly end: number }> {
    let { epoch, row } = from;
    for (let left = n; left > 0; epoch++, row = 0) {
      const rows = this.rows(epoch);
      const end = Math.min(rows.length, row + left);
      left -= end - row;
      yield { epoch, rows, row, end };
    }
  }

  *#make(from: Place, n: number): Generator<PackedRow> {
    for (const { rows, row, end } of this.#parts(from, n)) for (let r = row; r < end; r++) yield rows.make(r);
  }

  get cursor(): BatchCursor {
    return { epoch: this.#epoch, row: this.#row, fingerprint: this.fingerprint };
  }

  /** Continues where `cursor` stood. Refuses a cursor of other data or options. */
  restore(cursor: BatchCursor): void {
    const { epoch, row, fingerprint } = cursor;
    if (fingerprint !== this.fingerprint)
      throw new ConfigError(
        "the data, tokenizer or packing options differ from those of the run to resume; use the same ones, or start a new run",
        { where: { key: "data", expected: fingerprint, found: this.fingerprint } },
      );
    if (epoch < 0 || row < 0 || row > this.rowsInEpoch(epoch))
      throw new ConfigError(`the data cursor (epoch ${epoch}, row ${row}) does not exist`, { where: { key: "cursor" } });
    this.#epoch = epoch;
    this.#row = row;
  }
}
