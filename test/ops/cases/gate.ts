// Cases of the gates (csrc/ops/gate.h).

import { at, colsOf, f32, has, out, rowsOf, strided, tensor } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { Backend, PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";
import { rowOf } from "./dense.ts";

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const same = (t: HostTensor): HostTensor => t;

const gate = rowOf("sigmoid_gate", {
  k: 4,
  expected: (a) => {
    const [x, g] = [tensor(a, "x"), tensor(a, "g")];
    const per = colsOf(x) / Math.max(1, colsOf(g));
    return { y: cells(x, (r, c) => at(x, r, c) * sigmoid(at(g, r, Math.floor(c / per)))) };
  },
});
const gateBack = rowOf("sigmoid_gate_backward", {
  expected: (a) => {
    const [dy, x, g] = [tensor(a, "dy"), tensor(a, "x"), tensor(a, "g")];
    const per = colsOf(x) / Math.max(1, colsOf(g));
    const dx = cells(x, (r, c) => at(dy, r, c) * sigmoid(at(g, r, Math.floor(c / per))));
    const dg = cells(g, (r, j) => {
      const s = sigmoid(at(g, r, j)) * sigmoid(-at(g, r, j));
      return s * Array.from({ length: per }, (_, i) => at(dy, r, j * per + i) * at(x, r, j * per + i)).reduce((p, q) => p + q, 0);
    });
    return { ...(has(a, "dx") ? { dx } : {}), ...(has(a, "dg") ? { dg } : {}) };
  },
});
const rowScale = rowOf("scale_rows", {
  expected: (a) => {
    const x = tensor(a, "x");
    return { y: cells(x, (r, c) => at(x, r, c) * tensor(a, "factors").values[tensor(a, "positions").values[r]!]!) };
  },
});
const cells = (t: HostTensor, f: (r: number, c: number) => number): number[] =>
  Array.from({ length: rowsOf(t) }, (_, r) => Array.from({ length: colsOf(t) }, (__, c) => f(r, c))).flat();

type Wrap = (t: HostTensor) => HostTensor;
export const gateArgs =
  (R: number, C: number, G: number, wrap: Wrap = same) =>
  (r: Random): Args => ({ x: wrap(r.normal([R, C])), g: wrap(r.normal([R, G], 2)), y: wrap(out([R, C])) });
interface BackOptions {
  readonly wrap?: Wrap;
  readonly dx?: "apart" | "in place" | null;
  readonly dg?: boolean;
}
export const gateBackArgs =
  (R: number, C: number, G: number, { wrap = same, dx = "apart", dg = true }: BackOptions = {}) =>
  (r: Random): Args => ({
    dy: dx === "in place" ? { same: "dx" } : wrap(r.normal([R, C])),
    x: wrap(r.normal([R, C])),
    g: wrap(r.normal([R, G], 2)),
    dx: dx === null ? null : wrap(dx === "in place" ? r.normal([R, C]) : out([R, C])),
    dg: dg ? wrap(out([R, G])) : null,
  });
export const scaleRowsArgs =
  (R: number, C: number, P: number, wrap: Wrap = same) =>
  (r: Random): Args => ({ x: wrap(r.normal([R, C])), positions: r.ints([R], P), factors: r.normal([P]), y: wrap(out([R, C])) });

const shapes: readonly (readonly [string, number, number, number, Wrap])[] = [
  ["one gate a row", 21, 37, 1, same],
  ["one gate a row, whole vectors", 20, 64, 1, same],
  ["a gate per head", 21, 48, 3, same],
  ["a gate per head, whole vectors", 20, 128, 4, same],
  ["a gate per element", 21, 37, 37, same],
  ["one gate a row, strided", 21, 37, 1, strided],
  ["a gate per element, strided", 9, 37, 37, strided],
  ["one element", 1, 1, 1, same],
  ["no rows", 0, 8, 2, same],
  ["many rows", 700, 96, 2, same],
  ["large", 600, 130, 130, same],
];
export const gateCases: readonly OpCase[] = [
  ...shapes.flatMap(([name, R, C, G, wrap]) => {
    const k = Math.max(1, C / G);
    return [
      gate(name, gateArgs(R, C, G, wrap)),
      gateBack(name, gateBackArgs(R, C, G, { wrap }), { k }),
      gateBack(`${name}, in place`, gateBackArgs(R, C, G, { wrap, dx: "in place" }), { k }),
      gateBack(`${name}, dg only`, gateBackArgs(R, C, G, { wrap, dx: null }), { k }),
      gateBack(`${name}, dx only`, gateBackArgs(R, C, G, { wrap, dg: false }), { k }),
    ];
  }),
  gate("in place", (r) => ({ x: { same: "y" }, g: r.normal([9, 1]), y: r.normal([9, 37]) })),
  gate("saturated", () => ({ x: f32([1, 4], [1, 2, 3, 4]), g: f32([1, 4], [100, -100, 30, -30]), y: out([1, 4]) })),
  gateBack("saturated", () => ({
    dy: f32([1, 4], [1, 1, 1, 1]),
    x: f32([1, 4], [1, 2, 3, 4]),
    g: f32([1, 4], [100, -100, 30, -30]),
    dx: out([1, 4]),
    dg: out([1, 4]),
  })),
  rowScale("unaligned", scaleRowsArgs(21, 37, 9)),
  rowScale("whole vectors", scaleRowsArgs(20, 64, 50)),
  rowScale("strided", scaleRowsArgs(21, 37, 9, strided)),
  rowScale("in place", (r) => ({ ...scaleRowsArgs(9, 37, 5)(r), x: { same: "y" }, y: r.normal([9, 37]) })),
  rowScale("no rows", scaleRowsArgs(0, 8, 3)),
  rowScale("many rows", scaleRowsArgs(900, 130, 64)),
];
export const gateBase = gate("base", gateArgs(3, 4, 2));
export const gateBackwardBase = gateBack("base", gateBackArgs(3, 4, 2));
export const scaleRowsBase = rowScale("base", scaleRowsArgs(3, 5, 4));

const perf = (on: Backend, T: number, C: number, G: number): PerfRow[] => {
  const id = `sigmoid_gate/${T}x${C}x${G}/${on === "cuda" ? "bf16" : "f32"}`;
  return [
    perfCall(`${id}/fwd`, on, { T, C, G }, "sigmoid_gate", (s, r) => gateArgs(s.T, s.C, s.G)(r)),
    perfCall(`${id}/bwd`, on, { T, C, G }, "sigmoid_gate_backward", (s, r) => gateBackArgs(s.T, s.C, s.G)(r)),
  ];
};
const rowsPerf = (on: Backend, T: number, C: number): PerfRow =>
  perfCall(`scale_rows/${T}x${C}/${on === "cuda" ? "bf16" : "f32"}/fwd`, on, { T, C }, "scale_rows", (s, r) =>
    scaleRowsArgs(s.T, s.C, 4096)(r),
  );
export const gatePerf: readonly PerfRow[] = [
  rowsPerf("cpu", 4096, 2048),
  ...perf("cpu", 4096, 2048, 1),
  ...perf("cpu", 4096, 2048, 2048),
  ...perf("cuda", 8192, 2048, 1),
];
