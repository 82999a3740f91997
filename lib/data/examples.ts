// Encoded examples, held compactly: one array of ids, one bit-per-token array of what is supervised, and where each example begins.

import { createHash } from "node:crypto";
import { ConfigError } from "../errors.ts";
import { IGNORE, type Encoded } from "./masks.ts";
import { placeIn, type Origin } from "./place.ts";
import { ShuffleRandom } from "./shuffle.ts";

export interface Example extends Encoded {
  readonly inputIds: Int32Array;
  readonly labels: Int32Array;
}

/** A token id and whether it is supervised. */
const BYTES_PER_TOKEN = 5;

/** Grows while a dataset is read. A label is always the token itself or −100, so one bit per token says it all. */
export class ExampleBuilder {
  #ids = new Int32Array(1 << 14);
  #trained = new Uint8Array(1 << 14);
  #used = 0;
  readonly #starts: number[] = [0];
  readonly #lines: number[] = [];

  /** Examples that were added. */
  get length(): number {
    return this.#lines.length;
  }
  /** Bytes that are taken to add an example of `n` tokens: mostly none. */
  growth(n: number): number {
    return this.#used + n > this.#ids.length ? this.#capacityFor(n) * BYTES_PER_TOKEN : 0;
  }
  /** Bytes that `build` takes while all else is still held. */
  get buildBytes(): number {
    return this.#used * BYTES_PER_TOKEN + this.#lines.length * 12;
  }
  #capacityFor(n: number): number {
    return Math.max(2 * this.#ids.length, this.#used + n);
  }

