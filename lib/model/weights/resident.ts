// Where a checkpoint's weights lie on a device.
//
// A device that shares host memory reads them in place, in the mapped files. A device with its own memory gets copies, straight
// from the mappings (no byte passes through JavaScript): the matrices that products read become bf16, everything else keeps its
// dtype. The experts of one layer lie in two stacks, (gate, up) per expert and down, whose items are equally far apart.
//
// A matrix whose file has it the other way round (FileLayout) is turned while it is read, into memory of its own.
// What is quantised on disk, or F16, is decoded from the mapped files: a whole tensor into memory of its own where the device shares
// host memory, each weight into its place otherwise.

import { LayoutError, MemoryError } from "../../errors.ts";
import type { LongTask } from "../../task.ts";
import { throwIfAborted } from "../../task.ts";
import type { Checkpoint } from "../../files/checkpoint.ts";
import type { Packed, WeightInfo } from "../../files/quantised/packed.ts";
import type { TensorSlice } from "../../files/slice.ts";
import { placeSlice, sliceKey } from "../../files/slice.ts";
import * as ops from "../../ops.ts";
import { mappedWeight, memoryDtype, packedOf } from "../../quantised.ts";
import type { Dequantise } from "../../options.ts";
import { bytesOf, MappedFile } from "../../tensor.ts";
import type { Device, DType, Tensor } from "../../tensor.ts";
import type { ModelSpec, ParameterShape } from "../spec.ts";
import { biasesOf, densePart, fileShape, hasGradient, inputWeights, moePart, parameterShapes } from "../spec.ts";
import { fromFile } from "./layout.ts";

/** One parameter and the contiguous bytes of its file that hold it, or of the tensor that its file decodes to. */
export interface StoredWeight extends ParameterShape {
  readonly key: string;
  /** In the checkpoint; of a packed one what it is decoded to. */
  readonly stored: DType;
  readonly path: string;
  readonly byteOffset: number;
  /** Null: the bytes are the values. */
  readonly packed: (Packed & { readonly of: WeightInfo; readonly dequantise: Dequantise }) | null;
}

const ALIGN = 128; // bytes between the items of a stack: what the widest loads and the copy engines like
const STAGING = 1 << 24; // elements of an f32 tensor that are converted at a time
const STRETCH = 2 ** 28; // bytes between two reports of progress

const product = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/**
 * Every parameter that the spec names.
 * @throws LayoutError a tensor is missing, has another shape, or is neither f32, bf16, f16 nor quantised as config.json says
 */
export function locateWeights(
  spec: ModelSpec,
  checkpoint: Pick<Checkpoint, "dir" | "weights">,
  dequantise: Dequantise = "exact",
): StoredWeight[] {
  return parameterShapes(spec).map(({ ref, shape, ...place }) => {
    const info = checkpoint.weights.get(ref.name);
    const fail = (message: string, file: string): never => {
      throw new LayoutError(message, { where: { file, tensor: ref.name } });
    };
    if (!info)
      return fail(
        `${checkpoint.dir}: tensor "${ref.name}" is missing; a ${spec.modelType} checkpoint with ${spec.layers.length} layers must have it ` +
          `(found ${checkpoint.weights.size} tensors)`,
        checkpoint.dir,
      );
    const { path } = info;
    const wanted = fileShape({ shape, ...place });
    const at = { ...place, key: sliceKey(ref), ref, shape, path };
    const packed = packedOf(info);
    if (packed) {
      const stored = memoryDtype(info, packed, dequantise);
      const { begin } = placeSlice(ref, { dtype: stored === "f32" ? "F32" : "BF16", shape: info.shape, path }, wanted);
      return { ...at, stored, byteOffset: begin, packed: { ...packed, of: info, dequantise } };
    }
    if (info.dtype !== "F32" && info.dtype !== "BF16")
      return fail(
        `${path}: tensor "${ref.name}" must be F32, BF16 or F16, or quantised as quantization_config of config.json says, found ` +
          `${info.dtype}; convert the checkpoint to bf16 first`,
        path,
      );
    const stored: DType = info.dtype === "F32" ? "f32" : "bf16";
    return { ...at, stored, byteOffset: info.stored.begin + placeSlice(ref, info, wanted).begin, packed: null };
  });
}

/** Host memory that a device which shares it takes for weights that cannot be used where they lie in their files. */
export function decodedBytes(spec: ModelSpec, checkpoint: Pick<Checkpoint, "dir" | "weights">, dequantise: Dequantise = "exact"): number {
  const all = locateWeights(spec, checkpoint, dequantise);
  const tensors = new Map(all.flatMap((w) => (w.packed && !w.layout ? [[w.ref.name, w] as const] : [])));
  const decoded = [...tensors.values()].map(({ packed, stored }) => product(packed!.of.shape) * bytesOf(stored));
  const turned = all.map((w) => (w.layout ? product(w.shape) * bytesOf(w.stored) : 0));
  return [...decoded, ...turned].reduce((a, b) => a + b, 0);
}

