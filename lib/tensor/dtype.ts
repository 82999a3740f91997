// What the elements of a tensor are.

import { f32ToBf16 } from "../floats.ts";

export type DType = "f32" | "bf16" | "i32" | "i64" | "f64" | "u8";

/** As the addon numbers them (csrc/core/backend.h). */
export const dtypeCode: Readonly<Record<DType, number>> = { f32: 0, bf16: 1, i32: 2, i64: 3, f64: 4, u8: 5 };
const dtypeBytes: Readonly<Record<DType, number>> = { f32: 4, bf16: 2, i32: 4, i64: 8, f64: 8, u8: 1 };

/** Bytes of one element. */
export function bytesOf(dtype: DType): number {
  return dtypeBytes[dtype];
}

/** Numbers as the elements of a tensor: bf16 as Uint16Array, rounded to nearest even. */
export function fromNumbers(dtype: DType, data: readonly number[]): NodeJS.TypedArray {
  switch (dtype) {
    case "f32":
      return Float32Array.from(data);
    case "f64":
      return Float64Array.from(data);
    case "i32":
      return Int32Array.from(data);
    case "u8":
      return Uint8Array.from(data);
    case "i64":
      return BigInt64Array.from(data, (x) => BigInt(x));
    case "bf16":
      return f32ToBf16(Float32Array.from(data));
  }
}
