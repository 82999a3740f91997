// Devices, tensors and lists of tensors: handles on native memory.
//
// An op call validates, enqueues and returns; only `await device.synchronize()` and `await tensor.read()` wait. A failed op
// surfaces there as a KernelError. Everything that owns memory has dispose(); garbage collection is only a safety net.

import { optionsArgument } from "./arguments.ts";
import { KernelError } from "./errors.ts";
import { bf16ToF32 } from "./floats.ts";
import { native } from "./native.ts";
import type { NativeDevice, NativeDeviceInfo, NativeGraph, NativeTensor, NativeTensorList } from "./native.ts";
import { decodeArguments } from "./tensor/decode.ts";
import type { MappedWeight } from "./tensor/decode.ts";
import { bytesOf, dtypeCode, fromNumbers } from "./tensor/dtype.ts";
import type { DType } from "./tensor/dtype.ts";
import { guarded, translateError } from "./tensor/failure.ts";
import type { MappedFile } from "./tensor/mapped_file.ts";
import { threadCount } from "./tensor/threads.ts";

export { bytesOf } from "./tensor/dtype.ts";
export type { MappedPart, MappedWeight } from "./tensor/decode.ts";
export type { DType } from "./tensor/dtype.ts";
export { MappedFile } from "./tensor/mapped_file.ts";

export type DeviceKind = "cpu" | "ref" | "cuda" | `cuda:${number}`;

export interface DeviceOptions {
  /** "cpu": threads and SIMD; "cuda" (the first GPU) or "cuda:N"; "ref": every op as plain loops (tests). */
  readonly kind?: DeviceKind;
  /**
   * Worker threads of the CPU (default: ESFT_THREADS, else one per processor this process may use, which is also the most). Results do not
   * depend on it.
   */
  readonly threads?: number;
}

/**
 * One device: a native thread with an ordered queue. Disposing it drops what was not done yet (waits reject with DisposedError); its
 * tensors can be disposed before or after. `await using` waits for the queue first.
 */
export class Device {
  readonly handle: NativeDevice;
  /** What it is: name, instruction set, threads, memory (bytes), whether mapped files can be operands. */
  readonly info: NativeDeviceInfo;

  /**
   * @throws ConfigError a number of threads that is none · KernelError unknown kind, threads that the system does not grant, ESFT_ISA of
   * another machine; for "cuda" `where.argument` says what is missing: "library" (built without CUDA), "driver" (none, or no GPU), "device" (not supported)
   */
  constructor(asked: DeviceOptions = {}) {
    const options = optionsArgument(asked, "Device: options");
    const threads = threadCount(options.threads);
    const [, cuda, index] = /^(cuda)(?::(\d{1,4}))?$/.exec(options.kind ?? "") ?? [];
    this.handle = guarded(() =>
      cuda ? new native.Device(cuda, threads, Number(index ?? 0)) : new native.Device(options.kind ?? "cpu", threads),
    );
    this.info = this.handle.info();
  }

  /** Bytes of device memory that can still be taken; 0 = not known (the CPU's is asked of the system, train/available_memory.ts). */
  memoryFree(): number {
    return guarded(() => this.handle.memoryFree());
  }

  /** New zero-filled tensor; at most 4 dimensions. @throws MemoryError · KernelError · DisposedError */
  empty(dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(
      this,
      guarded(() => this.handle.alloc(dtypeCode[dtype], shape)),
      dtype,
      shape,
      true,
    );
  }

  /** New tensor with the values of `data` (bf16 as Uint16Array, i64 as BigInt64Array). */
  tensor(dtype: DType, shape: readonly number[], data: NodeJS.TypedArray | readonly number[]): Tensor {
    const t = this.empty(dtype, shape);
    try {
      t.write(data);
    } catch (error) {
      t.dispose();
      throw error;
    }
    return t;
  }

