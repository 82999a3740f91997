// Planned memory of activations.
//
// A layer asks a Planner for its slots once, when it is composed, and keeps the handles; at run time `run.at(slot)` is an array
// index and no view is made. Lifetimes decide what shares memory:
//
//   shared    one for the whole model, for a whole pass (sharedBackward: not there when nothing trains)
//   kept      from a layer's forward to its backward: own memory in a layer that keeps activations, else as scratch
//   saved     only read by a backward: as kept, and not there at all in a layer that keeps nothing
//   scratch   within one layer's forward; all layers use the same memory
//   decoding  as scratch, and without memory where the plan is not allocated for decoding
//   backward  within one layer's backward; all layers use the same memory, that of the forward's scratch
//
// The plan is a table that can be printed and checked against the machine before anything is allocated; no tensor survives a
// layer's forward unless the plan says so.

import { DisposedError, MemoryError } from "../errors.ts";
import { bytesOf } from "../tensor.ts";
import type { Device, DType, Tensor } from "../tensor.ts";

/** `perToken` columns for each of T tokens (0 = a vector of T), or a fixed shape. */
export interface SlotSpec {
  /** "act": an activation, in the dtype that the device's ops take. */
  readonly dtype: DType | "act";
  readonly perToken?: number;
  /** Rows per token when not 1 (routed rows: K). */
  readonly rowsPerToken?: number;
  readonly fixed?: readonly number[];
  /** So many rows, with a column for each token. */
  readonly across?: number;
}

/** An activation: f32 or bf16, as the device has them. */
export const act = (perToken: number, rowsPerToken = 1): SlotSpec => ({ dtype: "act", perToken, rowsPerToken });
export const f32 = (perToken: number, rowsPerToken = 1): SlotSpec => ({ dtype: "f32", perToken, rowsPerToken });
export const i32 = (perToken: number, rowsPerToken = 1): SlotSpec => ({ dtype: "i32", perToken, rowsPerToken });

export type Lifetime = "shared" | "kept" | "scratch" | "decoding" | "backward";

/** A place in the plan: what a layer holds instead of a name. */
export interface Slot {
  readonly index: number;
  readonly spec: SlotSpec;
}

export interface PlanRow {
  readonly owner: string;
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: number;
  readonly lifetime: Lifetime;
}

type View = { readonly of: number; readonly columns: readonly [from: number, to: number] | null; readonly part?: number };

interface Entry {
  readonly owner: string;
  readonly name: string;
  readonly spec: SlotSpec;
  /** null: nothing reads it, it has no memory. */
  readonly lifetime: Lifetime | null;
  /** A view of another entry: its columns [from, to), or as many of its elements as other rows, from part `part` on. */
  readonly view: View | null;
}

const ALIGN = 64;
const align = (bytes: number): number => Math.ceil(bytes / ALIGN) * ALIGN;

/** Hands out the slots of one owner: the model itself, or one of its layers. */
export class Planner {
  /** Activations of this owner live until a backward reads them. */
  readonly keeps: boolean;
  private readonly entries: Entry[];
  private readonly owner: string;
  private readonly prefix: string;

  constructor(entries: Entry[], owner: string, keeps: boolean, prefix = "") {
    this.entries = entries;
    this.owner = owner;
    this.keeps = keeps;
    this.prefix = prefix;
  }

  /** The same owner; the names in the printed table begin with `part`. */
  named(part: string): Planner {
    return new Planner(this.entries, this.owner, this.keeps, `${this.prefix}${part}.`);
  }