/** A matrix that products read: bf16 on a device whose activations are. Norms, routers and biases stay exact. */
export function isProductWeight({ role, shape }: Pick<StoredWeight, "role" | "shape">): boolean {
  return shape.length === 2 && role !== "router" && role !== "norm" && hasGradient(role);
}

/** What a parameter is on a device: as stored, but bf16 where products read that only, and f32 where routing compares sums. */
function residentDtype(w: StoredWeight, activation: DType): DType {
  if (!hasGradient(w.role)) return "f32";
  return activation === "bf16" && isProductWeight(w) ? "bf16" : w.stored;
}

/** The tensors of all parameters by key, and their files, kept open: what was trained or replaced in place is read again from them. */
export class Weights {
  readonly tensors = new Map<string, Tensor>();
  private readonly device: Device;
  private readonly files = new Map<string, MappedFile>();
  /** Whole tensors, decoded. */
  private readonly decoded = new Map<string, Tensor>();
  private readonly memory: Tensor[] = [];
  private staging: Tensor | null = null;

  private constructor(device: Device) {
    this.device = device;
  }

  /** @throws LayoutError see locateWeights · MemoryError they do not fit into the device, before anything is taken · AbortError */
  static async load(device: Device, spec: ModelSpec, checkpoint: Checkpoint, stored: readonly StoredWeight[], task: LongTask = {}) {
    const weights = new Weights(device);
    try {
      if (device.info.hostMemory) await weights.map(stored, task);
      else await weights.upload(stored, stacksOf(spec, stored), checkpoint, task);
      return weights;
    } catch (error) {
      weights.dispose();
      throw error;
    }
  }

  private file(path: string): MappedFile {
    let file = this.files.get(path);
    if (!file) this.files.set(path, (file = new MappedFile(path)));
    return file;
  }

  private async map(stored: readonly StoredWeight[], task: LongTask): Promise<void> {
    const isCopied = (w: StoredWeight): boolean => w.packed !== null || w.layout !== undefined;
    const total = stored.reduce((n, w) => n + (isCopied(w) ? product(w.shape) * bytesOf(w.stored) : 0), 0);
    let done = 0;
    let waited = 0;
    for (const w of stored) {
      const dtype = residentDtype(w, "f32");
      if (isCopied(w)) {
        this.tensors.set(w.key, w.layout ? this.turned(w) : this.decode(w).view(w.byteOffset / bytesOf(w.stored), w.shape));
        done += product(w.shape) * bytesOf(w.stored);
        if (done - waited < STRETCH && done < total) continue;
        await this.device.synchronize();
        throwIfAborted(task.signal, "loading the weights");
        task.onProgress?.({ phase: "load weights", done, total, unit: "bytes" });
        waited = done;
      } else if (dtype === w.stored && w.byteOffset % bytesOf(w.stored) === 0) {
        this.tensors.set(w.key, this.device.mapped(this.file(w.path), w.byteOffset, w.stored, w.shape));
      } else {
        const copy = this.device.empty(dtype, w.shape);
        this.tensors.set(w.key, copy);
        this.read(w, copy);
      }
    }
    this.trim();
  }

  /** A copy as the model computes with it, where that is not as its file has it. */
  private turned(w: StoredWeight): Tensor {
    const copy = this.device.empty(w.stored, w.shape);
    this.read(w, copy);
    return copy;
  }

  /** The whole tensor that a packed weight is a part of. */
  private decode({ ref, packed, stored }: StoredWeight): Tensor {
    let whole = this.decoded.get(ref.name);
    if (!whole) {
      const { of, dequantise } = packed!;
      whole = this.device.empty(stored, of.shape);
      this.decoded.set(ref.name, whole);
      whole.decode(mappedWeight(of, packed!, dequantise, (path) => this.file(path)));
    }
    return whole;
  }

