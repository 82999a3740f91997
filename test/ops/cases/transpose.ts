// Cases of transpose (csrc/ops/transpose.h).

import { at, colsOf, number, out, rowsOf, strided, tensor, toBf16 } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";
import { rowOf } from "./dense.ts";

const row = rowOf("transpose", {
  eps: { y: "exact" },
  expected: (a) => {
    const [x, y, pairs] = [tensor(a, "x"), tensor(a, "y"), number(a, "pairs")];
    const [R, C] = [rowsOf(x), colsOf(x)];
    /** Of each row of y, and of each of its columns, where they lie in x. */
    const columns = Array.from({ length: C }, (_, i) => (pairs === 1 ? (i < C / 2 ? 2 * i : 2 * (i - C / 2) + 1) : i));
    const rows = Array.from({ length: R }, (_, i) => (pairs === 2 ? (i % 2 === 0 ? i / 2 : R / 2 + (i - 1) / 2) : i));
    const exact = columns.flatMap((c) => rows.map((r) => at(x, r, c)));
    return { y: y.dtype === "bf16" ? exact.map(toBf16) : exact };
  },
});
interface Options {
  readonly from?: "f32" | "bf16";
  readonly to?: "f32" | "bf16";
  readonly strided?: boolean;
}
export const transpose =
  (R: number, C: number, pairs: number, { from = "f32", to = from, strided: apart = false }: Options = {}) =>
  (r: Random): Args => {
    const wrap = (t: HostTensor): HostTensor => (apart ? strided(t) : t);
    return { x: wrap(r.normal([R, C], 1, from)), y: wrap(out([C, R], to)), pairs };
  };

export const transposeCases: readonly OpCase[] = [
  row("one tile", transpose(32, 32, 0)),
  row("uneven, strided", transpose(45, 71, 0, { strided: true })),
  row("one row", transpose(1, 40, 1)),
  row("one column", transpose(40, 1, 2)),
  row("no rows", transpose(0, 6, 1)),
  row("no columns", transpose(6, 0, 2)),
  row("split", transpose(33, 70, 1)),
  row("split, strided, bf16", transpose(33, 70, 1, { from: "bf16", strided: true })),
  row("split, bf16 to f32", transpose(8, 10, 1, { from: "bf16", to: "f32" })),
  row("split, f32 to bf16", transpose(8, 10, 1, { to: "bf16" })),
  row("join", transpose(70, 33, 2)),
  row("join, strided, f32 to bf16", transpose(70, 33, 2, { to: "bf16", strided: true })),
  row("large", transpose(300, 514, 1)),
  row("large, joined", transpose(514, 300, 2, { from: "bf16" })),
];
export const transposeBase = row("base", transpose(4, 6, 0));

export const transposePerf: readonly PerfRow[] = (["cpu", "cuda"] as const).flatMap((on) =>
  (on === "cpu" ? (["f32", "bf16"] as const) : (["bf16"] as const)).map((dtype) =>
    perfCall(`transpose/2880x5760/${dtype}/fwd`, on, { R: 2880, C: 5760 }, "transpose", (s, r) =>
      transpose(s.R, s.C, 1, { from: dtype })(r),
    ),
  ),
);
