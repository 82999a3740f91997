// The weights of a model on a device, one Parameter per matrix or vector of the ModelSpec.
//
// Frozen parameters are read where weights.ts put them: in the mapped checkpoint, or in device memory. A parameter that trains
// gets an f32 master copy, a gradient and the two AdamW moments; these four live in one flat tensor each ("compact": their size
// follows what trains, nothing exists for the rest). Where products read bf16 only, the weight's place in device memory becomes
// a working copy that the optimizer refreshes from the master, and gets the checkpoint's values back when it is frozen.

import { ConfigError, LayoutError, MemoryError, NonFiniteError } from "../../errors.ts";
import type { LongTask } from "../../task.ts";
import { throwIfAborted } from "../../task.ts";
import type { Checkpoint } from "../../files/checkpoint.ts";
import type { TensorSlice } from "../../files/slice.ts";
import { sliceKey } from "../../files/slice.ts";
import * as ops from "../../ops.ts";
import type { Device, Tensor } from "../../tensor.ts";
import { TensorList } from "../../tensor.ts";
import type { ModelSpec } from "../spec.ts";
import { isProductWeight, locateWeights, Weights } from "./resident.ts";
import type { StoredWeight } from "./resident.ts";

export interface Parameter extends StoredWeight {
  /** The checkpoint's values; of an `inPlace` parameter that trains or is replaced, the values of now. */
  readonly base: Tensor;
  /** The product weights of a device with bf16 activations: other values are written over the base ones, in bf16. */
  readonly inPlace: boolean;
  master: Tensor | null;
  grad: Tensor | null;
  /** What the model computes with: the master when there is one, or its bf16 copy. */
  value: Tensor;
}

/** f32 master, gradient, first and second moment. */
export const STATE_BYTES_PER_PARAMETER = 4 * 4;

/** The flat training state of the parameters that train. */
export interface TrainingState {
  readonly parameters: readonly Parameter[];
  readonly offsets: readonly number[];
  /** Elements, padding included. */
  readonly size: number;
  readonly master: Tensor;
  readonly grad: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
}

const PAD = 16; // elements: one cache line of f32, so that every parameter's view is aligned

export class Parameters {
  readonly device: Device;
  private readonly byKey: Map<string, Parameter>;
  private readonly weights: Weights;
  private readonly lists = new Map<string, TensorList>();
  private readonly replaced = new Set<Parameter>();
  /** Changes whenever another set of parameters trains. */
  epoch = 0;
  state: TrainingState | null = null;

  private constructor(device: Device, byKey: Map<string, Parameter>, weights: Weights) {
    this.device = device;
    this.byKey = byKey;
    this.weights = weights;
  }

  /**
   * Resolves every tensor that the spec names, and copies them where the device does not share host memory.
   * @throws LayoutError a tensor is missing, has another shape, or is neither f32 nor bf16 · MemoryError · AbortError
   */
  static async load(device: Device, spec: ModelSpec, checkpoint: Checkpoint, task: LongTask = {}): Promise<Parameters> {
    const stored = locateWeights(spec, checkpoint);
    const weights = await Weights.load(device, spec, checkpoint, stored, task);
    const byKey = new Map<string, Parameter>();
    const { hostMemory, activationDtype } = device.info;
    for (const w of stored) {
      const base = weights.tensors.get(w.key)!;
      const inPlace = !hostMemory && activationDtype === "bf16" && isProductWeight(w);
      byKey.set(w.key, { ...w, base, inPlace, master: null, grad: null, value: base });
    }
    return new Parameters(device, byKey, weights);
  }

  /** The parameter of a ref that the spec names. */
  get(ref: TensorSlice): Parameter {
    const p = this.byKey.get(sliceKey(ref));
    if (!p) throw new LayoutError(`the model has no parameter "${sliceKey(ref)}"`, { where: { tensor: sliceKey(ref) } });
    return p;
  }
  byName(key: string): Parameter | undefined {
    return this.byKey.get(key);
  }
  all(): Parameter[] {
    return [...this.byKey.values()];
  }
  value(ref: TensorSlice): Tensor {
    return this.get(ref).value;
  }
  trains(ref: TensorSlice | undefined): boolean {
    return ref !== undefined && this.get(ref).master !== null;
  }

  /** The checkpoint's own values, whatever the parameter holds now. */
  async storedValues(p: Parameter): Promise<Float32Array> {
    using copy = this.device.empty(p.stored, p.shape);
    this.weights.read(p, copy);
    return copy.readF32();
  }

  /** A cached operand list of the current values (or gradients) of `refs`; valid until the values change. */
  list(name: string, refs: () => readonly TensorSlice[], what: "value" | "grad" = "value"): TensorList {
    const cached = this.lists.get(`${what} ${name}`);
    if (cached) return cached;
    const tensors = refs().map((ref) => {
      const p = this.get(ref);
      if (what === "value") return p.value;
      if (!p.grad) throw new LayoutError(`parameter "${p.key}" has no gradient`, { where: { tensor: p.key } });
      return p.grad;
    });
    const list = new TensorList(tensors);
    this.lists.set(`${what} ${name}`, list);
    return list;
  }

  /** Values changed: lists of the old ones would keep their memory. */
  private dropLists(): void {
    for (const list of this.lists.values()) list.dispose();
    this.lists.clear();
  }

