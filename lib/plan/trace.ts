// The ops of a training step of a model that is not loaded: its decoder runs over shadows, which have dtype and shape and no memory,
// and every op that it submits is written down.

import type { Checkpoint } from "../files/checkpoint.ts";
import type { TrainableSpec } from "../methods/method.ts";
import { BatchBuffers } from "../model/batch.ts";
import type { HostBatch } from "../model/batch.ts";
import { Decoder } from "../model/decoder.ts";
import { RopeTables } from "../model/rope_table.ts";
import { Run } from "../model/run.ts";
import type { ModelSpec } from "../model/spec.ts";
import { moeLayers, moeOf, parameterShapes } from "../model/spec.ts";
import type { Parameter } from "../model/weights/parameter.ts";
import { ParameterList } from "../model/weights/parameter.ts";
import { PlannedParameters } from "../model/weights/planned.ts";
import { native } from "../native.ts";
import type { NativeDevice, NativeTensor, NativeTensorList } from "../native.ts";
import * as ops from "../ops.ts";
import type { Precision } from "../ops.ts";
import { memoryDtype, packedOf } from "../quantised.ts";
import { Tensor, TensorList } from "../tensor.ts";
import type { Device, DType } from "../tensor.ts";
import { dtypeCode } from "../tensor/dtype.ts";

const dtypes = new Map(Object.entries(dtypeCode).map(([name, code]) => [code, name as DType]));

/** What an op sees of a tensor. */
export class Shadow {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly ld: number;
  constructor(dtype: DType, shape: readonly number[], ld?: number) {
    this.dtype = dtype;
    this.shape = [...shape];
    this.ld = ld ?? shape.at(-1) ?? 1;
  }
  get size(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }
  view(_offset: number, dtype: number, shape: readonly number[], ld?: number): Shadow {
    return new Shadow(dtypes.get(dtype)!, shape, ld);
  }
  isDisposed(): boolean {
    return false;
  }
  write(): void {}
  dispose(): void {}
}

export class ShadowList {
  readonly items: readonly Shadow[];
  /** Of the parameters in it; null: of no layer. */
  readonly layer: number | null;
  constructor(items: readonly Shadow[], layer: number | null) {
    this.items = items;
    this.layer = layer;
  }
  dispose(): void {}
}

/** One submitted op: a value for each of its fields. */
export interface Call {
  readonly op: string;
  readonly values: Readonly<Record<string, unknown>>;
}

class ShadowDevice {
  readonly calls: Call[] = [];
  readonly handle = {} as NativeDevice;
  readonly info: Device["info"];
  constructor(info: Device["info"]) {
    this.info = info;
  }
  empty(dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(this as unknown as Device, new Shadow(dtype, shape) as unknown as NativeTensor, dtype, shape, true);
  }
  tensor(dtype: DType, shape: readonly number[]): Tensor {
    return this.empty(dtype, shape);
  }
  submit(op: number, values: readonly unknown[]): void {
    const { name, fields } = native.ops[op]!;
    this.calls.push({ op: name, values: Object.fromEntries(fields.map((f, i) => [f.name, values[i]])) });
  }
}

const listOf = (tensors: readonly Tensor[], layer: number | null): TensorList =>
  new TensorList(
    tensors,
    new ShadowList(
      tensors.map((t) => t.handle as unknown as Shadow),
      layer,
    ) as unknown as NativeTensorList,
  );

class ShadowParameterList extends ParameterList {
  private readonly of: "value" | "grad";
  constructor(parameters: readonly Parameter[], what: "value" | "grad") {
    super(parameters, what, () => undefined);
    this.of = what;
  }
  override get tensors(): TensorList {
    const tensors = this.parameters.map((p) => (this.of === "value" ? p.value : p.grad!));
    return listOf(tensors, this.parameters[0]?.layer ?? null);
  }
}

/** Parameters with shadows for values. */
class ShadowParameters extends PlannedParameters {
  override list(parameters: readonly Parameter[], what: "value" | "grad"): ParameterList {
    return new ShadowParameterList(parameters, what);
  }
}

export interface TraceRequest {
  readonly checkpoint: Checkpoint;
  readonly spec: ModelSpec;
  readonly trainable: TrainableSpec;
  readonly info: Device["info"];
  readonly precision: Precision;
  readonly batch: HostBatch;
}

export interface Trace {
  /** One forward; loss and backward; of the first micro-batch of a step, and one of the others. */
  readonly forward: readonly Call[];
  readonly backward: readonly Call[];
  /** Of the update. */
  readonly update: readonly Call[];
}

/** The ops of a micro-batch and of an update. */
export function traceStep({ checkpoint, spec, trainable, info, precision, batch }: TraceRequest): Trace {
  const shadow = new ShadowDevice(info);
  const device = shadow as unknown as Device;
  const { keys, attachments, lowestLayer } = trainable;
  const source = new ShadowParameters(spec, keys, attachments?.parameters ?? []);
  const copies = !info.hostMemory && info.activationDtype === "bf16";
  const fill = (p: Parameter, stored: DType): void => {
    p.value = device.empty(copies ? "bf16" : p.trains ? "f32" : stored, p.shape);
    if (p.trains) p.grad = device.empty("f32", p.shape);
  };
  for (const { ref } of parameterShapes(spec)) {
    const w = checkpoint.weights.get(ref.name)!;
    const packed = packedOf(w);
    fill(source.get(ref), packed ? memoryDtype(w, packed, "exact") : w.dtype === "BF16" ? "bf16" : "f32");
  }
  for (const { key } of attachments?.parameters ?? []) fill(source.attached(key), "f32");

  const decoder = new Decoder(spec, source, attachments ? [attachments] : [], lowestLayer, info.activationDtype);
  decoder.plan.allocate(device, batch.ids.length);
  const ropes = new RopeTables(device, decoder.ropes);
  const { batch: on, targets, maxPosition } = new BatchBuffers(device, batch.ids.length, decoder.ropes).upload(batch, spec.vocab);
  const run = new Run({ device, batch: on, precision, keep: true, plan: decoder.plan, ropes: ropes.upTo(maxPosition + 1) });
  const one = (dtype: DType) => device.empty(dtype, [1]);
  const scale = one("f64");
  run.accumulate = false;
  run.balances = [0, 1].map(() => ({ scale: one("f64"), sum: one("f64") })) as never;
  run.dropout = attachments?.dropsOut ? one("f64") : null;
  const counted = trainable.type === "esft" && moeLayers(spec).length > 0;
  const onRoute = (layer: number, ids: Tensor, weights: Tensor): void => {
    const E = moeOf(spec, layer)!.experts.length;
    ops.countExperts(device, { ids, weights, counts: device.empty("i64", [E]), gateSums: device.empty("f64", [E]) });
  };
  const x = decoder.forward(run, counted ? { onRoute } : {});
  const { head, needsDx } = decoder;
  const forward = shadow.calls.splice(0);
  const dx = needsDx ? run.at(decoder.dxf) : null;
  head.loss(run, { x, labels: targets, loss: one("f64"), correct: one("i64"), backward: { dx, scale } });
  if (dx) decoder.backward(run, dx);
  const backward = shadow.calls.splice(0);

  const flat = listOf([device.empty("f32", [trainable.allocated])], null);
  ops.gradNorm(device, { grads: flat, norm: scale });
  const settings = { maxNorm: 1, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };
  ops.adamw(device, { params: flat, grads: flat, m: flat, v: flat, norm: scale, rates: device.empty("f64", [2]), ...settings });
  return { forward, backward, update: shadow.calls.splice(0) };
}
