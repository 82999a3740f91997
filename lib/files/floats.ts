// The bytes of checkpoint tensors as f32 values and back.
import { LayoutError } from "../errors.ts";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../floats.ts";
import type { Dtype } from "./safetensors.ts";

/** Copies only when the view is not aligned to its element size. */
function aligned(bytes: Uint8Array, size: number): Uint8Array {
  return bytes.byteOffset % size === 0 ? bytes : bytes.slice();
}

const u16 = (bytes: Uint8Array) => {
  const a = aligned(bytes, 2);
  return new Uint16Array(a.buffer, a.byteOffset, a.byteLength >>> 1);
};
const asBytes = (a: Float32Array | Float64Array | Uint16Array) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);

/** Little-endian tensor bytes → f32 values; F32 is a view where alignment allows. */
export function decodeFloats(bytes: Uint8Array, dtype: Dtype): Float32Array {
  if (dtype === "BF16") return bf16ToF32(u16(bytes));
  if (dtype === "F16") return f16ToF32(u16(bytes));
  if (dtype === "F32") {
    const a = aligned(bytes, 4);
    return new Float32Array(a.buffer, a.byteOffset, a.byteLength >>> 2);
  }
  if (dtype === "F64") {
    const a = aligned(bytes, 8);
    return Float32Array.from(new Float64Array(a.buffer, a.byteOffset, a.byteLength >>> 3));
  }
  throw new LayoutError(`expected a tensor of F32, BF16, F16 or F64, found ${dtype}; dequantise it first`, { where: { dtype } });
}

/** f32 values → tensor bytes, rounding to nearest even. F32 is a view, not a copy. */
export function encodeFloats(values: Float32Array, dtype: Dtype): Uint8Array {
  if (dtype === "F32") return asBytes(values);
  if (dtype === "BF16") return asBytes(f32ToBf16(values));
  if (dtype === "F16") return asBytes(f32ToF16(values));
  if (dtype === "F64") return asBytes(Float64Array.from(values));
  throw new LayoutError(`cannot write floats as ${dtype}: expected F32, BF16, F16 or F64`, { where: { dtype } });
}

/** Tensor bytes in another float dtype; the same dtype returns the same bytes, so nothing can change by accident. */
export function castFloats(bytes: Uint8Array, from: Dtype, to: Dtype): Uint8Array {
  return from === to ? bytes : encodeFloats(decodeFloats(bytes, from), to);
}

/** Index of the first NaN or infinity, or -1. Integer dtypes have none. */
export function firstNonFinite(bytes: Uint8Array, dtype: Dtype): number {
  if (dtype === "BF16" || dtype === "F16") {
    const exponent = dtype === "BF16" ? 0x7f80 : 0x7c00;
    const bits = u16(bytes);
    for (let i = 0; i < bits.length; i++) if ((bits[i]! & exponent) === exponent) return i;
  } else if (dtype === "F32") {
    const a = aligned(bytes, 4);
    const bits = new Uint32Array(a.buffer, a.byteOffset, a.byteLength >>> 2);
    for (let i = 0; i < bits.length; i++) if ((bits[i]! & 0x7f800000) === 0x7f800000) return i;
  } else if (dtype === "F64") {
    const a = aligned(bytes, 8);
    return new Float64Array(a.buffer, a.byteOffset, a.byteLength >>> 3).findIndex((x) => !Number.isFinite(x));
  }
  return -1;
}
