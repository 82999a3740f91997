// Cases of dropout (csrc/ops/dropout.h).

import { at, colsOf, number, out, rowsOf, strided, tensor, toBf16 } from "../host.ts";
import type { Args, HostTensor, Random } from "../host.ts";
import { perfCall } from "../perf.ts";
import type { PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";
import { rowOf } from "./dense.ts";

const mod = (1n << 64n) - 1n;
function mix64(x: bigint): bigint {
  let z = x & mod;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mod;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mod;
  return z ^ (z >> 31n);
}
function mix32(x: number): number {
  let z = x >>> 0;
  z = Math.imul(z ^ (z >>> 16), 0x7feb352d) >>> 0;
  z = Math.imul(z ^ (z >>> 15), 0x846ca68b) >>> 0;
  return (z ^ (z >>> 16)) >>> 0;
}

const row = rowOf("dropout", {
  eps: { y: "exact" },
  expected: (a) => {
    const [x, y, p] = [tensor(a, "x"), tensor(a, "y"), number(a, "p")];
    const key = mix64(mix64(BigInt(number(a, "seed"))) + BigInt(tensor(a, "counter").values[0]!));
    const [dropped, factor] = [Math.floor(p * 2 ** 32), Math.fround(1 / (1 - p))];
    const rows = Array.from({ length: rowsOf(x) }, (_, r) => {
      const k = Number(mix64(key + BigInt(r)) >> 32n);
      return Array.from({ length: colsOf(x) }, (__, c) =>
        mix32(k + Math.imul(c, 0x9e3779b9)) >= dropped ? Math.fround(at(x, r, c) * factor) : 0,
      );
    });
    return { y: y.dtype === "bf16" ? rows.flat().map(toBf16) : rows.flat() };
  },
});
interface Options {
  readonly p?: number;
  readonly seed?: number;
  readonly counter?: number;
  readonly strided?: boolean;
  readonly inPlace?: boolean;
}
export const dropout =
  (R: number, C: number, { p = 0.3, seed = 7, counter = 5, strided: apart = false, inPlace = false }: Options = {}) =>
  (r: Random): Args => {
    const wrap = (t: HostTensor): HostTensor => (apart ? strided(t) : t);
    const x = wrap(r.normal([R, C]));
    return {
      x: inPlace ? { same: "y" } : x,
      counter: { dtype: "f64", shape: [1], values: [counter] },
      y: inPlace ? x : wrap(out([R, C])),
      seed,
      p,
    };
  };

export const dropoutCases: readonly OpCase[] = [
  row("whole vectors", dropout(20, 64)),
  row("uneven", dropout(21, 37)),
  row("uneven, strided", dropout(21, 37, { strided: true })),
  row("in place", dropout(9, 40, { inPlace: true })),
  row("one element", dropout(1, 1, { p: 0.9 })),
  row("no rows", dropout(0, 8)),
  row("no columns", dropout(4, 0)),
  row("nothing is dropped", dropout(6, 33, { p: 0 })),
  row("nearly all is dropped", dropout(6, 33, { p: 1 - 1e-9 })),
  row("a large counter and seed", dropout(5, 19, { counter: 2 ** 53 - 1, seed: 2 ** 52 - 1 })),
  row("many rows", dropout(900, 130)),
  row("large", dropout(300, 514, { p: 0.05 })),
];
export const dropoutBase = row("base", dropout(4, 6));

export const dropoutPerf: readonly PerfRow[] = (["cpu", "cuda"] as const).map((on) =>
  perfCall(`dropout/4096x2048/${on === "cuda" ? "bf16" : "f32"}/fwd`, on, { R: 4096, C: 2048 }, "dropout", (s, r) => dropout(s.R, s.C)(r)),
);
