// Conversions between f32 and the 16-bit floats of checkpoints: round to nearest, ties to even; NaN stays NaN.
import { LayoutError } from "../errors.ts";
import type { Dtype } from "./safetensors.ts";

/** f32 → bf16. NaNs are kept quiet (payload truncated), overflow becomes infinity. */
export function f32ToBf16(source: Float32Array, into = new Uint16Array(source.length)): Uint16Array {
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length);
  for (let i = 0; i < bits.length; i++) {
    const u = bits[i]!;
    into[i] = (u & 0x7fffffff) > 0x7f800000 ? (u >>> 16) | 0x40 : (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
  }
  return into;
}

/** bf16 → f32, exact. */
export function bf16ToF32(source: Uint16Array, into = new Float32Array(source.length)): Float32Array {
  const bits = new Uint32Array(into.buffer, into.byteOffset, source.length);
  for (let i = 0; i < source.length; i++) bits[i] = source[i]! << 16;
  return into;
}

/** f32 → IEEE half. */
export function f32ToF16(source: Float32Array, into = new Uint16Array(source.length)): Uint16Array {
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length);
  for (let i = 0; i < bits.length; i++) {
    const sign = (bits[i]! >>> 16) & 0x8000;
    const u = bits[i]! & 0x7fffffff;
    let half: number;
    if (u > 0x7f800000) half = 0x7e00 | ((u >>> 13) & 0x3ff);
    else if (u >= 0x477ff000) half = 0x7c00; // 65520 and above round to infinity
    else if (u >= 0x38800000) half = (u - 0x38000000 + 0xfff + ((u >>> 13) & 1)) >>> 13;
    else half = Math.abs(source[i]!) * 2 ** 24 + 2 ** 52 - 2 ** 52; // subnormal: a double rounds to whole units, nearest even
    into[i] = sign | half;
  }
  return into;
}

/** IEEE half → f32, exact. */
export function f16ToF32(source: Uint16Array, into = new Float32Array(source.length)): Float32Array {
  for (let i = 0; i < source.length; i++) {
    const h = source[i]!;
    const exponent = (h >>> 10) & 0x1f;
    const mantissa = h & 0x3ff;
    const magnitude =
      exponent === 0 ? mantissa * 2 ** -24 : exponent === 31 ? (mantissa ? NaN : Infinity) : (1 + mantissa / 1024) * 2 ** (exponent - 15);
    into[i] = h & 0x8000 ? -magnitude : magnitude;
  }
  return into;
}

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
