// f32 and the 16-bit floats, bit by bit: round to nearest, ties to even; NaN stays NaN, overflow becomes infinity.

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