  /** `line`: in the file, or number of the row, from 1. */
  add(example: Encoded, line: number): void {
    const n = example.inputIds.length;
    if (this.#used + n > this.#ids.length) {
      const capacity = this.#capacityFor(n);
      const [ids, trained] = [this.#ids, this.#trained];
      this.#ids = new Int32Array(capacity);
      this.#ids.set(ids);
      this.#trained = new Uint8Array(capacity);
      this.#trained.set(trained);
    }
    for (let t = 0; t < n; t++) {
      this.#ids[this.#used + t] = example.inputIds[t] as number;
      this.#trained[this.#used + t] = example.labels[t] === IGNORE ? 0 : 1;
    }
    this.#used += n;
    this.#starts.push(this.#used);
    this.#lines.push(line);
  }

  build(from: Origin | string | null): Examples {
    const origin: Origin = typeof from === "object" && from !== null ? from : { file: from, unit: "line" };
    return this.buildFiles([{ origin, end: this.length }]);
  }

  /** Examples of several files, of each those before its `end`. */
  buildFiles(files: readonly { readonly origin: Origin; readonly end: number }[]): Examples {
    return new Examples({
      ids: this.#ids.slice(0, this.#used),
      trained: this.#trained.slice(0, this.#used),
      starts: Float64Array.from(this.#starts),
      lines: Uint32Array.from(this.#lines),
      order: null,
      origins: files.map((f) => f.origin),
      ends: files.map((f) => f.end),
      weights: null,
    });
  }
}

interface Storage {
  readonly ids: Int32Array;
  readonly trained: Uint8Array;
  readonly starts: Float64Array; // may exceed 2^32 in total
  readonly lines: Uint32Array;
  /** Which stored examples this view holds; null = all, in order. */
  readonly order: Uint32Array | null;
  /** Files that they come from, and for each the stored example after its last. */
  readonly origins: readonly Origin[];
  readonly ends: readonly number[];
  /** Of the files, where they are mixed by weights. */
  readonly weights: readonly number[] | null;
}

export class Examples {
  readonly #store: Storage;
  readonly length: number;

  constructor(store: Storage) {
    this.#store = store;
    this.length = store.order?.length ?? store.lines.length;
  }

  /** Null: rows of a program, or several files. */
  get file(): string | null {
    const { origins } = this.#store;
    return origins.length === 1 ? origins[0]!.file : null;
  }

  /** Where they come from, and what their lines count. */
  get origins(): readonly Origin[] {
    return this.#store.origins;
  }

  /** How their files are mixed: relative shares of an epoch's rows; null: all rows of all files. */
  get weights(): readonly number[] | null {
    return this.#store.weights;
  }

  /** The same examples, mixed by these weights, one per file. */
  mixed(weights: readonly number[] | null): Examples {
    return new Examples({ ...this.#store, weights });
  }

  /** Which of `origins` example i comes from. */
  originIndex(i: number): number {
    const at = this.#index(i);
    return this.#store.ends.findIndex((end) => at < end);
  }

  #index(i: number): number {
    if (!Number.isInteger(i) || i < 0 || i >= this.length)
      throw new ConfigError(`example ${i} does not exist; there are ${this.length}`, { where: { argument: "i" } });
    return this.#store.order?.[i] ?? i;
  }

  /** Where the tokens of example i begin and end. */
  #range(i: number): readonly [number, number] {
    const at = this.#index(i);
    return [this.#store.starts[at] as number, this.#store.starts[at + 1] as number];
  }

  /** Number of tokens of example i. */
  size(i: number): number {
    const [start, end] = this.#range(i);
    return end - start;
  }

  /** Targets of example i cut to its tokens [from, to): supervised tokens but the first, which nothing predicts. */
  supervised(i: number, from = 0, to = this.size(i)): number {
    const [start] = this.#range(i);
    const { trained } = this.#store;
    let n = 0;
    for (let t = start + from + 1; t < start + to; t++) n += trained[t] as number;
    return n;
  }

  /** Bytes held. The parts of a split share what is stored. */
  get bytes(): number {
    const { ids, trained, starts, lines, order } = this.#store;
    return [ids, trained, starts, lines, order].reduce((n, array) => n + (array?.byteLength ?? 0), 0);
  }

  line(i: number): number {
    return this.#store.lines[this.#index(i)] as number;
  }

  /** Where example i comes from, in words: "file:line". */
  place(i: number): string {
    return placeIn(this.#store.origins[this.originIndex(i)]!, this.line(i));
  }

  get(i: number): Example {
    const [start, end] = this.#range(i);
    const inputIds = this.#store.ids.slice(start, end);
    const labels = inputIds.map((id, t) => (this.#store.trained[start + t] === 1 ? id : IGNORE));
    return { inputIds, labels };
  }

  /** Their indices. */
  keys(): IterableIterator<number> {
    return Array.from({ length: this.length }).keys();
  }

  *[Symbol.iterator](): Generator<Example> {
    for (let i = 0; i < this.length; i++) yield this.get(i);
  }

  subset(indices: Iterable<number>): Examples {
    return new Examples({ ...this.#store, order: Uint32Array.from(indices, (i) => this.#index(i)) });
  }

  /** A held-out part chosen by seed: `fraction` of the examples, at least one when there are two or more. Order is kept in both. */
  split(fraction: number, seed: number): { readonly train: Examples; readonly heldOut: Examples } {
    if (!(fraction >= 0 && fraction < 1))
      throw new ConfigError(`the held-out fraction must be in [0, 1), not ${fraction}`, { where: { key: "fraction" } });
    const n = fraction === 0 || this.length < 2 ? 0 : Math.min(this.length - 1, Math.max(1, Math.round(this.length * fraction)));
    const chosen = new Set<number>();
    const random = new ShuffleRandom(seed, HELD_OUT_STREAM);
    while (chosen.size < n) chosen.add(random.below(this.length));
    const all = Array.from({ length: this.length }, (_, i) => i);
    return { train: this.subset(all.filter((i) => !chosen.has(i))), heldOut: this.mixed(null).subset(all.filter((i) => chosen.has(i))) };
  }

  /** SHA-256 over ids, labels and boundaries: a resumed run must see the same data. */
  fingerprint(): string {
    const hash = createHash("sha256");
    for (let i = 0; i < this.length; i++) {
      const [start, end] = this.#range(i);
      hash.update(Int32Array.of(end - start));
      hash.update(this.#store.ids.subarray(start, end));
      hash.update(this.#store.trained.subarray(start, end));
    }
    if (this.weights !== null) {
      const counts = this.origins.map(() => 0);
      for (let i = 0; i < this.length; i++) counts[this.originIndex(i)]!++;
      hash.update(JSON.stringify([this.weights, counts]));
    }
    return hash.digest("hex");
  }
}

const HELD_OUT_STREAM = 0x7e57; // a random stream of its own, so that the split does not depend on the epochs