  /**
   * Chooses what trains: allocates master copies (from the base values), gradients and moments. Replaces an earlier choice.
   * @throws ConfigError values are replaced by `override`: masters start from the base, so the two do not go together
   */
  train(keys: Iterable<string>): TrainingState {
    if (this.replaced.size > 0)
      throw new ConfigError(
        "cannot train while an adapter is applied: training starts from the base weights; remove the adapter, or merge it and train the merged model",
      );
    this.freeze();
    const parameters = [...new Set(keys)].map((key) => {
      const p = this.byKey.get(key);
      if (!p) throw new LayoutError(`cannot train "${key}": the model has no such parameter`, { where: { tensor: key } });
      if (p.role === "selectionBias")
        throw new LayoutError(`cannot train "${key}": a selection bias has no gradient`, { where: { tensor: key } });
      return p;
    });
    const offsets: number[] = [];
    let size = 0;
    for (const p of parameters) {
      offsets.push(size);
      size += Math.ceil(p.shape.reduce((a, b) => a * b, 1) / PAD) * PAD;
    }
    const flat: Tensor[] = [];
    try {
      for (let i = 0; i < 4; i++) flat.push(this.device.empty("f32", [size]));
    } catch (error) {
      for (const t of flat) t.dispose();
      throw new MemoryError(
        `training state: ${((size * STATE_BYTES_PER_PARAMETER) / 2 ** 30).toFixed(2)} GiB for ${size} parameters (master, gradient, two moments) could not be allocated; ` +
          `train fewer experts (smaller p, maxTrainableParams), or use a machine with more memory`,
        { cause: error },
      );
    }
    const [master, grad, m, v] = flat as [Tensor, Tensor, Tensor, Tensor];
    parameters.forEach((p, i) => {
      p.master = master.view(offsets[i]!, p.shape);
      p.grad = grad.view(offsets[i]!, p.shape);
      if (p.stored === p.base.dtype) ops.cast(this.device, { x: p.base, y: p.master });
      else this.weights.read(p, p.master); // the base is a rounded copy
      if (!p.inPlace) p.value = p.master;
    });
    this.dropLists();
    this.epoch++;
    this.state = { parameters, offsets, size, master, grad, m, v };
    return this.state;
  }

  /** After masters were written (a resumed run): their working copies follow. The optimizer does it by itself. */
  refreshCopies(): void {
    for (const p of this.state?.parameters ?? []) if (p.master && p.value !== p.master) ops.cast(this.device, { x: p.master, y: p.value });
  }

  /** Freezes everything again: values are the checkpoint's, the training state is gone. */
  freeze(): void {
    if (!this.state) return;
    for (const p of this.state.parameters) if (p.inPlace) this.weights.read(p, p.base);
    this.weights.trim();
    this.dropState();
  }

  private dropState(): void {
    if (!this.state) return;
    for (const p of this.state.parameters) {
      p.master?.dispose();
      p.grad?.dispose();
      p.master = null;
      p.grad = null;
      p.value = p.base;
    }
    for (const t of [this.state.master, this.state.grad, this.state.m, this.state.v]) t.dispose();
    this.state = null;
    this.dropLists();
    this.epoch++;
  }

  /**
   * Replaces values without training them (an adapter at inference), all or none; what was replaced before is restored. Undo with
   * `restore`. On success the tensors belong to this object.
   */
  override(values: ReadonlyMap<string, Tensor>): void {
    if (this.state) throw new ConfigError("cannot replace values while parameters train");
    const pairs = [...values].map(([key, tensor]) => {
      const p = this.byKey.get(key);
      if (!p) throw new LayoutError(`cannot replace "${key}": the model has no such parameter`, { where: { tensor: key } });
      if (tensor.shape.join() !== p.shape.join())
        throw new LayoutError(`cannot replace "${key}": expected shape [${p.shape.join(", ")}], found [${tensor.shape.join(", ")}]`, {
          where: { tensor: key },
        });
      return [p, tensor] as const;
    });
    this.restore();
    for (const [p, tensor] of pairs) {
      this.replaced.add(p);
      if (p.inPlace) {
        ops.cast(this.device, { x: tensor, y: p.base });
        tensor.dispose();
      } else p.value = tensor;
    }
    this.dropLists();
  }
  /** Undoes `override`. */
  restore(): void {
    for (const p of this.replaced) {
      if (p.inPlace) this.weights.read(p, p.base);
      else {
        p.value.dispose();
        p.value = p.base;
      }
    }
    this.replaced.clear();
    this.weights.trim();
    this.dropLists();
  }
  /** Values are replaced by `override`. */
  get overridden(): boolean {
    return this.replaced.size > 0;
  }

  /**
   * Reads every base tensor once and refuses NaN and infinity.
   * @throws NonFiniteError naming the first bad tensor and element · AbortError
   */
  async checkFinite(task: LongTask = {}): Promise<void> {
    const total = this.all().reduce((n, p) => n + p.base.bytes, 0);
    let done = 0;
    for (const p of this.byKey.values()) {
      throwIfAborted(task.signal, "checking the weights");
      task.onProgress?.({ phase: "check weights", done, total, unit: "bytes" });
      done += p.base.bytes;
      const values = await p.base.readF32();
      const bad = firstNonFinite(values);
      if (bad >= 0)
        throw new NonFiniteError(
          `weights: tensor "${p.key}" holds ${values[bad]} at element ${bad}; the checkpoint is damaged, fetch it again`,
          {
            where: { tensor: p.key, element: bad },
          },
        );
    }
  }

  dispose(): void {
    this.dropState();
    this.dropLists();
    for (const p of this.byKey.values()) if (p.value !== p.base) p.value.dispose();
    this.weights.dispose();
  }
}

function firstNonFinite(values: Float32Array): number {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) if ((bits[i]! & 0x7f800000) === 0x7f800000) return i;
  return -1;
}
