// Cases of heads_gemm (csrc/ops/heads_gemm.h).

import { at, colsOf, number, rounded, rowsOf, strided, tensor } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";
import { rowOf } from "./dense.ts";

/** The products as their definition, in f64; what lies beside them in y. */
function expected(a: Args): Record<string, Float64Array> {
  const [x, w, y] = [tensor(a, "x"), tensor(a, "w"), tensor(a, "y")];
  const [heads, first, rows] = [number(a, "heads"), number(a, "first_row"), number(a, "head_rows")];
  const nt = number(a, "mode") === 0;
  const round = rounded(a);
  const [C, xDim, yDim, wDim] = [colsOf(w), colsOf(x) / heads, colsOf(y) / heads, rowsOf(w) / heads];
  const made = Float64Array.from(y.values);
  for (let t = 0; t < rowsOf(x); t++)
    for (let h = 0; h < heads; h++)
      for (let n = 0; n < (nt ? rows : C); n++) {
        const at0 = h * wDim + first;
        let sum = 0;
        for (let k = 0; k < (nt ? C : rows); k++) sum += round(at(x, t, h * xDim + k)) * round(nt ? at(w, at0 + n, k) : at(w, at0 + k, n));
        made[t * colsOf(y) + h * yDim + n] = sum;
      }
  return { y: made };
}

interface Options {
  readonly w?: "f32" | "bf16";
  readonly bf16?: boolean;
  readonly strided?: boolean;
  /** Rows of a head before and behind its own, and columns that x and y have more than the product. */
  readonly before?: number;
  readonly behind?: number;
  readonly x?: number;
  readonly y?: number;
}
const modes = ["nt", "nn"] as const;
type Mode = 0 | 1;

export const heads =
  (mode: Mode, T: number, H: number, C: number, rows: number, o: Options = {}) =>
  (r: Random): Args => {
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    const { before = 0, behind = 0 } = o;
    const [from, to] = mode === 0 ? [C, rows] : [rows, C];
    return {
      x: wrap(r.normal([T, H * (from + (o.x ?? 0))])),
      w: wrap(r.normal([H * (before + rows + behind), C], 1, o.w ?? "f32")),
      y: wrap(r.normal([T, H * (to + (o.y ?? 0))])),
      heads: H,
      first_row: before,
      head_rows: rows,
      mode,
      precision: o.bf16 ? 1 : 0,
    };
  };
const row = (name: string, mode: Mode, T: number, H: number, C: number, rows: number, o: Options = {}): OpCase =>
  rowOf("heads_gemm", { expected, k: Math.max(C, rows) })(`${modes[mode]} ${T}x${H}x${rows}x${C} ${name}`, heads(mode, T, H, C, rows, o));

/** As kv_b lies: the rows of keys and values of a head side by side; queries with a rotary part behind. */
const keys: Options = { behind: 5, x: 3, y: 3 };
const values: Options = { before: 7 };

export const headsGemmCases: readonly OpCase[] = ([0, 1] as const).flatMap((mode) => [
  row("one element", mode, 1, 1, 1, 1),
  row("one row", mode, 1, 3, 64, 16),
  row("one row, rows of keys", mode, 1, 2, 67, 9, keys),
  row("one row, rows of values, bf16 weights", mode, 1, 2, 72, 11, { ...values, w: "bf16" }),
  row("a few rows", mode, 3, 2, 37, 13, { ...keys, w: "bf16" }),
  row("seven rows", mode, 7, 2, 48, 20, values),
  row("16 rows", mode, 16, 2, 40, 6, { ...values, w: "bf16" }),
  row("17 rows", mode, 17, 2, 40, 6, keys),
  row("many rows", mode, 40, 3, 70, 34, { ...keys, w: "bf16" }),
  row("bf16 compute", mode, 5, 2, 45, 17, { ...keys, bf16: true }),
  row("bf16 compute and weights", mode, 2, 2, 129, 10, { ...values, bf16: true, w: "bf16" }),
  row("bf16 compute, many rows", mode, 20, 2, 45, 17, { ...values, bf16: true, w: "bf16" }),
  row("strided", mode, 6, 3, 33, 12, { ...keys, strided: true }),
  row("strided, many rows", mode, 19, 3, 33, 12, { ...values, strided: true, w: "bf16" }),
  row("no rows", mode, 0, 2, 8, 4),
  row("no rows of a head", mode, 3, 2, 8, 0, { before: 2 }),
  row("no columns", mode, 3, 2, 0, 4),
]);
/** Too large for the emulation. */
export const largeHeadsGemmCases: readonly OpCase[] = ([0, 1] as const).flatMap((mode) => [
  row("the shape of DeepSeek-V2-Lite", mode, 1, 16, 512, 128, { w: "bf16", behind: 128, y: 64 }),
  row("many tokens of it", mode, 33, 16, 512, 128, { before: 128 }),
]);
export const headsGemmBase: OpCase = row("base", 1, 3, 2, 6, 4, { ...keys, before: 1 });

// ---- performance ------------------------------------------------------------------------------------------------------

/** What decoding a token takes beside the cache: bound by the bytes of the rows. */
const perf = (on: Backend, mode: Mode, T: number, H: number): PerfRow =>
  perfCall(
    `heads_gemm/rank512-H${H}-T${T}/${on === "cuda" ? "bf16" : "f32-bf16w"}/${modes[mode]}`,
    on,
    { T, H, C: 512, rows: 128 },
    "heads_gemm",
    (s, r) => heads(mode, s.T, s.H, s.C, s.rows, { w: "bf16", bf16: on === "cuda", behind: s.rows })(r),
    ({ T, H, C, rows }) => ({ bytes: 2 * H * rows * C, flops: 2 * T * H * rows * C, tokens: T }),
  );
export const headsGemmPerf: readonly PerfRow[] = ([0, 1] as const).flatMap((mode) => [
  perf("cpu", mode, 1, 16),
  perf("cpu", mode, 8, 16),
  perf("cpu", mode, 512, 16),
  perf("cuda", mode, 8, 128),
  perf("cuda", mode, 512, 16),
]);
