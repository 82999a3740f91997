// The weights of a model on a device, one Parameter per matrix or vector of the ModelSpec.
//
// Frozen parameters are read straight from the mapped checkpoint (no copy) where the device shares host memory, else uploaded.
// A parameter that trains gets an f32 master copy, a gradient and the two AdamW moments; these four live in one flat tensor
// each ("compact": their size follows what trains, nothing exists for the rest).

import { ConfigError, LayoutError, MemoryError, NonFiniteError } from "../errors.ts";
import type { LongTask } from "../io/atomic_file.ts";
import { throwIfAborted } from "../io/atomic_file.ts";
import type { Checkpoint } from "../io/checkpoint.ts";
import type { TensorSlice } from "../io/tensor_slice.ts";
import { sliceKey } from "../io/tensor_slice.ts";
import * as ops from "../ops.ts";
import type { Device, DType, Tensor } from "../tensor.ts";
import { MappedFile, TensorList } from "../tensor.ts";
import type { ModelSpec, ParameterRole } from "./spec.ts";
import { parameterShapes } from "./spec.ts";

export interface Parameter {
  readonly key: string;
  readonly ref: TensorSlice;
  readonly shape: readonly number[];
  readonly role: ParameterRole;
  /** Decoder layer, −1 for the embedding, the layer count for final norm and head. */
  readonly layer: number;
  /** As stored in the checkpoint, never written. */
  readonly base: Tensor;
  master: Tensor | null;
  grad: Tensor | null;
  /** What the model computes with: the master when there is one. */
  value: Tensor;
}

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
  private readonly files: MappedFile[];
  private readonly lists = new Map<string, TensorList>();
  private overridden = false;
  /** Changes whenever another set of parameters trains. */
  epoch = 0;
  state: TrainingState | null = null;

  private constructor(device: Device, byKey: Map<string, Parameter>, files: MappedFile[]) {
    this.device = device;
    this.byKey = byKey;
    this.files = files;
  }

  /**
   * Resolves every tensor that the spec names.
   * @throws LayoutError a tensor is missing, has another shape, or is neither f32 nor bf16
   */
  static async load(device: Device, spec: ModelSpec, checkpoint: Checkpoint): Promise<Parameters> {
    const files = new Map<string, MappedFile>();
    try {
      return new Parameters(device, await Parameters.resolve(device, spec, checkpoint, files), [...files.values()]);
    } catch (error) {
      for (const file of files.values()) file.dispose();
      throw error;
    }
  }

  private static async resolve(
    device: Device,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    files: Map<string, MappedFile>,
  ): Promise<Map<string, Parameter>> {
    const wholes = new Map<string, Tensor>();
    const byKey = new Map<string, Parameter>();
    for (const { ref, shape, role, layer } of parameterShapes(spec)) {
      const info = checkpoint.tensors.get(ref.name);
      if (!info)
        throw new LayoutError(
          `${checkpoint.dir}: tensor "${ref.name}" is missing; a ${spec.modelType} checkpoint with ${spec.layers.length} layers must have it ` +
            `(found ${checkpoint.tensors.size} tensors)`,
          { where: { file: checkpoint.dir, tensor: ref.name } },
        );
      if (info.dtype !== "F32" && info.dtype !== "BF16")
        throw new LayoutError(
          `${info.path}: tensor "${ref.name}" must be F32 or BF16, found ${info.dtype}; convert the checkpoint to bf16 first`,
          {
            where: { file: info.path, tensor: ref.name },
          },
        );
      if (info.shape.length > 4)
        throw new LayoutError(`${info.path}: tensor "${ref.name}" must be [${shape.join(", ")}], found [${info.shape.join(", ")}]`, {
          where: { file: info.path, tensor: ref.name },
        });
      const dtype: DType = info.dtype === "F32" ? "f32" : "bf16";
      let whole = wholes.get(ref.name);
      if (!whole) {
        const elementBytes = dtype === "f32" ? 4 : 2;
        if (device.info.hostMemory && info.begin % elementBytes === 0) {
          let file = files.get(info.path);
          if (!file) files.set(info.path, (file = new MappedFile(info.path)));
          whole = device.mapped(file, info.begin, dtype, info.shape);
        } else {
          const bytes = await checkpoint.read(ref.name);
          const copy = bytes.slice();
          whole = device.tensor(dtype, info.shape, dtype === "f32" ? new Float32Array(copy.buffer) : new Uint16Array(copy.buffer));
        }
        wholes.set(ref.name, whole);
      }
      const base = slice(whole, ref, shape, info.path);
      const key = sliceKey(ref);
      byKey.set(key, { key, ref, shape, role, layer, base, master: null, grad: null, value: base });
    }
    return byKey;
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
    if (this.overridden)
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
        `training state: ${((size * 16) / 2 ** 30).toFixed(2)} GiB for ${size} parameters (master, gradient, two moments) could not be allocated; ` +
          `train fewer experts (smaller p, maxTrainableParams), or use a machine with more memory`,
        { cause: error },
      );
    }
    const [master, grad, m, v] = flat as [Tensor, Tensor, Tensor, Tensor];
    parameters.forEach((p, i) => {
      p.master = master.view(offsets[i]!, p.shape);
      p.grad = grad.view(offsets[i]!, p.shape);
      p.value = p.master;
      ops.cast(this.device, { x: p.base, y: p.master });
    });
    this.dropLists();
    this.epoch++;
    this.state = { parameters, offsets, size, master, grad, m, v };
    return this.state;
  }

  /** Freezes everything again: values are the checkpoint's, the training state is gone. */
  freeze(): void {
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

  /** Replaces values without training them (an adapter at inference), all or none; what was replaced before is restored. Undo with `restore`. */
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
    for (const [p, tensor] of pairs) p.value = tensor;
    this.overridden = true;
    this.dropLists();
  }
  /** Undoes `override`; the replacing tensors belong to the caller. */
  restore(): void {
    for (const p of this.byKey.values()) p.value = p.master ?? p.base;
    this.overridden = false;
    this.dropLists();
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
    this.freeze();
    this.dropLists();
    for (const p of this.byKey.values()) {
      if (p.value !== p.base) p.value.dispose();
      p.base.dispose();
    }
    for (const file of this.files) file.dispose();
  }
}

function firstNonFinite(values: Float32Array): number {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) if ((bits[i]! & 0x7f800000) === 0x7f800000) return i;
  return -1;
}

function slice(whole: Tensor, ref: TensorSlice, shape: readonly number[], path: string): Tensor {
  const fail = (expected: string): never => {
    throw new LayoutError(`${path}: tensor "${sliceKey(ref)}" must be ${expected}, found [${whole.shape.join(", ")}]`, {
      where: { file: path, tensor: ref.name },
    });
  };
  let t = whole;
  if (ref.index !== undefined) {
    if (t.shape.length !== shape.length + 1 || ref.index >= t.shape[0]!) fail(`a stack of more than ${ref.index} [${shape.join(", ")}]`);
    const inner = t.shape.slice(1);
    t = t.view(ref.index * inner.reduce((a, b) => a * b, 1), inner);
  }
  if (ref.rows) {
    const [begin, end] = ref.rows;
    if (t.shape[0]! < end) fail(`at least ${end} rows`);
    t = t.rows(begin, end);
  }
  if (t.shape.join() !== shape.join()) fail(`[${shape.join(", ")}]`);
  return t;
}
