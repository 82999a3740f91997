// The routed experts of one MoE layer, whole and product by product. Routing is given; the sort is inside the forward, the router and
// the shared expert are not. The forward keeps h (gate | up), as training does.
//
//   fwd        expert_sort, gate|up with gather and SwiGLU, down, combine
//   bwd-none   dX: down with dSwiGLU and gate gradient, gate|up, combine
//   bwd-esft   the same and dW of the hottest experts          bwd-all    and dW of every expert
//
// dh goes to memory of its own (a step overwrites h with it), so that calls can be repeated.

import * as ops from "../../lib/ops.ts";
import type { Tensor } from "../../lib/tensor.ts";
import type { Buffers, GpuCase, Work } from "./case.ts";
import { hottest, route, routingFacts } from "./routing.ts";
import type { MoeShape, Shapes } from "./shapes.ts";

const precision = "bf16";
const modes = ["fwd", "bwd-none", "bwd-esft", "bwd-all"] as const;
type Mode = (typeof modes)[number];

/** Everything a layer works on; what a mode does not need is not there. */
function layer(b: Buffers, { D, F, E, K }: MoeShape, T: number, routing: string, groups: readonly number[], backward: boolean) {
  const { device } = b;
  const N = T * K;
  const { ids: idValues, weights: weightValues, counts } = route(routing, T, E, K);
  const gateUp = b.list(b.stack("bf16", 2 * E, F, D, D ** -0.5).items);
  const down = b.list(b.stack("bf16", E, D, F, F ** -0.5).items);
  const x = b.normal("bf16", [T, D]);
  const ids = b.ints([T, K], idValues);
  const weights = b.f32(T, K);
  weights.write(weightValues);
  const [offsets, tokens, pos, gate] = [b.empty("i32", [E + 1]), b.empty("i32", [N]), b.empty("i32", [T, K]), b.f32(N)];
  const [h, a, routed, y] = [b.bf16(N, 2 * F), b.bf16(N, F), b.bf16(N, D), b.bf16(T, D)];
  const sort = (): void => ops.expertSort(device, { ids, weights, offsets, tokens, pos, gate });
  const up = (): void => ops.groupedGemmNt(device, { x, rows: tokens, w: gateUp, segments: 2, offsets, swiglu: true, h, y: a, precision });
  const downward = (): void => ops.groupedGemmNt(device, { x: a, w: down, offsets, y: routed, precision });
  const forward = (): void => {
    sort();
    up();
    downward();
    ops.combine(device, { x: routed, pos, weights, y });
  };
  const gradients = !backward
    ? null
    : (() => {
        forward();
        const G = groups.length;
        const [dy, dh, dgate, dxRouted, dx] = [b.normal("bf16", [T, D]), b.bf16(N, 2 * F), b.f32(N), b.bf16(N, D), b.bf16(T, D)];
        const dwUp = b.stack("f32", 2 * G, F, D, null);
        const dwDown = b.stack("f32", G, D, F, null);
        const [listUp, listDown] = [b.list(dwUp.items), b.list(dwDown.items)];
        const tnDown = (): void =>
          ops.groupedGemmTn(device, {
            dy,
            dyRows: tokens,
            dyScale: gate,
            x: h,
            swigluX: true,
            offsets,
            dw: listDown,
            groups,
            precision,
          });
        const nnDown = (): void =>
          ops.groupedGemmNn(device, { dy, rows: tokens, w: down, offsets, h, gate, dx: dh, dgate, swiglu: true, precision });
        const tnUp = (): void =>
          ops.groupedGemmTn(device, { dy: dh, x, xRows: tokens, offsets, dw: listUp, segments: 2, groups, precision });
        const nnUp = (): void => ops.groupedGemmNn(device, { dy: dh, w: gateUp, segments: 2, offsets, dx: dxRouted, precision });
        const all = (): void => {
          if (G > 0) tnDown();
          nnDown();
          if (G > 0) tnUp();
          nnUp();
          ops.combine(device, { x: dxRouted, pos, y: dx });
        };
        const dw = G > 0 ? [dwUp.flat, dwDown.flat] : [];
        const reset = (): void => {
          for (const t of dw) ops.fill(device, { x: t, value: 0 });
        };
        return { all, tnDown, nnDown, tnUp, nnUp, dx, dxRouted, dh, dgate, dwUp, dwDown, dw, reset };
      })();
  return { counts, sort, up, downward, forward, gradients, h, a, routed, y };
}

const sum = (counts: readonly number[], groups: readonly number[]): number => groups.reduce((n, e) => n + counts[e]!, 0);

