// The routed experts of one MoE layer: the model's own Experts between the sort and the combination of the rows. Routing is given, as
// for the peer: no router and no shared expert.
//
//   CPU    fwd         expert_sort, gate|up with gather and SwiGLU, down, combine; nothing kept
//          dx          the same keeping h, then dX: down with dSwiGLU and gate gradient, gate|up, combine
//          esft, full  and dW of the first `trained` experts, of every expert
//          lora        dx with LoRA of rank 16 on gate, up and down of every expert, and its gradients
//          perft-r     dx with PERFT-R of rank 16 beside the layer, 1 of 4 adapters, its router and all their gradients
//   cuda   fwd         the forward that keeps h       bwd-none, bwd-esft, bwd-all   the backward alone; dW of the hottest experts
//          fwd-lora, bwd-lora, fwd-perft-r, bwd-perft-r   as on the CPU, to be held against fwd and bwd-none
//
// Weights are bf16 as a checkpoint holds them; where the device computes with f32 masters, trained experts are those.

import { LayoutError } from "../../lib/errors.ts";
import { LoraAttachments } from "../../lib/methods/lora.ts";
import { RoutedAdapters } from "../../lib/methods/perft_routed.ts";
import type { Attachments } from "../../lib/model/layers/attachment.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import type { TensorSlice } from "../../lib/files/slice.ts";
import { BalancePools } from "../../lib/model/layers/balance.ts";
import { Composer } from "../../lib/model/layers/composer.ts";
import { ExpertMatrices, Experts } from "../../lib/model/layers/experts.ts";
import { RopeIndex } from "../../lib/model/rope_table.ts";
import { StateIndex } from "../../lib/model/states.ts";
import { Run } from "../../lib/model/run.ts";
import { act, ActivationPlan, f32 } from "../../lib/model/slots.ts";
import type { ExpertWeights } from "../../lib/model/spec.ts";
import { Parameter, ParameterList } from "../../lib/model/weights/parameter.ts";
import type { AttachedSpec, ParameterSource } from "../../lib/model/weights/parameter.ts";
import * as ops from "../../lib/ops.ts";
import type { Precision } from "../../lib/ops.ts";
import type { Tensor } from "../../lib/tensor.ts";
import { moeSizes } from "../../test/ops/cases/grouped_gemm.ts";
import type { MoeSizes } from "../../test/ops/cases/grouped_gemm.ts";
import type { Backend } from "../../test/ops/perf.ts";
import { hottest, route, routingFacts } from "../../test/ops/routes.ts";
import type { Buffers } from "./buffers.ts";
import { parts, precisionOf, tiny } from "./case.ts";
import type { BenchCase, Work } from "./case.ts";

type LayerSizes = MoeSizes & { readonly T: number; readonly routing: string };

const RANK = 16;

/** What a mode attaches. */
function attachmentsOf(mode: string, { D, F, E }: LayerSizes): Attachments | null {
  if (mode.endsWith("lora")) {
    const matrices = Array.from({ length: E }, (_, expert) =>
      (["gate", "up", "down"] as const).map((part) => ({
        key: `${expert}.${part}.weight`,
        shape: part === "down" ? ([D, F] as const) : ([F, D] as const),
        place: { role: "expert", layer: 0, expert, part } as const,
        rank: RANK,
        scaling: 2,
      })),
    );
    return new LoraAttachments(matrices.flat(), "kaiming", 1);
  }
  if (!mode.endsWith("perft-r")) return null;
  const keys = Array.from({ length: 4 }, (_, j) => ({ a: `adapters.${j}.A`, b: `adapters.${j}.B` }));
  const bank = { width: D, rank: RANK, between: { scaling: 2 }, dropout: () => null, keys };
  const added = { router: "router", topK: 1, renormalize: false, normEps: 0, released: false };
  const shapes: [string, number[]][] = [
    ...keys.flatMap(({ a, b }): [string, number[]][] => [
      [a, [RANK, D]],
      [b, [D, RANK]],
    ]),
    ["router", [4, D]],
  ];
  return {
    parameters: shapes.map(([key, shape]) => ({ key, shape, place: { role: "expert", layer: 0 }, initial: () => new Float32Array(0) })),
    moe: (site, context) => new RoutedAdapters(bank, added, site, context),
  };
}

