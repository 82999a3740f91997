// Planned memory of activations.
//
// Every layer states its slots: name, dtype, columns per token (or a fixed size). A slot is either saved for backward (own
// memory in that layer) or scratch (one buffer per name, shared by all layers). The plan is a table that can be printed and
// checked against the machine before anything is allocated; no tensor survives a layer's forward unless the plan lists it.

import { MemoryError } from "../errors.ts";
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
}
export type SlotTable = Readonly<Record<string, SlotSpec>>;
export type Slots = Record<string, Tensor>;

export interface PlanRow {
  readonly owner: string;
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: number;
  readonly lifetime: "saved" | "scratch";
}

function shapeOf(spec: SlotSpec, T: number): number[] {
  if (spec.fixed) return [...spec.fixed];
  const rows = T * (spec.rowsPerToken ?? 1);
  return spec.perToken === undefined || spec.perToken === 0 ? [rows] : [rows, spec.perToken];
}
interface Entry {
  readonly owner: string;
  readonly name: string;
  readonly spec: SlotSpec;
  readonly lifetime: "saved" | "scratch";
}

/** Collects slots, allocates them in one arena for up to `capacity` tokens, and hands out tensors for T <= capacity. */
export class ActivationPlan {
  readonly capacity: number;
  /** Dtype of activations. */
  readonly activation: DType;
  private readonly entries = new Map<string, Entry>();
  private arena: Tensor | null = null;
  private offsets = new Map<string, number>();
  private bound = new Map<string, Tensor>();
  private boundTokens = -1;

  constructor(capacity: number, activation: DType = "f32") {
    this.capacity = capacity;
    this.activation = activation;
  }

  private dtypeOf(spec: SlotSpec): DType {
    return spec.dtype === "act" ? this.activation : spec.dtype;
  }
  private sizeOf(spec: SlotSpec): number {
    return shapeOf(spec, this.capacity).reduce((a, b) => a * b, 1) * bytesOf(this.dtypeOf(spec));
  }

  /** Adds a layer's slots; `saved` names get own memory, the others share scratch by name. */
  add(owner: string, table: SlotTable, saved: (name: string) => boolean): void {
    for (const [name, spec] of Object.entries(table)) {
      const keep = saved(name);
      const id = keep ? `${owner}/${name}` : name;
      const before = this.entries.get(id);
      if (!before || this.sizeOf(before.spec) < this.sizeOf(spec))
        this.entries.set(id, { owner: keep ? owner : "*", name, spec, lifetime: keep ? "saved" : "scratch" });
    }
  }

  table(): PlanRow[] {
    return [...this.entries.values()].map((e) => ({
      owner: e.owner,
      name: e.name,
      dtype: this.dtypeOf(e.spec),
      shape: shapeOf(e.spec, this.capacity),
      bytes: this.sizeOf(e.spec),
      lifetime: e.lifetime,
    }));
  }
  get bytes(): number {
    let total = 0;
    for (const e of this.entries.values()) total += Math.ceil(this.sizeOf(e.spec) / 64) * 64;
    return total;
  }

  allocate(device: Device): void {
    let total = 0;
    for (const [id, e] of this.entries) {
      this.offsets.set(id, total);
      total += Math.ceil(this.sizeOf(e.spec) / 64) * 64;
    }
    try {
      this.arena = device.empty("u8", [Math.max(total, 64)]);
    } catch (error) {
      throw new MemoryError(
        `activations: ${(total / 2 ** 30).toFixed(2)} GiB for ${this.capacity} tokens could not be allocated; use shorter rows (maxLength), ` +
          `fewer rows per micro-batch (microBatch), or train only upper layers`,
        { cause: error },
      );
    }
  }

  /** The tensors of one layer's table for T tokens. Bindings are kept until T changes. */
  bind(owner: string, table: SlotTable, T: number): Slots {
    if (!this.arena) throw new MemoryError("activation plan used before allocate()");
    if (T > this.capacity) throw new MemoryError(`a batch of ${T} tokens exceeds the plan's ${this.capacity}`);
    if (T !== this.boundTokens) {
      for (const t of this.bound.values()) t.dispose();
      this.bound.clear();
      this.boundTokens = T;
    }
    const out: Slots = {};
    for (const [name, spec] of Object.entries(table)) {
      const savedId = `${owner}/${name}`;
      const id = this.offsets.has(savedId) ? savedId : name;
      const shape = shapeOf(spec, T);
      const dtype = this.dtypeOf(spec);
      const key = `${id} ${dtype} ${shape.join("x")}`;
      let tensor = this.bound.get(key);
      if (!tensor) {
        const offset = this.offsets.get(id);
        if (offset === undefined) throw new MemoryError(`activation plan has no slot "${name}" for ${owner}`);
        tensor = this.arena.view(offset / bytesOf(dtype), shape, { dtype });
        this.bound.set(key, tensor);
      }
      out[name] = tensor;
    }
    return out;
  }

  dispose(): void {
    for (const t of this.bound.values()) t.dispose();
    this.bound.clear();
    this.arena?.dispose();
    this.arena = null;
  }
}
