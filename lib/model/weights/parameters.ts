// The parameters of a model on a device: those of the checkpoint, one per matrix or vector of the ModelSpec, and those that a
// method attached.
//
// Frozen ones are read where resident.ts put them: in the mapped checkpoint, or in device memory. One that trains has a master
// copy, a gradient and moments (training_state.ts). Where products read bf16 only, a base weight's place in device memory becomes
// a working copy that the optimizer refreshes from the master, and gets the checkpoint's values back when it is frozen.

import { ConfigError, LayoutError, NonFiniteError } from "../../errors.ts";
import type { LongTask } from "../../task.ts";
import { throwIfAborted } from "../../task.ts";
import type { Checkpoint } from "../../files/checkpoint.ts";
import { firstNonFinite } from "../../files/floats.ts";
import type { TensorSlice } from "../../files/slice.ts";
import { sliceKey } from "../../files/slice.ts";
import * as ops from "../../ops.ts";
import type { Dequantise } from "../../options.ts";
import type { Device, Tensor } from "../../tensor.ts";
import { fileShape, hasGradient } from "../spec.ts";
import type { ModelSpec } from "../spec.ts";
import { fromFile, toFile } from "./layout.ts";
import type { AttachedSpec, ParameterSource } from "./parameter.ts";
import { BaseParameter, Parameter, ParameterList } from "./parameter.ts";
import { isProductWeight, locateWeights, Weights } from "./resident.ts";
import { activate, allocateState, releaseState } from "./training_state.ts";
import type { TrainingState } from "./training_state.ts";

export class Parameters implements ParameterSource {
  readonly device: Device;
  private readonly byKey: ReadonlyMap<string, BaseParameter>;
  private readonly attachedByKey = new Map<string, Parameter>();
  private readonly weights: Weights;
  /** Lists that hold memory. */
  private readonly lists = new Set<ParameterList>();
  private readonly replaced = new Set<BaseParameter>();
  /** Of replaced and attached values, those that belong to somebody else. */
  private readonly lent = new Set<Tensor>();
  /** Changes whenever another set of parameters trains or is attached. */
  epoch = 0;
  /** Weights that are quantised on disk were rounded to bf16 (option dequantise), and would be f32. */
  readonly roundedBase: boolean;
  state: TrainingState | null = null;

  private constructor(device: Device, byKey: Map<string, BaseParameter>, weights: Weights) {
    this.device = device;
    this.byKey = byKey;
    this.weights = weights;
    this.roundedBase = [...byKey.values()].some(
      ({ weight: { packed } }) => packed?.dequantise === "bf16" && packed.of.packed?.held === "F32",
    );
  }

  /**
   * Resolves every tensor that the spec names, and copies them where the device does not share host memory.
   * @throws LayoutError a tensor is missing, has another shape, or cannot be read · MemoryError · AbortError
   */
  static async load(
    device: Device,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    task: LongTask & { readonly dequantise?: Dequantise | undefined } = {},
  ): Promise<Parameters> {
    const stored = locateWeights(spec, checkpoint, task.dequantise);
    const weights = await Weights.load(device, spec, checkpoint, stored, task);
    const byKey = new Map<string, BaseParameter>();
    for (const w of stored) {
      const inPlace = copiesProducts(device) && isProductWeight(w);
      byKey.set(w.key, new BaseParameter(w, weights.tensors.get(w.key)!, inPlace));
    }
    return new Parameters(device, byKey, weights);
  }

  get(ref: TensorSlice): BaseParameter {
    return this.named(sliceKey(ref), "find");
  }
  attached(key: string): Parameter {
    const p = this.attachedByKey.get(key);
    if (!p) throw new LayoutError(`the model has no attached parameter "${key}"`, { where: { tensor: key } });
    return p;
  }
  byName(key: string): BaseParameter | undefined {
    return this.byKey.get(key);
  }
  /** Those of the checkpoint. */
  all(): BaseParameter[] {
    return [...this.byKey.values()];
  }
  list(parameters: readonly Parameter[], what: "value" | "grad"): ParameterList {
    return new ParameterList(parameters, what, (list) => this.lists.add(list));
  }