  private async upload(
    stored: readonly StoredWeight[],
    stacks: readonly (readonly StoredWeight[])[],
    checkpoint: Checkpoint,
    task: LongTask,
  ): Promise<void> {
    const { device } = this;
    const dtypeOf = (w: StoredWeight): DType => residentDtype(w, device.info.activationDtype);
    const plan = stacks.map((stack) => {
      const dtype = dtypeOf(stack[0]!);
      const step = Math.ceil((product(stack[0]!.shape) * bytesOf(dtype)) / ALIGN) * (ALIGN / bytesOf(dtype));
      return { stack, dtype, step, bytes: stack.length * step * bytesOf(dtype) };
    });
    requireRoom(
      plan.reduce((n, p) => n + p.bytes, 0),
      device,
      checkpoint.dir,
    );
    for (const { stack, dtype, step } of plan) {
      const memory = device.empty(dtype, [stack.length * step]);
      this.memory.push(memory);
      stack.forEach((w, i) => this.tensors.set(w.key, memory.view(i * step, w.shape)));
    }
    const total = stored.reduce((n, w) => n + product(w.shape) * bytesOf(w.stored), 0);
    let done = 0;
    let waited = 0;
    for (const w of stored.toSorted((a, b) => (a.path === b.path ? a.byteOffset - b.byteOffset : a.path < b.path ? -1 : 1))) {
      this.read(w, this.tensors.get(w.key)!);
      done += product(w.shape) * bytesOf(w.stored);
      if (done - waited < STRETCH && done < total) continue;
      await device.synchronize();
      throwIfAborted(task.signal, "loading the weights");
      task.onProgress?.({ phase: "load weights", done, total, unit: "bytes" });
      waited = done;
    }
    this.trim();
  }

  /** Submits the copy of a parameter's bytes into `into`, of the same shape and of its dtype or the other float. */
  read(w: StoredWeight, into: Tensor): void {
    if (w.layout) {
      using rows = this.asInFile(w);
      return fromFile(this.device, w.layout, rows, into);
    }
    if (w.packed) {
      const { of, dequantise } = w.packed;
      const width = of.shape.at(-1) ?? 1;
      return into.decode(
        mappedWeight(of, w.packed, dequantise, (path) => this.file(path)),
        w.byteOffset / bytesOf(w.stored) / width,
      );
    }
    const file = this.file(w.path);
    if (into.dtype === w.stored) return into.copyFromMap(file, w.byteOffset);
    const size = product(w.shape);
    const staging = this.stagingOf(w.stored);
    for (let at = 0; at < size; at += STAGING) {
      const n = Math.min(STAGING, size - at);
      using from = staging.view(0, [n]);
      using to = into.view(at, [n]);
      from.copyFromMap(file, w.byteOffset + at * bytesOf(w.stored));
      ops.cast(this.device, { x: from, y: to });
    }
  }

  /** A weight as it lies in its file, in place where the device can read it there. */
  private asInFile(w: StoredWeight): Tensor {
    const { device } = this;
    const { layout: _, ...plain } = { ...w, shape: fileShape(w) };
    if (device.info.hostMemory && !w.packed && w.byteOffset % bytesOf(w.stored) === 0)
      return device.mapped(this.file(w.path), w.byteOffset, w.stored, plain.shape);
    const copy = device.empty(w.stored, plain.shape);
    this.read(plain, copy);
    return copy;
  }

  private stagingOf(dtype: DType): Tensor {
    if (this.staging?.dtype !== dtype) this.trim();
    return (this.staging ??= this.device.empty(dtype, [STAGING]));
  }

  /** Gives working memory back. */
  trim(): void {
    this.staging?.dispose();
    this.staging = null;
  }

  dispose(): void {
    this.trim();
    for (const t of [...this.tensors.values(), ...this.decoded.values(), ...this.memory]) t.dispose();
    for (const file of this.files.values()) file.dispose();
  }
}

/** Parameters that share one piece of memory, equally far apart: experts of a layer, gate and up of an MLP. The rest is alone. */
function stacksOf(spec: ModelSpec, stored: readonly StoredWeight[]): StoredWeight[][] {
  const left = new Map(stored.map((w) => [w.key, w]));
  const stacks: StoredWeight[][] = [];
  const add = (refs: readonly TensorSlice[]): void => {
    const stack = refs.flatMap((ref) => left.get(sliceKey(ref)) ?? []);
    for (const w of stack) left.delete(w.key);
    if (stack.length > 0) stacks.push(stack);
  };
  for (const layer of spec.layers) {
    const moe = moePart(layer);
    for (const dense of [densePart(layer), moe?.shared]) if (dense) add([dense.gate, dense.up]);
    if (!moe) continue;
    add(moe.experts.flatMap(inputWeights));
    add(moe.experts.map((e) => e.down));
    add(moe.experts.flatMap((e) => biasesOf(e)?.gateUp ?? []));
    add(moe.experts.flatMap((e) => biasesOf(e)?.down ?? []));
  }
  for (const w of left.values()) stacks.push([w]);
  return stacks;
}

function requireRoom(needed: number, device: Device, dir: string): void {
  const free = device.memoryFree();
  if (free === 0 || needed <= free) return;
  const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  throw new MemoryError(
    `${dir}: the weights need ${gib(needed)} of device memory, ${gib(free)} of ${gib(device.info.memoryBytes)} are free on ${device.info.name}. ` +
      `Fixes: 1. end other programs on this GPU (nvidia-smi lists them); 2. a GPU with more memory (device "cuda:N"); 3. device "cpu"`,
    { where: { neededBytes: needed, availableBytes: free } },
  );
}