/** The parameters of a layer without a checkpoint: experts behind each other, trained ones and gradients likewise. */
class LayerParameters implements ParameterSource {
  readonly experts: readonly ExpertWeights[];
  readonly gradients: Tensor[] = [];
  private readonly b: Buffers;
  private readonly byKey = new Map<string, Parameter>();

  constructor(b: Buffers, { D, F, E }: LayerSizes, trained: readonly number[], attached: readonly AttachedSpec[] = []) {
    this.b = b;
    this.experts = Array.from({ length: E }, (_, e) => ({
      gate: { name: `${e}.gate.weight` },
      up: { name: `${e}.up.weight` },
      down: { name: `${e}.down.weight` },
    }));
    const trains = new Set(trained);
    this.fill(["gate", "up"], [F, D], trains);
    this.fill(["down"], [D, F], trains);
    const dtype = b.device.info.activationDtype;
    for (const { key, shape, place } of attached) {
      const p = new Parameter(key, shape, place);
      p.trains = true;
      p.value = b.normal(place.role === "router" || key === "router" ? "f32" : dtype, shape, shape[1]! ** -0.5);
      p.grad = b.empty("f32", shape);
      this.gradients.push(p.grad);
      this.byKey.set(key, p);
    }
  }

  private fill(names: readonly ("gate" | "up" | "down")[], [rows, cols]: readonly [number, number], trains: ReadonlySet<number>): void {
    const { b, experts } = this;
    const stack = (dtype: "bf16" | "f32", of: number, scale: number | null) => b.stack(dtype, of * names.length, rows, cols, scale);
    const masters = b.device.info.activationDtype === "f32";
    const frozen = stack("bf16", experts.length - (masters ? trains.size : 0), cols ** -0.5).items;
    const master = masters ? stack("f32", trains.size, cols ** -0.5).items : frozen;
    const { flat, items: grads } = stack("f32", trains.size, null);
    if (trains.size > 0) this.gradients.push(flat);
    experts.forEach((expert, e) => {
      for (const name of names) {
        const p = new Parameter(expert[name].name, [rows, cols], { role: "expert", layer: 0, expert: e, part: name });
        p.trains = trains.has(e);
        const memory = (p.trains ? master : frozen).shift();
        if (!memory) throw new LayoutError(`no memory for "${p.key}"`);
        p.value = memory;
        if (p.trains) p.grad = grads.shift() ?? null;
        this.byKey.set(p.key, p);
      }
    });
  }

  get(ref: TensorSlice): Parameter {
    const p = this.byKey.get(sliceKey(ref));
    if (!p) throw new LayoutError(`the layer has no parameter "${sliceKey(ref)}"`);
    return p;
  }
  attached(key: string): Parameter {
    return this.get({ name: key });
  }
  list(parameters: readonly Parameter[], what: "value" | "grad"): ParameterList {
    return new ParameterList(parameters, what, (list) => this.b.hold({ dispose: () => list.drop() }));
  }
}

