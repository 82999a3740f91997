// Host-side values of an op's arguments, and how random ones are made. Used by the case tables, the tests and the benchmark.

import type { DType } from "../../lib/tensor.ts";

/** What every element of a tensor is, in place of a list of values: one number, or a draw from N(0, normal²). */
export type Fill = { readonly constant: number } | { readonly normal: number };

/** A tensor before it is on a device. `pad` = foreign columns left and right of it in a wider buffer (a strided view). */
export interface HostTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly values: ArrayLike<number>;
  readonly pad?: readonly [number, number];
  /** Where it was made by `filled`: the values are then made when somebody asks for them. */
  readonly fill?: Fill;
}
/** The same memory as another argument of the call. */
export interface Same {
  readonly same: string;
}
export type Arg = HostTensor | readonly HostTensor[] | readonly number[] | number | Same | null | undefined;
export type Args = Readonly<Record<string, Arg>>;

export const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
export const f32 = (shape: readonly number[], values: ArrayLike<number>): HostTensor => ({
  dtype: "f32",
  shape,
  values: Float32Array.from(values),
});
export const i32 = (values: readonly number[], shape: readonly number[] = [values.length]): HostTensor => ({ dtype: "i32", shape, values });
/** A tensor that is described, not listed: it may be larger than the host's memory. */
export function filled(dtype: DType, shape: readonly number[], fill: Fill): HostTensor {
  let made: Float64Array | undefined;
  return {
    dtype,
    shape,
    fill,
    get values() {
      if ("normal" in fill) throw new Error("the numbers of this tensor are drawn on the device");
      return (made ??= new Float64Array(sizeOf(shape)).fill(fill.constant));
    },
  };
}
export const zeros = (dtype: DType, shape: readonly number[]): HostTensor => filled(dtype, shape, { constant: 0 });
/** An output: filled with NaN (77 in integer tensors), so that whatever stays unwritten or is added to shows. */
export const out = (shape: readonly number[], dtype: DType = "f32"): HostTensor =>
  filled(dtype, shape, { constant: dtype === "f32" || dtype === "f64" || dtype === "bf16" ? NaN : 77 });
/** The same tensor as columns of a wider buffer; nothing outside them may be touched. */
export const strided = (t: HostTensor, left = 3, right = 5): HostTensor => ({ ...t, pad: [left, right] });

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);
/** Rounds to the nearest bf16, ties to even. */
export function toBf16(x: number): number {
  float[0] = x;
  if (Number.isNaN(float[0])) return NaN;
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000;
  return float[0];
}

/** Seeded numbers (mulberry32). */
export class Random {
  #state: number;
  constructor(seed: string | number) {
    let h = typeof seed === "number" ? seed >>> 0 : 2166136261;
    if (typeof seed === "string") for (let i = 0; i < seed.length; i++) h = Math.imul(h ^ seed.charCodeAt(i), 16777619);
    this.#state = h >>> 0;
  }
  uniform(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }
  /** An integer in [0, n). */
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }
  gauss(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }
  normal(shape: readonly number[], scale = 1, dtype: "f32" | "bf16" = "f32"): HostTensor {
    const values = new Float32Array(sizeOf(shape));
    for (let i = 0; i < values.length; i++) values[i] = this.gauss() * scale;
    if (dtype === "bf16") for (let i = 0; i < values.length; i++) values[i] = toBf16(values[i]!);
    return { dtype, shape, values };
  }
  ints(shape: readonly number[], limit: number): HostTensor {
    return { dtype: "i32", shape, values: Int32Array.from({ length: sizeOf(shape) }, () => this.below(limit)) };
  }
  permutation(n: number): number[] {
    const p = Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [p[i], p[j]] = [p[j]!, p[i]!];
    }
    return p;
  }
  /** K different experts for each of T tokens. */
  routes(T: number, K: number, E: number): HostTensor {
    const ids: number[] = [];
    for (let t = 0; t < T; t++) ids.push(...this.permutation(E).slice(0, K));
    return i32(ids, [T, K]);
  }
}

/** Describes instead of drawing: for calls whose large tensors are filled on the device. Indices are drawn as ever. */
export class Sketch extends Random {
  override normal(shape: readonly number[], scale = 1, dtype: "f32" | "bf16" = "f32"): HostTensor {
    return filled(dtype, shape, { normal: scale });
  }
}

/** Exclusive prefix sums of rows per expert. */
export function offsetsOf(counts: readonly number[]): HostTensor {
  const o = [0];
  for (const c of counts) o.push(o.at(-1)! + c);
  return i32(o);
}

// What the plain JavaScript computations of the case tables read arguments with.
export const tensor = (a: Args, name: string): HostTensor => {
  const v = a[name];
  if (v && typeof v === "object" && "same" in v) return tensor(a, v.same);
  if (!v || typeof v !== "object" || !("dtype" in v)) throw new Error(`argument ${name} is not a tensor`);
  return v;
};
export const has = (a: Args, name: string): boolean => a[name] !== undefined && a[name] !== null;
export const list = (a: Args, name: string): readonly HostTensor[] => a[name] as readonly HostTensor[];
export const number = (a: Args, name: string): number => a[name] as number;
export const ints = (a: Args, name: string): readonly number[] => (a[name] ?? []) as readonly number[];
export const colsOf = (t: HostTensor): number => t.shape.at(-1)!;
export const rowsOf = (t: HostTensor): number => sizeOf(t.shape.slice(0, -1));
export const at = (t: HostTensor, r: number, c: number): number => t.values[r * colsOf(t) + c]!;
/** A matrix product operand at the call's precision. */
export const rounded = (a: Args): ((x: number) => number) => (a.precision === 1 ? toBf16 : (x) => x);