  private named(key: string, what: string): BaseParameter {
    const p = this.byKey.get(key);
    if (!p) throw new LayoutError(`cannot ${what} "${key}": the model has no such parameter`, { where: { tensor: key } });
    return p;
  }

  /** The checkpoint's own values in the order of its file, whatever the parameter holds now. */
  async storedValues(p: BaseParameter): Promise<Float32Array> {
    using copy = this.device.empty(p.stored, p.shape);
    this.weights.read(p.weight, copy);
    return this.inFileOrder(p, copy);
  }

  /** Values of a parameter (its master, its gradient) in the order that its file has. */
  async inFileOrder({ weight }: BaseParameter, values: Tensor): Promise<Float32Array> {
    if (!weight.layout) return values.readF32();
    using turned = this.device.empty("f32", fileShape(weight));
    toFile(this.device, weight.layout, values, turned);
    return turned.readF32();
  }

  /** Values in the order of the file as the model has them: the tensor itself where that is the same, else another in its place. */
  fromFileOrder(key: string, values: Tensor): Tensor {
    const p = this.byKey.get(key);
    if (!p?.weight.layout || values.shape.join() !== fileShape(p.weight).join()) return values;
    const turned = this.device.empty(values.dtype, p.shape);
    fromFile(this.device, p.weight.layout, values, turned);
    values.dispose();
    return turned;
  }

  /** Values changed: lists of the old ones would keep their memory. */
  private dropLists(): void {
    for (const list of this.lists) list.drop();
    this.lists.clear();
  }

  /**
   * Chooses what trains: allocates master copies (from the base values, or an attached parameter's first ones), gradients and moments.
   * Replaces an earlier choice.
   * @throws ConfigError values are replaced by `override`: masters start from the base, so the two do not go together
   */
  train(keys: Iterable<string>, attached: readonly AttachedSpec[] = []): TrainingState {
    if (this.overridden)
      throw new ConfigError(
        "cannot train while an adapter is applied: training starts from the base weights; remove the adapter, or merge it and train the merged model",
      );
    this.freeze();
    const base = [...new Set(keys)].map((key) => {
      const p = this.named(key, "train");
      if (!hasGradient(p.role))
        throw new LayoutError(`cannot train "${key}": a ${p.role === "constant" ? "constant" : "selection bias"} has no gradient`, {
          where: { tensor: key },
        });
      return p;
    });
    const added = attached.map(({ key, shape, place }) => new Parameter(key, shape, place));
    const state = allocateState(this.device, [...base, ...added]);
    for (const p of base) {
      const master = p.master!;
      if (p.stored === p.base.dtype) ops.cast(this.device, { x: p.base, y: master });
      else this.weights.read(p.weight, master); // the base is a rounded copy
      if (!p.inPlace) p.value = master;
    }
    for (const [i, p] of added.entries()) {
      this.attachedByKey.set(p.key, p);
      p.master!.write(attached[i]!.initial());
      p.value = this.copies(p) ? this.rounded(p.master!) : p.master!;
    }
    this.dropLists();
    this.epoch++;
    this.state = state;
    return state;
  }

  /** The model computes with a bf16 copy of an attached parameter. Choosing reads f32 on every device. */
  private copies({ role }: Parameter): boolean {
    return copiesProducts(this.device) && role !== "selectionBias";
  }

  /** Which of what `train` chose trains from here on: it alone has gradients. */
  activate(keys: ReadonlySet<string>): void {
    if (!this.state) return;
    activate(this.state, (p) => keys.has(p.key));
    this.dropLists();
    this.epoch++;
  }

  /** A bf16 copy, for products that read nothing else. */
  private rounded(x: Tensor): Tensor {
    const y = this.device.empty("bf16", x.shape);
    ops.cast(this.device, { x, y });
    return y;
  }

  /** After masters were written (a resumed run): their working copies follow. The optimizer does it by itself. */
  refreshCopies(): void {
    for (const p of this.state?.parameters ?? []) if (p.value !== p.master) ops.cast(this.device, { x: p.master!, y: p.value });
  }