/** Experts with all that they work on. */
function expertLayer(
  b: Buffers,
  s: LayerSizes,
  precision: Precision,
  trained: readonly number[],
  keep: boolean,
  attachments: Attachments | null = null,
) {
  const { device } = b;
  const { T, D, F, E, K } = s;
  const N = T * K;
  const routing = route(s.routing, T, E, K);
  const parameters = new LayerParameters(b, s, trained, attachments?.parameters);
  const plan = new ActivationPlan(device.info.activationDtype);
  const methods = attachments ? [attachments] : [];
  const pools = new BalancePools(plan.planner("model", keep), 1);
  const c = new Composer(plan.planner("layer", keep), parameters, methods, new RopeIndex(), new StateIndex(), pools);
  const { open, terms } = c.attachedToExperts({ layer: 0, routed: true, experts: parameters.experts, width: D, hidden: F, topK: K });
  const experts = new Experts(new ExpertMatrices(parameters.experts, c), { hidden: F, rowsPerToken: K }, c, terms);
  if (open.length > 0) throw new LayoutError("the terms of a layer that is measured are inside its products");
  const beside = c.attachedToMoe({ layer: 0, width: D, experts: E, topK: K, weights: c.plan.scratch(f32(K), "weights") });
  const slots = {
    y_ND: c.plan.scratch(act(D, K), "y"),
    dx_ND: c.plan.backward(act(D, K), "dx"),
    dgate_N: c.plan.backward(f32(0, K), "dgate"),
  };
  b.bytes += plan.bytes(T);
  plan.allocate(device, T);
  b.hold(plan);
  const dtype = device.info.activationDtype;
  const [x, dy, y, dx] = [b.normal(dtype, [T, D]), b.normal(dtype, [T, D]), b.empty(dtype, [T, D]), b.empty(dtype, [T, D])];
  const [ids, weights, pos] = [b.ints([T, K], routing.ids), b.f32(T, K), b.empty("i32", [T, K])];
  weights.write(routing.weights);
  const rows = { offsets: b.empty("i32", [E + 1]), tokens: b.empty("i32", [N]), gate: b.f32(N) };
  // Of a batch the experts read how many tokens it has.
  const { tokens, offsets } = rows;
  const batch = { tokens: T, ids: tokens, positions: tokens, rowsByLength: null, docStart: tokens, chunkStarts: [], bounds: offsets };
  const run = new Run({ device, batch, precision, keep, plan, ropes: { ropes: [], queryFactors: [] } });
  const dgate = keep ? run.at(slots.dgate_N) : null;
  return {
    forward: (): void => {
      ops.expertSort(device, { ids, weights, pos, ...rows });
      experts.forward(run, x, rows, run.at(slots.y_ND));
      ops.combine(device, { x: run.at(slots.y_ND), pos, weights, y });
      for (const m of beside) m.forward(run, x, y);
    },
    backward: (): void => {
      experts.backward(run, dy, x, rows, { dgate, all: true });
      experts.rowGradient(run, rows, run.at(slots.dx_ND));
      ops.combine(device, { x: run.at(slots.dx_ND), pos, y: dx });
      for (const m of beside) m.backward(run, dy, x, dx);
    },
    y,
    gradients: { outputs: [dx, ...(dgate ? [dgate] : [])], state: parameters.gradients },
  };
}

const rowsOf = (experts: readonly number[], counts: readonly number[]): number => experts.reduce((n, e) => n + counts[e]!, 0);

/** Which experts train in a mode. On the CPU the first ones, as the peer numbers them; on cuda the hottest, wherever they lie. */
function trainedOf(mode: string, on: Backend, s: LayerSizes): number[] {
  if (mode === "full" || mode.endsWith("all")) return Array.from({ length: s.E }, (_, e) => e);
  if (!mode.includes("esft")) return [];
  return on === "cpu" ? Array.from({ length: s.trained }, (_, e) => e) : hottest(route(s.routing, s.T, s.E, s.K).counts, s.trained);
}

