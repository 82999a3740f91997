// Batches without end, the same for the same data, options and seed, and resumable from a small cursor.
//
// Epoch e shuffles the examples by (seed, e) and plans its rows from that order alone, so the cursor (epoch, row) says everything:
// there is no packer state to save.

import { ConfigError } from "../errors.ts";
import type { Examples } from "./examples.ts";
import { esftRows, fit, packDocuments, planRows, usableExamples, type PackedRow, type PackingOptions } from "./packing.ts";
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

/** Where a stream stands; plain JSON. `fingerprint` ties it to data and options. */
export interface BatchCursor {
  readonly epoch: number;
  readonly row: number;
  readonly fingerprint: string;
}

export interface Batch {
  readonly rows: readonly PackedRow[];
  /** Epoch of the first row. */
  readonly epoch: number;
  readonly tokens: number;
  readonly supervised: number;
}

export class BatchStream {
  readonly fingerprint: string;
  readonly #examples: Examples;
  readonly #options: BatchOptions;
  readonly #usable: Uint32Array;
  readonly #fixed: readonly PackedRow[] | null; // packing "esft": rows are made once, epochs only reorder them
  #epoch = 0;
  #row = 0;
  #plan: readonly Uint32Array[] | null = null;
  #planEpoch = -1;

  constructor(examples: Examples, options: BatchOptions) {
    const { packing, maxLength, onOverflow, seed, shuffle = true, padId } = options;
    const esft = packing === "esft";
    this.#examples = examples;
    this.#options = options;
    this.#fixed = esft ? esftRows(examples, maxLength, padId, seed) : null;
    this.#usable = esft ? new Uint32Array() : usableExamples(examples, options);
    this.fingerprint = `${examples.fingerprint()}:${JSON.stringify([packing, maxLength, onOverflow, shuffle, seed, esft && padId])}`;
  }

  // The rows of an epoch as lists of example indices (or, for "esft", of row numbers).
  #rowsOf(epoch: number): readonly Uint32Array[] {
    if (this.#plan !== null && this.#planEpoch === epoch) return this.#plan;
    const { seed, shuffle = true, maxLength, packing } = this.#options;
    const n = this.#fixed?.length ?? this.#usable.length;
    const order = shuffle ? shuffledIndices(n, seed, epoch) : Uint32Array.from({ length: n }, (_, i) => i);
    const chosen = this.#fixed === null ? order.map((i) => this.#usable[i] as number) : order;
    this.#plan =
      this.#fixed !== null || packing === "none"
        ? Array.from(chosen, (i) => Uint32Array.of(i))
        : planRows(chosen, (i) => this.#examples.size(i), maxLength);
    this.#planEpoch = epoch;
    return this.#plan;
  }

  #make(items: Uint32Array): PackedRow {
    if (this.#fixed !== null) return this.#fixed[items[0] as number] as PackedRow;
    const { maxLength, onOverflow } = this.#options;
    return packDocuments(Array.from(items, (i) => fit(this.#examples.get(i), maxLength, onOverflow)));
  }

  /** Rows in an epoch; it varies a little from epoch to epoch with the order. */
  rowsInEpoch(epoch: number): number {
    return this.#rowsOf(epoch).length;
  }

  /** All rows of one epoch, leaving the cursor alone. For evaluation: shuffle false, epoch 0. */
  *rows(epoch = 0): Generator<PackedRow> {
    for (const items of this.#rowsOf(epoch)) yield this.#make(items);
  }

  /** The next batch: always rowsPerBatch rows; the last one of an epoch is filled up from the next epoch. */
  next(): Batch {
    const rows: PackedRow[] = [];
    const epoch = this.#row >= this.#rowsOf(this.#epoch).length ? this.#epoch + 1 : this.#epoch;
    while (rows.length < this.#options.rowsPerBatch) {
      const plan = this.#rowsOf(this.#epoch);
      if (this.#row >= plan.length) {
        this.#epoch++;
        this.#row = 0;
        continue;
      }
      rows.push(this.#make(plan[this.#row++] as Uint32Array));
    }
    const sum = (of: (row: PackedRow) => number): number => rows.reduce((n, row) => n + of(row), 0);
    return { rows, epoch, tokens: sum((r) => r.ids.length), supervised: sum((r) => r.supervised) };
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