  /**
   * A read-only tensor straight in a mapped file, on devices that share host memory (`info.hostMemory`). `byteOffset` is a multiple of
   * the element size. The file must not change while it is used: one that shrinks is reported by the ops that meet it.
   * @throws KernelError outside the file, not aligned, or a device with its own memory
   */
  mapped(file: MappedFile, byteOffset: number, dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(
      this,
      guarded(() => this.handle.fromMap(file.handle, byteOffset, dtypeCode[dtype], shape)),
      dtype,
      shape,
      false,
    );
  }

  /** A list of tensors as one operand. The list keeps its items' memory alive. */
  list(tensors: readonly Tensor[]): TensorList {
    return new TensorList(tensors);
  }

  /** Resolves when everything submitted so far is done; rejects with the first failure: KernelError, MemoryError or DisposedError. */
  async synchronize(): Promise<void> {
    try {
      await this.handle.synchronize();
    } catch (error) {
      throw translateError(error);
    }
  }

  /**
   * Records the ops that `work` submits instead of running them; the graph runs them all with one launch, on the same memory. `work` only
   * submits ops (it takes no memory, reads and writes nothing) and returns at once; run the same ops once before, so that every op has the
   * working memory it needs.
   * @throws KernelError something in `work` cannot be recorded
   */
  async capture(work: () => void): Promise<Graph> {
    const handle = guarded(() => this.handle.captureBegin());
    const end = async (): Promise<void> => handle.end();
    let recording = true;
    try {
      const result: unknown = work();
      if (result instanceof Promise) {
        result.catch(() => undefined);
        throw new KernelError("capture: the recorded function must return at once, received a promise");
      }
      recording = false;
      await end();
      return new Graph(this, handle);
    } catch (error) {
      if (recording) await end().catch(() => undefined);
      handle.dispose();
      throw translateError(error);
    }
  }

  /** Submits op number `op` of the native table, a value for each of its arguments; lib/ops.ts is the typed form. */
  submit(op: number, values: readonly unknown[]): void {
    try {
      this.handle.run(op, ...values);
    } catch (error) {
      throw translateError(error);
    }
  }

  dispose(): void {
    this.handle.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.synchronize().catch(() => undefined);
    this.dispose();
  }
}

let made = 0;
/** How many Tensor objects this process has made, views included: a test holds two equal steps against it. */
export const tensorsMade = (): number => made;

/** Device memory with a dtype and a shape; rows (all but the last dimension) may be `ld` elements apart. */
export class Tensor {
  readonly device: Device;
  readonly handle: NativeTensor;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** True when dispose() frees memory (views and mapped tensors only drop their reference). */
  readonly owns: boolean;
  /** Elements from one row to the next. */
  readonly ld: number;

  /** Made by Device.empty, tensor and mapped, and by view. */
  constructor(device: Device, handle: NativeTensor, dtype: DType, shape: readonly number[], owns: boolean, ld?: number) {
    made++;
    this.device = device;
    this.handle = handle;
    this.dtype = dtype;
    this.shape = [...shape];
    this.owns = owns;
    this.ld = ld ?? shape.at(-1) ?? 1;
  }

  /** Elements. */
  get size(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }
  /** Bytes of the elements (not of the gaps between rows). */
  get bytes(): number {
    return this.size * bytesOf(this.dtype);
  }
  get disposed(): boolean {
    return this.handle.isDisposed();
  }

  /**
   * A view of the same memory, which it keeps alive: `offset` in elements of `dtype` from this tensor's first element.
   * @throws KernelError not inside this tensor, or not aligned · DisposedError
   */
  view(offset: number, shape: readonly number[], options: { ld?: number; dtype?: DType } = {}): Tensor {
    const dtype = guarded(() => options.dtype ?? this.dtype);
    const handle = guarded(() => this.handle.view(offset * bytesOf(dtype), dtypeCode[dtype], shape, options.ld));
    return new Tensor(this.device, handle, dtype, shape, false, options.ld);
  }

  /** Rows [begin, end) of the first dimension. */
  rows(begin: number, end: number): Tensor {
    const inner = this.shape.slice(1);
    const rowsPerItem = inner.slice(0, -1).reduce((a, b) => a * b, 1);
    const stride = inner.length === 0 ? 1 : rowsPerItem * this.ld;
    return guarded(() => this.view(begin * stride, [end - begin, ...inner], inner.length === 0 ? {} : { ld: this.ld }));
  }