function layerCase(id: string, on: Backend, full: LayerSizes, headline: boolean, small: boolean): BenchCase {
  const sizes = small ? tiny(full) : full;
  const { T, D, F, E, K } = sizes;
  const { mode } = parts(id);
  const forward = mode.startsWith("fwd");
  const alone = mode.startsWith("bwd");
  const setup = (b: Buffers): Work => {
    const trained = trainedOf(mode, on, sizes);
    const layer = expertLayer(b, sizes, precisionOf(id), trained, !forward || on === "cuda", attachmentsOf(mode, sizes));
    const facts = routingFacts(route(sizes.routing, T, E, K).counts, trained);
    if (forward) return { run: layer.forward, outputs: [layer.y], facts };
    const { outputs, state } = layer.gradients;
    const reset = (): void => {
      for (const x of state) ops.fill(b.device, { x, value: 0 });
    };
    if (alone) return { run: layer.backward, restore: layer.forward, outputs, state, reset, facts };
    const run = (): void => {
      layer.forward();
      layer.backward();
    };
    return { run, outputs: [layer.y, ...outputs], state, reset, facts };
  };
  const cost = (): { flops: number; tokens: number } => {
    const pass = 6 * T * K * D * F;
    const trained = trainedOf(mode, on, sizes);
    const drawn = trained.length > 0 && trained.length < E; // else how tokens are routed changes no count
    const rows = drawn ? rowsOf(trained, route(sizes.routing, T, E, K).counts) : (trained.length / E) * T * K;
    // Of a term: two products forward, four backward.
    const term = mode.endsWith("lora") ? 6 * T * K * RANK * (D + F) : mode.endsWith("perft-r") ? 4 * T * RANK * D : 0;
    return {
      flops: (forward || alone ? 1 : 2) * pass + 6 * rows * D * F + (forward ? 1 : alone ? 2 : 3) * term,
      tokens: T,
    };
  };
  return { id, on, sizes, headline, cost, setup };
}

/** Layers that are compared with PyTorch on cuda; the rest is the sweep over models, lengths and routings. */
const headlines: Readonly<Record<string, readonly string[]>> = {
  "dsv2-lite-T8192-uniform": ["fwd", "bwd-none", "bwd-all"],
  "dsv2-lite-T8192-lognormal0.7": ["bwd-esft"],
  "dsv2-lite-T8192-lognormal1.0": ["fwd", "bwd-none", "bwd-all"],
  "dsv2-lite-T32768-uniform": ["fwd", "bwd-none", "bwd-all"],
  "dsv2-lite-T32768-lognormal0.7": ["bwd-esft"],
  "dsv2-lite-T32768-lognormal1.0": ["fwd", "bwd-none", "bwd-all"],
  "qwen3-30b-T32768-uniform": ["fwd", "bwd-all"],
};

const methodModes = ["fwd-lora", "bwd-lora", "fwd-perft-r", "bwd-perft-r"];

export function layerCases(small: boolean): BenchCase[] {
  const cpu = (
    [
      ["d256", 4096],
      ["d2048", 2048],
    ] as const
  ).flatMap(([name, T]) =>
    (["f32", "bf16"] as const).flatMap((dtype) =>
      ["fwd", "dx", "esft", "esft-lognormal", "full", "lora", "perft-r"].map((mode) => {
        const sizes = { ...moeSizes[name], T, routing: mode.endsWith("lognormal") ? "lognormal1.0" : "uniform" };
        return layerCase(`layer/${name}/${dtype}/${mode}`, "cpu", sizes, true, small);
      }),
    ),
  );
  const cuda = (["dsv2-lite", "olmoe", "qwen3-30b", "mixtral"] as const).flatMap((name) =>
    [2048, 8192, 32768].flatMap((T) =>
      ["uniform", "balanced", "lognormal0.7", "lognormal1.0", "extreme"].flatMap((routing) =>
        ["fwd", "bwd-none", "bwd-esft", "bwd-all", ...(routing === "uniform" ? methodModes : [])].map((mode) => {
          const config = `${name}-T${T}-${routing}`;
          const headline = headlines[config]?.includes(mode) ?? false;
          return layerCase(`layer/${config}/bf16/${mode}`, "cuda", { ...moeSizes[name], T, routing }, headline, small);
        }),
      ),
    ),
  );
  return [...cpu, ...cuda];
}