  shared(spec: SlotSpec, name: string): Slot {
    return this.add(spec, name, "shared");
  }
  sharedBackward(spec: SlotSpec, name: string): Slot {
    return this.add(spec, name, this.keeps ? "shared" : null);
  }
  kept(spec: SlotSpec, name: string): Slot {
    return this.add(spec, name, this.keeps ? "kept" : "scratch");
  }
  saved(spec: SlotSpec, name: string): Slot {
    return this.add(spec, name, this.keeps ? "kept" : null);
  }
  scratch(spec: SlotSpec, name: string): Slot {
    return this.add(spec, name, "scratch");
  }
  decoding(spec: SlotSpec, name: string): Slot {
    return this.add(spec, name, "decoding");
  }
  backward(spec: SlotSpec, name: string): Slot {
    return this.add(spec, name, this.keeps ? "backward" : null);
  }
  /** Columns [from, to) of a matrix slot, as a view that is made once. */
  columns(slot: Slot, from: number, to: number): Slot {
    const base = this.entries[slot.index];
    const lifetime = base?.lifetime ?? null;
    return this.add({ ...slot.spec, perToken: to - from }, "", lifetime, { of: slot.index, columns: [from, to] });
  }
  /** A matrix slot with every row cut into `n` rows of as many columns: the heads of a projection. */
  rows(slot: Slot, n: number): Slot {
    const { perToken = 0, rowsPerToken = 1 } = slot.spec;
    const lifetime = this.entries[slot.index]?.lifetime ?? null;
    return this.add({ ...slot.spec, perToken: perToken / n, rowsPerToken: rowsPerToken * n }, "", lifetime, {
      of: slot.index,
      columns: null,
    });
  }

  /** One of `n` parts of equal rows, one after the other: what a layer writes of a slot that all layers share. */
  part(slot: Slot, i: number, n: number): Slot {
    const { rowsPerToken = 1 } = slot.spec;
    const lifetime = this.entries[slot.index]?.lifetime ?? null;
    return this.add({ ...slot.spec, rowsPerToken: rowsPerToken / n }, "", lifetime, { of: slot.index, columns: null, part: i });
  }

  /** Row `i` of a slot with tokens across, as a vector of T. */
  row(slot: Slot, i: number): Slot {
    const lifetime = this.entries[slot.index]?.lifetime ?? null;
    return this.add({ dtype: slot.spec.dtype, perToken: 0 }, "", lifetime, { of: slot.index, columns: null, part: i });
  }

  private add(spec: SlotSpec, name: string, lifetime: Lifetime | null, view: View | null = null): Slot {
    this.entries.push({ owner: this.owner, name: this.prefix + name, spec, lifetime, view });
    return { index: this.entries.length - 1, spec };
  }
}

function shapeOf(spec: SlotSpec, T: number): number[] {
  if (spec.fixed) return [...spec.fixed];
  if (spec.across !== undefined) return [spec.across, T];
  const rows = T * (spec.rowsPerToken ?? 1);
  return spec.perToken === undefined || spec.perToken === 0 ? [rows] : [rows, spec.perToken];
}

function viewOf(of: Tensor, { columns, part = 0 }: View, shape: readonly number[]): Tensor {
  return columns ? of.columns(columns[0], columns[1]) : of.view(part * shape.reduce((a, b) => a * b, 1), shape);
}

/** Collects slots, allocates them in one arena for up to `capacity` tokens, and hands out tensors for T <= capacity. */
export class ActivationPlan {
  private readonly entries: Entry[] = [];
  /** Dtype of activations. */
  private readonly activation: DType;
  private arena: Tensor | null = null;
  private offsets: readonly (number | null)[] = [];
  private bound: readonly (Tensor | null)[] = [];
  private boundTokens = -1;
  /** Tokens that an allocated plan holds; 0 before. */
  capacity = 0;
  /** What only decoding uses has memory. */
  private forDecoding = false;

  constructor(activation: DType) {
    this.activation = activation;
  }

  planner(owner: string, keeps: boolean): Planner {
    return new Planner(this.entries, owner, keeps);
  }

  private dtypeOf(spec: SlotSpec): DType {
    return spec.dtype === "act" ? this.activation : spec.dtype;
  }
  private sizeOf(spec: SlotSpec, T: number): number {
    return shapeOf(spec, T).reduce((a, b) => a * b, 1) * bytesOf(this.dtypeOf(spec));
  }

  /** It has what decoding takes, which may be nothing. */
  get decodes(): boolean {
    return this.forDecoding || !this.entries.some((e) => e.lifetime === "decoding");
  }

