// Cases of grouped_column_sum (csrc/ops/grouped_column_sum.h).

import { at, has, i32, ints, list, number, offsetsOf, out, strided, tensor } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfRow } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import { hottest, route, routingFacts } from "../routes.ts";
import type { OpCase } from "../support.ts";

function expected(a: Args): Record<string, Float64Array[]> {
  const [S, groups, x, offsets] = [number(a, "segments"), ints(a, "groups"), tensor(a, "x"), tensor(a, "offsets").values];
  const y = list(a, "y").map((t) => (a.accumulate === 1 ? Float64Array.from(t.values) : new Float64Array(t.values.length)));
  groups.forEach((e, g) => {
    for (let r = offsets[e]!; r < offsets[e + 1]!; r++) {
      const from = has(a, "rows") ? tensor(a, "rows").values[r]! : r;
      const scale = has(a, "scale") ? tensor(a, "scale").values[r]! : 1;
      let column = 0;
      for (let s = 0; s < S; s++) y[g * S + s]!.forEach((_, c, sums) => (sums[c]! += scale * at(x, from, column++)));
    }
  });
  return { y };
}

interface Options {
  readonly gather?: boolean;
  readonly scale?: boolean;
  readonly segments?: number;
  readonly groups?: readonly number[];
  readonly strided?: boolean;
  readonly overwrite?: boolean;
  /** Rows behind the last expert's, which must not be read. */
  readonly behind?: number;
}
const sum = (counts: readonly number[], C: number, o: Options = {}) => {
  return (r: Random): Args => {
    const { segments: S = 1, behind = 0, groups = counts.map((_, e) => e) } = o;
    const N = counts.reduce((x, y) => x + y, behind);
    const T = o.gather ? Math.max(1, Math.ceil(N / 2)) : N;
    const wrap = (t: HostTensor): HostTensor => (o.strided ? strided(t) : t);
    const spoil = (t: HostTensor, by: number): HostTensor => {
      if (!behind) return t;
      const values = Float64Array.from(t.values);
      values.fill(by, (values.length / N) * (N - behind));
      return { ...t, values };
    };
    const x = r.normal([T, C]);
    const size = (s: number): number => (s < S - 1 ? Math.floor(C / S) : C - Math.floor(C / S) * (S - 1));
    return {
      x: wrap(o.gather ? x : spoil(x, NaN)),
      rows: o.gather ? spoil(r.ints([N], T), 2 ** 31 - 1) : null,
      scale: o.scale ? spoil(r.normal([N]), NaN) : null,
      offsets: offsetsOf(counts),
      y: groups.flatMap(() => Array.from({ length: S }, (_, s) => (o.overwrite ? out([size(s)]) : r.normal([size(s)])))),
      groups,
      segments: S,
      accumulate: o.overwrite ? 0 : 1,
    };
  };
};
const row = (name: string, counts: readonly number[], C: number, o?: Options): OpCase => ({
  op: "grouped_column_sum",
  name,
  args: sum(counts, C, o),
  k: Math.max(...counts, 1),
  expected,
});

export const groupedColumnSumCases: readonly OpCase[] = [
  row("one", [1], 1),
  row("uneven tail", [17, 1, 33, 8], 37),
  row("gathered, scaled, two segments", [17, 1, 33, 8], 71, { gather: true, scale: true, segments: 2 }),
  row("some experts, overwritten", [5, 0, 9, 3], 130, { groups: [1, 2], overwrite: true }),
  row("experts without rows are added nothing", [0, 0, 3], 33),
  row("no rows", [0, 0, 0], 24, { overwrite: true }),
  row("no columns", [4, 2], 0),
  row("no experts asked for", [4, 2], 9, { groups: [] }),
  row("strided, three segments", [40, 7], 50, { strided: true, segments: 3, scale: true }),
  row("rows that are nobody's", [17, 1, 8], 40, { behind: 6, scale: true }),
  row("rows that are nobody's, gathered", [17, 1, 8], 40, { behind: 6, gather: true, scale: true, overwrite: true }),
  row("long", [3000, 1, 2777], 193, { gather: true, scale: true }),
];
export const groupedColumnSumBase: OpCase = {
  ...row("base", [3, 0, 4], 8),
  args: (r) => ({
    ...sum([3, 0, 4], 8, { groups: [0, 2], scale: true, segments: 2 })(r),
    x: r.normal([5, 8]),
    rows: i32([0, 1, 2, 3, 4, 0, 1]),
  }),
};

// ---- performance ------------------------------------------------------------------------------------------------------

/** The biases of gate and up of the hottest experts: C columns. */
function biasPerf(on: Backend, sizes: { T: number; C: number; E: number; K: number; trained: number }): PerfRow {
  const id = `grouped_column_sum/T${sizes.T}-C${sizes.C}/${on === "cuda" ? "bf16" : "f32"}/esft`;
  return perfRow(id, on, sizes, (s, r) => {
    const { counts } = route("lognormal0.7", s.T, s.E, s.K);
    const groups = hottest(counts, s.trained);
    const rows = groups.reduce((n, e) => n + counts[e]!, 0);
    const bytes = rows * s.C * (on === "cuda" ? 2 : 4);
    return {
      calls: [{ op: "grouped_column_sum", args: sum(counts, s.C, { groups, overwrite: true })(r) }],
      flops: 0,
      bytes,
      facts: routingFacts(counts, groups),
    };
  });
}
export const groupedColumnSumPerf: readonly PerfRow[] = [
  biasPerf("cpu", { T: 2048, C: 5760, E: 32, K: 4, trained: 4 }),
  biasPerf("cuda", { T: 8192, C: 5760, E: 32, K: 4, trained: 4 }),
];
