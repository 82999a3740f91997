// One MoE layer with routing given (no router, no shared expert), as in bench/peer/layer.py: forward, forward + dX, ESFT
// (+ dW of 8 experts), full. Frozen weights bf16 row-major as a checkpoint holds them; trained experts f32 masters.

import { f32ToBf16 } from "../lib/floats.ts";
import * as ops from "../lib/ops.ts";
import type { Precision } from "../lib/ops.ts";
import type { Device, Tensor } from "../lib/tensor.ts";
import { uniform } from "./case.ts";
import type { BenchCase, Running } from "./case.ts";

const shapes = {
  d256: { D: 256, F: 128, E: 64, K: 6, T: 4096, trained: 8 },
  d2048: { D: 2048, F: 1408, E: 64, K: 6, T: 2048, trained: 8 },
} as const;
const modes = ["fwd", "dx", "esft", "full"] as const;

async function setup(
  device: Device,
  name: keyof typeof shapes,
  mode: (typeof modes)[number],
  precision: Precision,
  skew: boolean,
): Promise<Running> {
  const { D, F, E, K, T } = shapes[name];
  const N = T * K;
  const trained = mode === "full" ? E : mode === "esft" ? shapes[name].trained : 0;
  const keep: { dispose(): void }[] = [];
  const hold = <X extends { dispose(): void }>(x: X): X => {
    keep.push(x);
    return x;
  };
  const empty = (shape: number[]): Tensor => hold(device.empty("f32", shape));
  const weight = (rows: number, cols: number, e: number): Tensor => {
    const values = uniform(rows * cols, cols ** -0.5);
    return hold(e < trained ? device.tensor("f32", [rows, cols], values) : device.tensor("bf16", [rows, cols], f32ToBf16(values)));
  };
  const gateUp = hold(device.list(Array.from({ length: E }, (_, e) => [weight(F, D, e), weight(F, D, e)]).flat()));
  const down = hold(device.list(Array.from({ length: E }, (_, e) => weight(D, F, e))));
  const x = hold(device.tensor("f32", [T, D], uniform(T * D, 1)));
  const dy = hold(device.tensor("f32", [T, D], uniform(T * D, 1)));
  // Near-uniform routing like a trained router's: random logits, top-K. `skew` adds a log-normal popularity (σ = 1).
  const noise = uniform(T * E, 1);
  if (skew) {
    const u = uniform(2 * E, 0.5);
    const popularity = Array.from(
      { length: E },
      (_, e) => Math.sqrt(-2 * Math.log(0.5 + u[2 * e]! + 1e-9)) * Math.cos(2 * Math.PI * u[2 * e + 1]!),
    );
    for (let i = 0; i < noise.length; i++) noise[i]! += popularity[i % E]! * 0.5;
  }
  const logits = hold(device.tensor("f32", [T, E], noise));
  const ids = hold(device.empty("i32", [T, K]));
  const weights = empty([T, K]);
  ops.topkRoute(device, {
    logits,
    ids,
    weights,
    rule: { score: "softmax", groups: 1, topkGroups: 1, groupScore: "max", dropped: "zero", renormalize: false, normEps: 0, scale: 1 },
  });
  const offsets = hold(device.empty("i32", [E + 1]));
  const tokens = hold(device.empty("i32", [N]));
  const pos = hold(device.empty("i32", [T, K]));
  const [gate, dgate, h, a, yRouted, y, dx] = [
    empty([N]),
    empty([N]),
    empty([N, 2 * F]),
    empty([N, F]),
    empty([N, D]),
    empty([T, D]),
    empty([T, D]),
  ];
  const groups = Array.from({ length: trained }, (_, e) => e);
  const dGateUp = hold(device.list(groups.flatMap(() => [empty([F, D]), empty([F, D])])));
  const dDown = hold(device.list(groups.map(() => empty([D, F]))));
  await device.synchronize();
  return {
    run: () => {
      ops.expertSort(device, { ids, weights, offsets, tokens, pos, gate });
      ops.groupedGemmNt(device, {
        x,
        rows: tokens,
        w: gateUp,
        segments: 2,
        offsets,
        swiglu: true,
        h: mode === "fwd" ? null : h,
        y: a,
        precision,
      });
      ops.groupedGemmNt(device, { x: a, w: down, offsets, y: yRouted, precision });
      ops.combine(device, { x: yRouted, pos, weights, y });
      if (mode === "fwd") return;
      if (trained > 0)
        ops.groupedGemmTn(device, { dy, dyRows: tokens, dyScale: gate, x: h, swigluX: true, offsets, dw: dDown, groups, precision });
      ops.groupedGemmNn(device, { dy, rows: tokens, w: down, offsets, h, gate, dx: h, dgate, swiglu: true, precision });
      if (trained > 0) ops.groupedGemmTn(device, { dy: h, x, xRows: tokens, offsets, dw: dGateUp, segments: 2, groups, precision });
      ops.groupedGemmNn(device, { dy: h, w: gateUp, segments: 2, offsets, dx: yRouted, precision });
      ops.combine(device, { x: yRouted, pos, y: dx });
    },
    dispose: () => {
      for (const k of keep.toReversed()) k.dispose();
    },
  };
}

export function layerCases(): BenchCase[] {
  const cases: BenchCase[] = [];
  for (const name of ["d256", "d2048"] as const)
    for (const precision of ["f32", "bf16"] as const)
      for (const mode of modes)
        for (const skew of mode === "esft" ? [false, true] : [false]) {
          const { D, F, E, K, T, trained } = shapes[name];
          const one = 6 * D * F * K * T;
          const passes = { fwd: 1, dx: 2, esft: 2 + trained / E, full: 3 }[mode];
          cases.push({
            id: `layer/${name}/${precision}/${mode}${skew ? "-lognormal" : ""}`,
            precision,
            flops: one * passes,
            tokens: T,
            setup: (device) => setup(device, name, mode, precision, skew),
          });
        }
  return cases;
}