  private lifetimeOf({ lifetime }: Entry): Lifetime | null {
    return lifetime !== "decoding" ? lifetime : this.forDecoding ? "scratch" : null;
  }
  /** Where each slot lies: what lives long one after another, then one region that all layers' passes lay their scratch over. */
  private layOut(capacity: number): { offsets: (number | null)[]; bytes: number; largest: string } {
    const offsets: (number | null)[] = this.entries.map(() => null);
    let top = 0;
    const passes = new Map<string, number>();
    this.entries.forEach((e, i) => {
      const lifetime = this.lifetimeOf(e);
      if (e.view || lifetime === null) return;
      const size = align(this.sizeOf(e.spec, capacity));
      if (lifetime === "shared" || lifetime === "kept") {
        offsets[i] = top;
        top += size;
        return;
      }
      const pass = `${lifetime} ${e.owner}`;
      offsets[i] = passes.get(pass) ?? 0;
      passes.set(pass, (passes.get(pass) ?? 0) + size);
    });
    let largest = "";
    for (const [pass, size] of passes) if (size > (passes.get(largest) ?? 0)) largest = pass;
    this.entries.forEach((e, i) => {
      if (e.view || offsets[i] === null || offsets[i] === undefined) return;
      const lifetime = this.lifetimeOf(e);
      if (lifetime === "scratch" || lifetime === "backward") offsets[i] += top;
    });
    return { offsets, bytes: top + (passes.get(largest) ?? 0), largest };
  }

  /** Everything with memory of its own, and the scratch of the layer's pass that needs most: the others lie over it. */
  table(capacity: number): PlanRow[] {
    const { largest } = this.layOut(capacity);
    return this.entries.flatMap((e): PlanRow[] => {
      const { owner, name, spec, view } = e;
      const lifetime = this.lifetimeOf(e);
      if (view || lifetime === null) return [];
      const lasting = lifetime === "shared" || lifetime === "kept";
      if (!lasting && `${lifetime} ${owner}` !== largest) return [];
      const shape = shapeOf(spec, capacity);
      return [{ owner: lasting ? owner : "*", name, dtype: this.dtypeOf(spec), shape, bytes: this.sizeOf(spec, capacity), lifetime }];
    });
  }
  /** Of the arena for batches of up to `capacity` tokens. */
  bytes(capacity: number): number {
    return this.layOut(capacity).bytes;
  }

  /** @throws MemoryError it does not fit */
  allocate(device: Device, capacity: number, decoding = false): void {
    this.dispose();
    this.forDecoding = decoding;
    const { offsets, bytes } = this.layOut(capacity);
    try {
      this.arena = device.empty("u8", [Math.max(bytes, ALIGN)]);
    } catch (error) {
      if (error instanceof DisposedError) throw error;
      throw new MemoryError(
        `activations: ${(bytes / 2 ** 30).toFixed(2)} GiB for ${capacity} tokens could not be allocated; use shorter rows (maxLength), ` +
          `fewer rows per micro-batch (microBatch), or train only upper layers`,
        { cause: error },
      );
    }
    this.offsets = offsets;
    this.capacity = capacity;
  }

  /** The tensors of all slots for T tokens, by slot index; null where a slot has no memory. Kept until T changes. */
  bind(T: number): readonly (Tensor | null)[] {
    const { arena } = this;
    if (!arena) throw new MemoryError("activation plan used before allocate()");
    if (T > this.capacity) throw new MemoryError(`a batch of ${T} tokens exceeds the plan's ${this.capacity}`);
    if (T === this.boundTokens) return this.bound;
    this.unbind();
    const bound: (Tensor | null)[] = [];
    this.bound = bound;
    this.entries.forEach((e, i) => {
      const of = e.view ? bound[e.view.of] : null;
      const offset = this.offsets[i] ?? null;
      if (e.view) bound.push(of ? viewOf(of, e.view, shapeOf(e.spec, T)) : null);
      else if (offset === null) bound.push(null);
      else {
        const dtype = this.dtypeOf(e.spec);
        bound.push(arena.view(offset / bytesOf(dtype), shapeOf(e.spec, T), { dtype }));
      }
    });
    this.boundTokens = T;
    return bound;
  }

  /** What a slot is called, for messages. */
  nameOf(slot: Slot): string {
    const e = this.entries[slot.index];
    return e ? `${e.owner}/${e.name}` : "unknown";
  }

  private unbind(): void {
    for (const t of this.bound) t?.dispose();
    this.bound = [];
    this.boundTokens = -1;
  }

  dispose(): void {
    this.unbind();
    this.arena?.dispose();
    this.arena = null;
    this.capacity = 0;
  }
}
