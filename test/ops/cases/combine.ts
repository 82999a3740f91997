// Cases of combine and its backward (csrc/ops/combine.h).

import { at, colsOf, has, i32, out, rowsOf, strided, tensor } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";

function expectedCombine(a: Args): Record<string, Float64Array> {
  const x = tensor(a, "x");
  const pos = tensor(a, "pos");
  const D = colsOf(x);
  const y = a.accumulate === 1 ? Float64Array.from(tensor(a, "y").values) : new Float64Array(rowsOf(pos) * D);
  for (let t = 0; t < rowsOf(pos); t++)
    for (let k = 0; k < colsOf(pos); k++)
      for (let d = 0; d < D; d++) y[t * D + d]! += (has(a, "weights") ? at(tensor(a, "weights"), t, k) : 1) * at(x, at(pos, t, k), d);
  if (has(a, "residual"))
    for (let t = 0; t < rowsOf(pos); t++) for (let d = 0; d < D; d++) y[t * D + d]! += at(tensor(a, "residual"), t, d);
  return { y };
}
interface CombineOptions {
  readonly residual?: boolean;
  readonly weights?: boolean;
  readonly accumulate?: boolean;
  readonly strided?: boolean;
}
export function combine(T: number, K: number, D: number, o: CombineOptions = {}) {
  return (r: Random): Args => {
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    return {
      x: wrap(r.normal([T * K, D])),
      pos: wrap(i32(r.permutation(T * K), [T, K])),
      weights: o.weights === false ? null : wrap(r.normal([T, K])),
      residual: o.residual ? wrap(r.normal([T, D])) : null,
      y: wrap(o.accumulate ? r.normal([T, D]) : out([T, D])),
      accumulate: o.accumulate ? 1 : 0,
    };
  };
}
export function combineBackward(T: number, K: number, D: number, o: { dx?: boolean; dweights?: boolean; strided?: boolean } = {}) {
  return (r: Random): Args => {
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    return {
      dy: wrap(r.normal([T, D])),
      x: wrap(r.normal([T * K, D])),
      pos: wrap(i32(r.permutation(T * K), [T, K])),
      weights: wrap(r.normal([T, K])),
      dx: o.dx === false ? null : wrap(out([T * K, D])),
      dweights: o.dweights === false ? null : wrap(out([T, K])),
    };
  };
}
const combineRow = (name: string, T: number, K: number, D: number, o?: CombineOptions): OpCase => ({
  op: "combine",
  name,
  args: combine(T, K, D, o),
  k: K + 1,
  expected: expectedCombine,
});
const combineBackRow = (name: string, T: number, K: number, D: number, o?: Parameters<typeof combineBackward>[3]): OpCase => ({
  op: "combine_backward",
  name,
  args: combineBackward(T, K, D, o),
  k: D,
});
export const combineCases: readonly OpCase[] = [
  combineRow("six of each token", 40, 6, 64),
  combineRow("unaligned", 33, 3, 71),
  combineRow("into the residual stream", 33, 2, 71, { accumulate: true }),
  combineRow("residual", 33, 2, 160, { residual: true }),
  combineRow("residual, accumulating, strided", 33, 3, 71, { residual: true, accumulate: true, strided: true }),
  combineRow("residual, no slots", 3, 0, 5, { residual: true }),
  combineRow("residual, more slots than fit at once", 20, 11, 96, { residual: true }),
  combineRow("without weights", 33, 4, 40, { weights: false }),
  combineRow("without weights, accumulating, strided", 33, 4, 41, { weights: false, accumulate: true, strided: true }),
  combineRow("strided", 20, 2, 37, { strided: true }),
  combineRow("one token", 1, 2, 5),
  combineRow("no tokens", 0, 2, 5),
  combineRow("no slots", 3, 0, 5),
  combineRow("no columns", 3, 2, 0),
  combineRow("many tokens", 600, 8, 130),
  {
    op: "combine",
    name: "rows read twice and rows never read",
    args: (r) => ({ ...combine(9, 2, 17)(r), pos: r.ints([9, 2], 18) }),
    k: 2,
    expected: expectedCombine,
  },
  combineBackRow("both gradients", 40, 6, 64),
  combineBackRow("unaligned, strided", 33, 3, 71, { strided: true }),
  combineBackRow("dx only", 33, 3, 71, { dweights: false }),
  combineBackRow("dweights only", 33, 3, 71, { dx: false }),
  combineBackRow("one token", 1, 2, 5),
  combineBackRow("no tokens", 0, 2, 5),
  combineBackRow("many tokens", 600, 8, 130),
];
export const combineBase: OpCase = { op: "combine", name: "base", args: combine(3, 2, 4) };
export const combineBackwardBase: OpCase = { op: "combine_backward", name: "base", args: combineBackward(3, 2, 4) };

const perf = (on: Backend, T: number, K: number, D: number): PerfRow =>
  perfCall(
    `combine/T${T}-K${K}-D${D}/${on === "cuda" ? "bf16" : "f32"}/fwd`,
    on,
    { T, K, D },
    "combine",
    (s, r) => combine(s.T, s.K, s.D)(r),
    (s) => ({ tokens: s.T }),
  );
export const combinePerf: readonly PerfRow[] = [perf("cpu", 4096, 6, 2048), perf("cuda", 8192, 6, 2048)];