  /** Columns [begin, end) of a matrix. */
  columns(begin: number, end: number): Tensor {
    return guarded(() => this.view(begin, [...this.shape.slice(0, -1), end - begin], { ld: this.ld }));
  }

  /** Same elements, another shape (contiguous tensors). */
  reshape(shape: readonly number[]): Tensor {
    return this.view(0, shape);
  }

  /** Copies `data` (as many bytes as the tensor has) into the tensor, in the order of the queue; the caller may change the array at once. */
  write(data: NodeJS.TypedArray | readonly number[]): void {
    guarded(() => this.handle.write(ArrayBuffer.isView(data) ? data : fromNumbers(this.dtype, data)));
  }

  /**
   * Copies as many bytes as the tensor has from a mapped file, on the device's thread in the order of the queue: the bytes never pass
   * through JavaScript. A file that shrank is reported by the next wait.
   */
  copyFromMap(file: MappedFile, byteOffset: number): void {
    guarded(() => this.handle.copyFromMap(file.handle, byteOffset));
  }

  /**
   * Values of a packed weight, from its row `firstRow` on, as many rows as this f32 or bf16 tensor has: decoded on the device's thread and
   * its helpers in the order of the queue. A file that shrank, and values that name a group that is not there, are reported by the next wait.
   */
  decode(weight: MappedWeight, firstRow = 0): void {
    guarded(() => this.handle.decode(...decodeArguments(weight, firstRow)));
  }

  /** The bytes, once everything submitted before is done. */
  async readBytes(): Promise<ArrayBuffer> {
    let pending: Promise<ArrayBuffer>;
    try {
      pending = this.handle.read();
      return await pending;
    } catch (error) {
      throw translateError(error);
    }
  }

  /** f32 values (bf16 tensors are widened). */
  async readF32(): Promise<Float32Array> {
    const bytes = await this.readBytes();
    if (this.dtype === "f32") return new Float32Array(bytes);
    if (this.dtype === "bf16") return bf16ToF32(new Uint16Array(bytes));
    throw new KernelError(`readF32: tensor must be f32 or bf16, received ${this.dtype}`);
  }

  /** The values of an i32 tensor; the other dtypes likewise. @throws KernelError another dtype, or a failed op before */
  async readI32(): Promise<Int32Array> {
    this.expect("i32");
    return new Int32Array(await this.readBytes());
  }
  async readI64(): Promise<BigInt64Array> {
    this.expect("i64");
    return new BigInt64Array(await this.readBytes());
  }
  async readF64(): Promise<Float64Array> {
    this.expect("f64");
    return new Float64Array(await this.readBytes());
  }

  private expect(dtype: DType): void {
    if (this.dtype !== dtype) throw new KernelError(`read: tensor must be ${dtype}, received ${this.dtype}`);
  }

  dispose(): void {
    this.handle.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Several tensors of one device as one operand of an op (expert weights, optimizer groups); keeps their memory alive. */
export class TensorList {
  readonly handle: NativeTensorList;
  readonly tensors: readonly Tensor[];
  /** @param handle where the tensors are no native memory (plan/trace.ts) */
  constructor(tensors: readonly Tensor[], handle?: NativeTensorList) {
    this.tensors = guarded(() => [...tensors]);
    this.handle = handle ?? guarded(() => new native.TensorList(tensors.map((t) => t.handle)));
  }
  dispose(): void {
    this.handle.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A recorded sequence of ops (Device.capture); keeps the memory that they use. */
export class Graph {
  readonly device: Device;
  readonly handle: NativeGraph;
  /** Made by Device.capture. */
  constructor(device: Device, handle: NativeGraph) {
    this.device = device;
    this.handle = handle;
  }
  /** Submits all of its ops. */
  launch(): void {
    guarded(() => this.handle.launch());
  }
  dispose(): void {
    this.handle.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
