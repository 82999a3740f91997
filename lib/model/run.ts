// What every layer gets at run time: one micro-batch on its way through the model.
//
// The gradient protocol: parameter gradients are overwritten by the first pass of a step and added to by the others
// (`accumulate`), activation gradients overwrite (=), only the residual stream adds. Freezing is three nulls: nothing saved, no input gradient wanted, no weight gradient (Parameter.grad === null).

import { MemoryError } from "../errors.ts";
import * as ops from "../ops.ts";
import type { Precision } from "../ops.ts";
import type { Device, Tensor, TensorList } from "../tensor.ts";
import type { PositionTables, RopeHandle, RopeTable } from "./rope_table.ts";
import type { ActivationPlan, Slot } from "./slots.ts";
import type { Continued, Shares, StateHandle } from "./states.ts";

/** One micro-batch on the device: a flat sequence of T tokens; documents (and batch rows) are told apart by docStart. */
export interface Batch {
  readonly tokens: number;
  readonly ids: Tensor;
  readonly positions: Tensor;
  /** Rows of rotary tables that depend on the length of the document; null: the model has none. */
  readonly rowsByLength: Tensor | null;
  readonly docStart: Tensor;
  /** The same of chunks inside of documents, by the handle of their size. */
  readonly chunkStarts: readonly Tensor[];
  /** i32 (0, T): all tokens as the rows of one expert, for the MLPs that every token passes. */
  readonly bounds: Tensor;
}

export interface PooledBalance {
  readonly scale: Tensor;
  readonly sum: Tensor;
}

export class Run {
  readonly device: Device;
  readonly batch: Batch;
  readonly precision: Precision;
  /** True in a forward whose activations a backward will read. */
  readonly keep: boolean;
  /** Weight of the routers' load-balancing loss times the gradient scale, f64 [1]; null = off. Acts on routers that train. */
  balance: Tensor | null = null;
  /** Of the load-balancing losses that a method weighs: factor of the gradient, f64 [1], and the sum of their layers, f64 [1]. Null: no backward. */
  balances: readonly [PooledBalance, PooledBalance] | null = null;
  /** Number of the pass, f64 [1], that masks of dropout are functions of; null: nothing is dropped out. */
  dropout: Tensor | null = null;
  /** Whose rows are whose, where adapters are mixed. */
  readonly shares: Shares | null;
  /** Documents go on where earlier passes left them; null: each is whole. */
  readonly continued: Continued | null;
  /** Parameter gradients are added to; else overwritten, whatever they hold. */
  accumulate = true;
  private readonly plan: ActivationPlan;
  private readonly tensors: readonly (Tensor | null)[];
  /** Another object when the tables are others. */
  readonly ropes: PositionTables;

  constructor(init: {
    device: Device;
    batch: Batch;
    precision: Precision;
    keep: boolean;
    plan: ActivationPlan;
    ropes: PositionTables;
    continued?: Continued | null;
  }) {
    this.device = init.device;
    this.batch = init.batch;
    this.precision = init.precision;
    this.keep = init.keep;
    this.plan = init.plan;
    this.tensors = init.plan.bind(init.batch.tokens);
    this.ropes = init.ropes;
    this.continued = init.continued ?? null;
    this.shares = this.continued?.shares ?? null;
  }

  /** A parameter's gradient for an op that can only add: zeros first, in a pass that overwrites. */
  addable(grad: Tensor | null | undefined): Tensor | null {
    if (grad && !this.accumulate) ops.fill(this.device, { x: grad, value: 0 });
    return grad ?? null;
  }

  /** The tensor of a slot. */
  at(slot: Slot): Tensor {
    const t = this.tensors[slot.index];
    if (!t) throw new MemoryError(`activation "${this.plan.nameOf(slot)}" has no memory in this plan`);
    return t;
  }
  /** The tensor of a saved slot, or null when no backward will read it. */
  saved(slot: Slot): Tensor | null {
    return this.keep ? (this.tensors[slot.index] ?? null) : null;
  }
  /** A layer's states, one for each document; null: documents are whole. */
  state(handle: StateHandle): TensorList | null {
    return this.continued ? this.keptBy(handle) : null;
  }
  /** The same in a pass that goes on with documents. */
  keptBy(handle: StateHandle): TensorList {
    const list = this.continued?.lists[handle.index];
    if (!list) throw new MemoryError(`state ${handle.index} was not given`);
    return list;
  }
  rope(handle: RopeHandle): RopeTable {
    const table = this.ropes.ropes[handle.index];
    if (!table) throw new MemoryError(`rotary table ${handle.index} was not staged`);
    return table;
  }
  /** The first token that attention of a token sees: of its document, or of its chunk there. */
  firstKeys(chunk: RopeHandle | null): Tensor {
    if (!chunk) return this.batch.docStart;
    const starts = this.batch.chunkStarts[chunk.index];
    if (!starts) throw new MemoryError(`starts of chunks ${chunk.index} were not staged`);
    return starts;
  }
  queryFactors(handle: RopeHandle): Tensor {
    const table = this.ropes.queryFactors[handle.index];
    if (!table) throw new MemoryError(`query factors ${handle.index} were not staged`);
    return table;
  }
}
