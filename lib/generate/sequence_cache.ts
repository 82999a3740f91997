// What the model keeps of one sequence while it is decoded: a tensor per state of its layers (model/states.ts). Keys, values and latents grow
// with the sequence, rings of sliding windows and the states of linear attention do not.

import { MemoryError } from "../errors.ts";
import type { StateSpec } from "../model/states.ts";
import * as ops from "../ops.ts";
import { TensorList } from "../tensor.ts";
import type { Device, DType, Tensor } from "../tensor.ts";

const LEAST = 64;

export class SequenceCache {
  /** Tokens that the states have taken in. */
  kept = 0;
  /** It was taken in with the rotary tables of long sequences. */
  longTables = false;
  readonly tensors: Tensor[];
  /** An item each: of a pass with this sequence alone. */
  private alone: TensorList[] | null = null;
  private positions: number;
  private readonly device: Device;
  private readonly specs: readonly StateSpec[];
  private readonly dtype: DType;
  private readonly most: number;

  /**
   * @param positions expected length of the sequence: memory for more is made when it is needed
   * @param most tokens of one pass
   * @throws MemoryError
   */
  constructor(device: Device, specs: readonly StateSpec[], dtype: DType, positions: number, most: number) {
    this.device = device;
    this.specs = specs;
    this.dtype = dtype;
    this.most = most;
    this.positions = Math.max(positions, LEAST);
    this.tensors = [];
    try {
      for (const spec of specs) this.tensors.push(this.make(spec));
    } catch (error) {
      this.dispose();
      throw new MemoryError(`a cache for ${positions} positions could not be allocated; ask for fewer tokens (maxTokens)`, {
        cause: error,
      });
    }
  }

  private make(spec: StateSpec): Tensor {
    if (spec.kind === "matrix") return this.device.empty("f32", [spec.rows, spec.cols]);
    const ring = spec.reach === null ? this.positions : Math.min(this.positions, spec.reach + this.most - 1);
    return this.device.empty(this.dtype, [ring, spec.width]);
  }

  /** Memory for so many positions in all, twice as many as before at least. Waits for nothing: copies are queued. False: it was there. */
  reserve(positions: number): boolean {
    if (positions <= this.positions) return false;
    this.positions = Math.max(positions, 2 * this.positions);
    this.forgetLists();
    this.specs.forEach((spec, i) => {
      const old = this.tensors[i]!;
      if (spec.kind === "matrix") return;
      const next = this.make(spec);
      if (next.shape[0] === old.shape[0]) return next.dispose();
      // A ring that was not yet as long as its reach had never wrapped: rows are where they belong.
      using first = next.rows(0, old.shape[0]!);
      ops.cast(this.device, { x: old, y: first });
      this.tensors[i] = next;
      old.dispose();
    });
    return true;
  }

  /** As if no token had been taken in. */
  clear(): void {
    this.kept = 0;
    this.specs.forEach((spec, i) => {
      if (spec.kind === "matrix") ops.fill(this.device, { x: this.tensors[i]!, value: 0 });
    });
  }

  lists(): readonly TensorList[] {
    return (this.alone ??= this.tensors.map((t) => new TensorList([t])));
  }
  private forgetLists(): void {
    for (const list of this.alone ?? []) list.dispose();
    this.alone = null;
  }

  dispose(): void {
    this.forgetLists();
    for (const t of this.tensors) t.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** The lists of a pass over several sequences, made again only when these are others or have moved. */
export class BatchLists {
  private of: readonly Tensor[] = [];
  private made: readonly TensorList[] = [];

  lists(caches: readonly SequenceCache[]): readonly TensorList[] {
    if (caches.length === 1) return caches[0]!.lists();
    const of = caches.flatMap((c) => c.tensors);
    if (of.length === this.of.length && of.every((t, i) => t === this.of[i])) return this.made;
    this.dispose();
    this.of = of;
    this.made = (caches[0]?.tensors ?? []).map((_, i) => new TensorList(caches.map((c) => c.tensors[i]!)));
    return this.made;
  }

  dispose(): void {
    for (const list of this.made) list.dispose();
    this.of = [];
    this.made = [];
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
