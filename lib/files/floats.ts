// The bytes of checkpoint tensors as f32 values and back.
import { LayoutError } from "../errors.ts";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../floats.ts";
import type { Dtype } from "./safetensors.ts";

/** The bytes as numbers; copies only when the view is not aligned to its element size. */
function numbers<T>(
  Type: { new (buffer: ArrayBufferLike, offset: number, length: number): T; BYTES_PER_ELEMENT: number },
  bytes: Uint8Array,
): T {
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % Type.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  return new Type(buffer, byteOffset, Math.floor(byteLength / Type.BYTES_PER_ELEMENT));
}

const asBytes = (a: Float32Array | Float64Array | Uint16Array) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);

/** Little-endian tensor bytes → f32 values; F32 is a view where alignment allows. */
export function decodeFloats(bytes: Uint8Array, dtype: Dtype): Float32Array {
  if (dtype === "BF16") return bf16ToF32(numbers(Uint16Array, bytes));
  if (dtype === "F16") return f16ToF32(numbers(Uint16Array, bytes));
  if (dtype === "F32") return numbers(Float32Array, bytes);
  if (dtype === "F64") return Float32Array.from(numbers(Float64Array, bytes));
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
  if (dtype === "F64") return numbers(Float64Array, bytes).findIndex((x) => !Number.isFinite(x));
  if (dtype !== "BF16" && dtype !== "F16" && dtype !== "F32") return -1;
  const exponent = { BF16: 0x7f80, F16: 0x7c00, F32: 0x7f800000 }[dtype];
  const bits = dtype === "F32" ? numbers(Uint32Array, bytes) : numbers(Uint16Array, bytes);
  for (let i = 0; i < bits.length; i++) if ((bits[i]! & exponent) === exponent) return i;
  return -1;
}
