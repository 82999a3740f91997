// The memory of a case on its device.
//
// On a GPU a case is set up several times ("sets") so that what one call leaves in the L2 cache does not help the next. Inputs are
// normal random numbers: zeros and ones draw less power and run faster. Big tensors are tiled from a pool of them on the device.

import { f32ToBf16 } from "../../lib/floats.ts";
import * as ops from "../../lib/ops.ts";
import type { Device, DType, Tensor, TensorList } from "../../lib/tensor.ts";
import { bytesOf } from "../../lib/tensor.ts";
import { sizeOf } from "../../test/ops/host.ts";
import type { HostTensor } from "../../test/ops/host.ts";
import { normals } from "../../test/support/tiny_model.ts";

/** Normal random numbers of the host, made once per process. */
let values: Float32Array = new Float32Array(0);
function normalValues(n: number): Float32Array {
  if (values.length < n) {
    const next = normals(20260101);
    values = Float32Array.from({ length: n }, next);
  }
  return values.subarray(0, n);
}

/** Memory of one case on its device: everything is freed together. */
export class Buffers {
  readonly device: Device;
  /** Bytes taken so far, the pools left out. */
  bytes = 0;
  private readonly poolSize: number;
  private readonly pools = new Map<number, Tensor>();
  private readonly keep: { dispose(): void }[] = [];
  private cursor = 0;

  constructor(device: Device, poolSize: number) {
    this.device = device;
    this.poolSize = poolSize;
  }

  hold<X extends { dispose(): void }>(x: X): X {
    this.keep.push(x);
    return x;
  }
  empty(dtype: DType, shape: readonly number[]): Tensor {
    this.bytes += sizeOf(shape) * bytesOf(dtype);
    return this.hold(this.device.empty(dtype, shape));
  }
  f32(...shape: number[]): Tensor {
    return this.empty("f32", shape);
  }
  /** A tensor of the case tables, and what brings its content back. */
  make(h: HostTensor): { readonly tensor: Tensor; readonly refill: () => void } {
    if (h.pad) throw new Error("a strided view is not placed: rows that are measured lie behind each other");
    const tensor = this.empty(h.dtype, h.shape);
    const { fill } = h;
    const place = this.cursor;
    const refill = (): void => {
      if (!fill) tensor.write(ArrayBuffer.isView(h.values) ? (h.values as Float32Array) : Array.from(h.values));
      else if ("normal" in fill) this.fillNormal(tensor, fill.normal, place);
      else if (!Number.isNaN(fill.constant)) ops.fill(this.device, { x: tensor, value: fill.constant }); // NaN: an output
    };
    refill();
    return { tensor, refill };
  }
  ints(shape: readonly number[], data: Int32Array): Tensor {
    const t = this.empty("i32", shape);
    t.write(data);
    return t;
  }
  list(tensors: readonly Tensor[]): TensorList {
    return this.hold(this.device.list(tensors));
  }
  view(t: Tensor, offset: number, shape: readonly number[]): Tensor {
    return this.hold(t.view(offset, shape));
  }

  /** N(0, scale²), bf16 values also where the tensor is f32. */
  normal(dtype: "bf16" | "f32", shape: readonly number[], scale = 1): Tensor {
    const t = this.empty(dtype, shape);
    this.fillNormal(t, scale);
    return t;
  }
  /** Where the next numbers come from; fills from the same place are equal. */
  get place(): number {
    return this.cursor;
  }
  fillNormal(t: Tensor, scale: number, place = this.cursor): void {
    let pool = this.pools.get(scale);
    if (!pool) {
      const numbers = f32ToBf16(normalValues(this.poolSize).map((x) => x * scale));
      this.pools.set(scale, (pool = this.hold(this.device.tensor("bf16", [this.poolSize], numbers))));
    }
    let at = place % this.poolSize;
    for (let done = 0; done < t.size;) {
      const n = Math.min(t.size - done, this.poolSize - at);
      using from = pool.view(at, [n]);
      using to = t.view(done, [n]);
      ops.cast(this.device, { x: from, y: to });
      done += n;
      at = 0;
    }
    // A step that shares no factor with the pool: no two tensors are the same, and rows stay aligned.
    this.cursor = (place + t.size + 8 * 1031) % this.poolSize;
    this.cursor -= this.cursor % 8;
  }

  /** `count` matrices of [rows, cols] behind each other. */
  stack(dtype: "bf16" | "f32", count: number, rows: number, cols: number, scale: number | null): { flat: Tensor; items: Tensor[] } {
    const flat = scale === null ? this.empty(dtype, [count * rows * cols]) : this.normal(dtype, [count * rows * cols], scale);
    const items = Array.from({ length: count }, (_, i) => this.view(flat, i * rows * cols, [rows, cols]));
    return { flat, items };
  }

  dispose(): void {
    for (const x of this.keep.splice(0).toReversed()) x.dispose();
    this.pools.clear();
  }
}