  /** Freezes everything again: values are the checkpoint's, the training state is gone. */
  freeze(): void {
    if (!this.state) return;
    for (const p of this.state.parameters) if (p instanceof BaseParameter && p.inPlace) this.weights.read(p.weight, p.base);
    this.weights.trim();
    this.dropState();
  }

  private dropState(): void {
    if (!this.state) return;
    const { parameters } = this.state;
    this.dropAttached();
    releaseState(this.state);
    for (const p of parameters) if (p instanceof BaseParameter) p.value = p.base;
    this.state = null;
    this.dropLists();
    this.epoch++;
  }

  private dropAttached(): void {
    for (const p of this.attachedByKey.values()) if (p.value !== p.master && !this.lent.has(p.value)) p.value.dispose();
    this.attachedByKey.clear();
  }

  /**
   * Replaces values without training them (an adapter at inference), all or none; what was replaced before is restored. Undo with
   * `restore`. On success the tensors belong to this object, unless they are lent: then they stay the caller's, who keeps them until then.
   * @param attached what a method adds; its values are among `values`, by key
   */
  override(values: ReadonlyMap<string, Tensor>, attached: readonly AttachedSpec[] = [], lent = false): void {
    if (this.state) throw new ConfigError("cannot replace values while parameters train");
    const added = new Map(attached.map(({ key, shape, place }) => [key, new Parameter(key, shape, place)]));
    const pairs = [...values].map(([key, tensor]) => {
      const p = added.get(key) ?? this.named(key, "replace");
      if (tensor.shape.join() !== p.shape.join())
        throw new LayoutError(`cannot replace "${key}": expected shape [${p.shape.join(", ")}], found [${tensor.shape.join(", ")}]`, {
          where: { tensor: key },
        });
      return [p, tensor] as const;
    });
    for (const key of added.keys())
      if (!values.has(key)) throw new LayoutError(`expected values of "${key}", found none`, { where: { tensor: key } });
    this.restore();
    for (const [p, tensor] of pairs) {
      if (p instanceof BaseParameter) this.replaced.add(p);
      const inPlace = p instanceof BaseParameter && p.inPlace;
      if (inPlace) ops.cast(this.device, { x: tensor, y: p.base });
      const copied = inPlace || (!(p instanceof BaseParameter) && this.copies(p) && tensor.dtype !== "bf16");
      if (copied && !inPlace) p.value = this.rounded(tensor);
      else if (!inPlace) p.value = tensor;
      if (copied && !lent) tensor.dispose();
      if (lent && !copied) this.lent.add(tensor);
    }
    for (const [key, p] of added) this.attachedByKey.set(key, p);
    if (added.size > 0) this.epoch++;
    this.dropLists();
  }
  /** Undoes `override`. */
  restore(): void {
    for (const p of this.replaced) {
      if (p.inPlace) this.weights.read(p.weight, p.base);
      else {
        if (!this.lent.has(p.value)) p.value.dispose();
        p.value = p.base;
      }
    }
    this.replaced.clear();
    if (this.attachedByKey.size > 0) this.epoch++;
    this.dropAttached();
    this.lent.clear();
    this.weights.trim();
    this.dropLists();
  }
  /** Values are replaced by `override`. */
  get overridden(): boolean {
    return this.replaced.size > 0 || (this.state === null && this.attachedByKey.size > 0);
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
      const bad = firstNonFinite(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), "F32");
      if (bad >= 0)
        throw new NonFiniteError(
          `weights: tensor "${p.key}" holds ${values[bad]} at element ${bad}; the checkpoint is damaged, fetch it again`,
          { where: { tensor: p.key, element: bad } },
        );
    }
  }

  dispose(): void {
    this.dropState();
    this.dropLists();
    this.dropAttached();
    for (const p of this.byKey.values()) if (p.value !== p.base && !this.lent.has(p.value)) p.value.dispose();
    this.weights.dispose();
  }
}

/** The device's products read bf16 only, from memory of its own. */
function copiesProducts({ info }: Device): boolean {
  return !info.hostMemory && info.activationDtype === "bf16";
}