function trainedOf(mode: string, { E, K, trained }: MoeShape, T: number, routing: string): number[] {
  if (mode.endsWith("all")) return Array.from({ length: E }, (_, e) => e);
  if (mode.endsWith("esft")) return hottest(route(routing, T, E, K).counts, trained);
  return [];
}

function layerWork(b: Buffers, shape: MoeShape, T: number, routing: string, mode: Mode): Work {
  const { D, F, K } = shape;
  const groups = trainedOf(mode, shape, T, routing);
  const l = layer(b, shape, T, routing, groups, mode !== "fwd");
  const pass = 6 * T * K * D * F;
  const facts = routingFacts(l.counts, groups);
  if (!l.gradients) return { run: l.forward, outputs: [l.y, l.h], flops: pass, tokens: T, facts };
  const { all, dx, dgate, dw, reset } = l.gradients;
  const dwFlops = 6 * sum(l.counts, groups) * D * F;
  return { run: all, outputs: [dx, dgate], state: dw, reset, flops: pass + dwFlops, tokens: T, facts };
}

/** One product of the layer. Bytes: weights met, every row of the inputs once, the outputs. */
function groupedWork(b: Buffers, shape: MoeShape, T: number, routing: string, mode: string): Work {
  const { D, F, E, K } = shape;
  const N = T * K;
  const groups = trainedOf(mode, shape, T, routing);
  const l = layer(b, shape, T, routing, groups, !["up", "down"].includes(mode));
  const g = l.gradients;
  const rows = sum(l.counts, groups);
  const met = l.counts.filter((n) => n > 0).length;
  const facts = routingFacts(l.counts, groups);
  const flops = 2 * N * D * F;
  const G = groups.length;
  const accumulated = (t: Tensor): Pick<Work, "outputs" | "state" | "reset"> => ({ outputs: [], state: [t], reset: g!.reset });
  switch (mode) {
    case "up":
      l.sort();
      return { run: l.up, outputs: [l.h, l.a], flops: 2 * flops, bytes: 2 * (2 * met * D * F + T * D + 3 * N * F), facts };
    case "down":
      l.sort();
      l.up();
      return { run: l.downward, outputs: [l.routed], flops, bytes: 2 * (met * D * F + N * F + N * D), facts };
    case "down-bwd":
      return { run: g!.nnDown, outputs: [g!.dh, g!.dgate], flops, bytes: 2 * (met * D * F + T * D + 4 * N * F) + 8 * N, facts };
    case "up-bwd":
      g!.nnDown();
      return { run: g!.nnUp, outputs: [g!.dxRouted], flops: 2 * flops, bytes: 2 * (2 * met * D * F + 2 * N * F + N * D), facts };
    case "dw-down-esft":
    case "dw-down-all":
      return {
        run: g!.tnDown,
        ...accumulated(g!.dwDown.flat),
        flops: 2 * rows * D * F,
        bytes: 8 * G * D * F + 2 * (Math.min(T, rows) * D + 2 * rows * F),
        facts,
      };
    default:
      g!.nnDown();
      return {
        run: g!.tnUp,
        ...accumulated(g!.dwUp.flat),
        flops: 4 * rows * D * F,
        bytes: 16 * G * D * F + 2 * (Math.min(T, rows) * D + 2 * rows * F),
        facts: { ...facts, experts: E },
      };
  }
}

const products = ["up", "down", "down-bwd", "up-bwd", "dw-down-esft", "dw-up-esft", "dw-down-all", "dw-up-all"] as const;

export function gpuLayerCases({ models, tokens, routings, grouped, headline }: Shapes): GpuCase[] {
  const cases: GpuCase[] = [];
  for (const T of grouped.tokens)
    for (const mode of products) {
      const routing = mode.endsWith("esft") ? "lognormal0.7" : "uniform";
      cases.push({
        id: `grouped/${grouped.model}-T${T}-${routing}/bf16/${mode}`,
        headline: true,
        setup: (b) => groupedWork(b, models[grouped.model]!, T, routing, mode),
      });
    }
  for (const [name, shape] of Object.entries(models))
    for (const T of tokens)
      for (const routing of routings)
        for (const mode of modes) {
          const config = `${name}-T${T}-${routing}`;
          cases.push({
            id: `layer/${config}/bf16/${mode}`,
            headline: headline[config]?.includes(mode) ?? false,
            setup: (b) => layerWork(b, shape, T, routing, mode),
          });
        }
  return cases;
}
