// Modes of the base's routers beside every method: what trains, what contradicts it, and the straight-through gradient against a plain f64
// reference of the dense surrogate. No GPU. Alone: npx vitest run test/methods/router_mode.test.ts

import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import type { TensorSlice } from "../../lib/files/slice.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import type { TrainableSpec } from "../../lib/methods/method.ts";
import { perftTrainable } from "../../lib/methods/perft.ts";
import { joined } from "../../lib/methods/joined.ts";
import { withRouter } from "../../lib/methods/router_mode.ts";
import type { RouterOptions } from "../../lib/methods/router_options.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { planActivations } from "../../lib/model/decoder.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { AttachmentContext, Attachments, HeadAttachment } from "../../lib/model/layers/attachment.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { moeLayers, moeOf } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import * as ops from "../../lib/ops.ts";
import { Device } from "../../lib/tensor.ts";
import type { Tensor } from "../../lib/tensor.ts";
import { routerCost } from "../../lib/train/router_cost.ts";
import { tempDir } from "../support/fixture.ts";
import { apart, normals, tinyDeepseek, tinyGptOss, tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";

const root = tempDir();
const deepseek = modelSpec(tinyDeepseek, "config.json");
const set = (more: object = {}): ExpertSet => new ExpertSet({ layers: [[1, { ranked: [3, 0] }]], ...more });
const esft = (more: object = {}): TrainableSpec => esftTrainable(deepseek, set(more));
const lora = (targets: string[]): TrainableSpec => loraTrainable(deepseek, { rank: 4, targets }, 1);
const perft = (): TrainableSpec => perftTrainable(deepseek, { variant: "R", rank: 3 }, 1);
const routed = (t: TrainableSpec, options: RouterOptions): TrainableSpec => withRouter(deepseek, t, options, 1);
const routers = moeLayers(deepseek).map((l) => sliceKey(moeOf(deepseek, l)!.router));

describe("what trains", () => {
  it("without a mode, and frozen, it is the method's own", () => {
    for (const t of [esft(), lora(["attention"]), perft(), fullTrainable(deepseek)]) expect(routed(t, {})).toBe(t);
    for (const t of [esft(), lora(["attention"]), perft()]) expect(routed(t, { router: "frozen" })).toBe(t);
    expect(routed(fullTrainable(deepseek), { router: "train" }).keys).toEqual(fullTrainable(deepseek).keys);
  });

  it("train adds the routers' own parameters", () => {
    const t = routed(esft(), { router: "train" });
    expect(t.keys.filter((k) => !esft().keys.includes(k))).toEqual(routers);
    expect([t.options, t.attachments, t.lowestLayer]).toEqual([{ router: "train" }, null, 1]);
    const beside = routed(perft(), { router: "train" });
    expect([beside.keys, beside.attachments]).toEqual([routers, expect.any(Object)]);
    expect(routed(esft({ nonExpertModules: true }), { router: "train" }).keys).toEqual(esft({ nonExpertModules: true }).keys);
    // Bias and matrix, never a selection bias.
    const gpt = modelSpec(tinyGptOss, "config.json");
    const added = withRouter(gpt, loraTrainable(gpt, { rank: 2, targets: ["attention"] }, 1), { router: "train" }, 1);
    expect(added.roles.find((r) => r.role === "router")).toMatchObject({ tensors: 2 * moeLayers(gpt).length });
  });

  it("lora attaches a term beside each router", () => {
    const t = routed(esft(), { router: "lora", routerRank: 2 });
    expect(t.attachments!.parameters.map((p) => p.key)).toEqual(routers.flatMap((key) => [`lora.${key}.A`, `lora.${key}.B`]));
    expect(t.options).toEqual({ router: "lora", routerRank: 2, routerAlpha: 4 });
    expect(routed(esft(), { router: "lora" }).options).toMatchObject({ routerRank: 8 });
    const both = routed(perft(), { router: "lora" });
    expect(both.attachments!.parameters).toHaveLength(perft().attachments!.parameters.length + 2 * routers.length);
    expect(routed(lora(["router"]), { router: "lora" }).options).toEqual(lora(["router"]).options);
  });

  it("ste trains the routers, or the terms of LoRA beside them", () => {
    const t = routed(esft(), { router: "ste" });
    expect([t.keys.filter((k) => routers.includes(k)), t.attachments?.straightThrough]).toEqual([routers, true]);
    const terms = routed(lora(["attention", "router"]), { router: "ste" });
    expect([terms.keys, terms.attachments?.straightThrough]).toEqual([[], true]);
    expect(routed(fullTrainable(deepseek), { router: "ste" }).attachments).toMatchObject({ parameters: [], straightThrough: true });
  });

  it.each<[string, () => TrainableSpec, RouterOptions, RegExp]>([
    ["frozen full fine-tuning", () => fullTrainable(deepseek), { router: "frozen" }, /contradicts full fine-tuning/],
    ["full fine-tuning with a term", () => fullTrainable(deepseek), { router: "lora" }, /contradicts full fine-tuning/],
    ["frozen non-expert modules", () => esft({ nonExpertModules: true }), { router: "frozen" }, /contradicts nonExpertModules/],
    ["frozen targets", () => lora(["router"]), { router: "frozen" }, /contradicts the targets of LoRA/],
    ["trained targets", () => lora(["router"]), { router: "train" }, /contradicts the targets of LoRA/],
    [
      "a rank without its mode",
      () => esft(),
      { router: "train", routerRank: 2 },
      /routerRank belongs to router "lora", found router "train"/,
    ],
    ["an alpha without a mode", () => esft(), { routerAlpha: 2 }, /routerAlpha belongs to router "lora", found router not given/],
    ["rank 0", () => esft(), { router: "lora", routerRank: 0 }, /routerRank must be an integer >= 1/],
    [
      "a rank above the experts",
      () => esft(),
      { router: "lora", routerRank: 9 },
      /routerRank must be at most 8 beside routers \[8, 48\], found 9$/,
    ],
    ["alpha 0", () => esft(), { router: "lora", routerAlpha: 0 }, /routerAlpha must be a number > 0/],
  ])("%s is refused", (_what, method, options, message) => expect(() => routed(method(), options)).toThrow(message));

  it("a model without routers is refused", () => {
    const dense = { ...deepseek, layers: deepseek.layers.slice(0, 1) };
    expect(() => withRouter(dense, fullTrainable(dense), { router: "train" }, 1)).toThrow(/this deepseek_v2 model has no router/);
  });

  it("straight through is refused by name where there is no dense mixture", () => {
    const change = (rule: object, more: object = {}): ModelSpec => {
      const layers = deepseek.layers.map((l) =>
        l.mlp.kind === "moe" ? { ...l, mlp: { ...l.mlp, ...more, rule: { ...l.mlp.rule, ...rule } } } : l,
      );
      return { ...deepseek, layers };
    };
    const ste = (spec: ModelSpec) => () => withRouter(spec, fullTrainable(spec), { router: "ste" }, 1);
    expect(ste(change({ score: "sparseMixer" }))).toThrow(/SparseMixer.*take router "train"/);
    expect(ste(change({}, { weighted: "inputs" }))).toThrow(/weights multiply what experts read/);
    // The advice is one that is taken.
    const refusal = (targets: string[]) => expect(() => planActivations(deepseek, routed(lora(targets), { router: "ste" })));
    refusal(["experts"]).toThrow(/modules inside the routed experts.*; take router "train"$/);
    refusal(["experts", "router"]).toThrow(/; leave router out \(.*\), or take the experts out of the targets$/);
    const terms = (spec: ModelSpec) => () =>
      withRouter(spec, loraTrainable(spec, { rank: 2, targets: ["router"] }, 1), { router: "ste" }, 1);
    expect(terms(change({ score: "sparseMixer" }))).toThrow(/; leave router out \([^)]*\)$/);
  });

  it("its cost is counted", () => {
    const t = routed(esft(), { router: "ste" });
    const { bytes, ...counted } = routerCost(deepseek, t, 64, "f32")!;
    expect(bytes).toBeGreaterThan(0);
    // By hand: y of all, dx from layer 1 on, dW of the two selected experts' matrices and of the routers; 3 of 8 experts a token.
    const [D, F, E, K, V] = [48, 24, 8, 3, 2048];
    const attention = 3 * 24 * D + (24 + 8) * D + 3 * 32 * 24 + D * 3 * 16;
    const expert = 3 * D * F;
    const [block, shared, dense, router] = [(expert * E * K) / E, expert, 3 * D * 64, E * D];
    const step = attention + dense + 2 * 2 * (attention + block + shared + router) + 2 * V * D + (2 * expert * K) / E + 2 * router;
    const all = 2 * E * expert;
    expect(counted).toEqual({ flops: expect.closeTo(all / step, 12) as number, layers: [1, 2], frozen: [] });
    // A tied head is multiplied all the same: what trains and every product is as where it is a matrix of its own.
    const cost = (spec: ModelSpec) => routerCost(spec, withRouter(spec, esftTrainable(spec, set()), { router: "ste" }, 1), 64, "f32")!;
    expect(cost({ ...deepseek, head: deepseek.embedding }).flops).toBeCloseTo(all / step, 12);
    // Of terms beside some routers only: those layers alone, and the others are told.
    const some = routed(lora(["/layers\\.2\\.mlp\\.gate$/"]), { router: "ste" });
    const layer = attention + block + shared + router;
    const few = attention + dense + 2 * layer + layer + 2 * V * D + 3 * (4 * D + 4 * E);
    const { bytes: _, ...ofSome } = routerCost(deepseek, some, 64, "f32")!;
    expect(ofSome).toEqual({ flops: expect.closeTo((E * expert) / few, 12) as number, layers: [2], frozen: [1] });
    expect(routerCost(deepseek, routed(esft(), { router: "train" }), 64, "f32")).toBeNull();
  });
});

it("attachments join", () => {
  const none: Attachments = { parameters: [] };
  expect([joined([null]), joined([null, none])]).toEqual([null, none]);
  const both = joined([
    { ...none, balance: { base: 1, added: 2 } },
    { ...none, dropsOut: true },
  ])!;
  expect([both.balance, both.dropsOut, both.straightThrough]).toEqual([{ base: 1, added: 2 }, true, false]);
  const [term, name] = [{} as HeadAttachment, { name: "head" }];
  const head = joined([none, { ...none, head: () => term }])!;
  expect(head.head!(name, {} as AttachmentContext)).toBe(term);
  // Two at one place: none is dropped.
  const twice = joined([
    { ...none, head: () => term },
    { ...none, head: () => term },
  ])!;
  expect(() => twice.head!(name, {} as AttachmentContext)).toThrow(/expected one thing of the method at the head, found 2/);
});

const v3 = {
  ...tinyDeepseek,
  model_type: "deepseek_v3",
  architectures: ["DeepseekV3ForCausalLM"],
  norm_topk_prob: true,
  routed_scaling_factor: 2.5,
  scoring_func: "sigmoid",
  topk_method: "noaux_tc",
};
const configs: Readonly<Record<string, object>> = {
  softmax: tinyDeepseek,
  "softmax renormalised": { ...tinyOlmoe, norm_topk_prob: true },
  "sigmoid renormalised, scaled": v3,
};

async function open(config: object, threads = 2) {
  const dir = join(root, `${JSON.stringify(config).length}-${threads}-${Math.random()}`);
  await writeTinyModel(dir, config as never, { tokenizer: false, dtype: "f32" });
  const device = new Device({ kind: "cpu", threads });
  const checkpoint = await openCheckpoint(dir);
  const spec = modelSpec(checkpoint.config, dir);
  const params = await Parameters.load(device, spec, checkpoint);
  const model = new Transformer(spec, device, params);
  const close = (): void => [model, params, device].forEach((x) => x.dispose());
  return { model, spec, params, device, close };
}
const normal = normals(11);
const ids = Int32Array.from({ length: 21 }, () => Math.floor(Math.abs(normal()) * 500) % 2048);
const host = hostBatch([{ ids, targets: Int32Array.from(ids, (_, t) => ids[t + 1] ?? -100) }]);

/** What the blocks read and the gradient of what they made, by layer. */
function spy(found: Map<number, { x: Tensor; dy: Tensor }>): Attachments {
  const copy = (device: Device, x: Tensor): Tensor => {
    const y = device.empty("f32", x.shape);
    ops.cast(device, { x, y });
    return y;
  };
  return {
    parameters: [],
    straightThrough: true,
    moe: ({ layer }) => ({
      forward: () => undefined,
      backward: (run, dy, x) => void found.set(layer, { x: copy(run.device, x), dy: copy(run.device, dy) }),
    }),
  };
}

describe.each(Object.entries(configs))("straight through, %s", (_name, config) => {
  it("the router's gradient is that of the dense surrogate, computed in f64", async () => {
    const { model, spec, params, close } = await open(config);
    try {
      const found = new Map<number, { x: Tensor; dy: Tensor }>();
      const keys = moeLayers(spec).map((l) => sliceKey(moeOf(spec, l)!.router));
      model.train({ keys, attachments: spy(found) });
      const chosen = new Map<number, number[]>();
      const read: Promise<void>[] = [];
      model.forwardBackward(host, 1 / host.supervised, host.ids.length, {
        onRoute: (layer, choice) => {
          const copy = model.device.empty("i32", choice.shape);
          ops.cast(model.device, { x: choice, y: copy });
          read.push(copy.readI32().then((v) => void chosen.set(layer, [...v])));
        },
      });
      await Promise.all(read);
      for (const layer of moeLayers(spec)) {
        const { router, experts, rule, topK: K, expertHidden: F } = moeOf(spec, layer)!;
        const [D, E, T] = [spec.hidden, experts.length, host.ids.length];
        const values = (ref: TensorSlice): Promise<Float32Array> => params.get(ref).value.readF32();
        const at = found.get(layer)!;
        const [x, dy, W] = [await at.x.readF32(), await at.dy.readF32(), await values(router)];
        const mlps = await Promise.all(
          experts.map(async (e) => ({
            gate: await values(apart(e).gate),
            up: await values(apart(e).up),
            down: await values(apart(e).down),
          })),
        );
        const dot = (a: Float32Array, i: number, b: ArrayLike<number>, n: number): number => {
          let sum = 0;
          for (let c = 0; c < n; c++) sum += a[i + c]! * b[c]!;
          return sum;
        };
        const expected = new Float64Array(E * D);
        for (let t = 0; t < T; t++) {
          const [xt, dyt] = [x.subarray(t * D, t * D + D), dy.subarray(t * D, t * D + D)];
          const g = mlps.map(({ gate, up, down }) => {
            const a = Float64Array.from({ length: F }, (_, f) => {
              const v = dot(gate, f * D, xt, D);
              return (v / (1 + Math.exp(-v))) * dot(up, f * D, xt, D);
            });
            let sum = 0;
            for (let d = 0; d < D; d++) sum += dyt[d]! * dot(down, d * F, a, F);
            return sum;
          });
          const z = Array.from({ length: E }, (_, e) => dot(W, e * D, xt, D));
          const mask = new Set(chosen.get(layer)!.slice(t * K, t * K + K));
          // The surrogate's value with everything that stands behind a constant taken at z.
          const scores = (v: readonly number[]): number[] => {
            if (rule.score === "sigmoid") return v.map((l) => 1 / (1 + Math.exp(-l)));
            const sum = v.reduce((s, l) => s + Math.exp(l), 0);
            return v.map((l) => Math.exp(l) / sum);
          };
          const total = (p: readonly number[]): number => p.reduce((s, v, e) => s + (mask.has(e) ? v : 0), rule.normEps);
          const still = total(scores(z));
          const surrogate = (v: readonly number[]): number => {
            const p = scores(v);
            const sum = total(p);
            return p.reduce((s, pe, e) => s + (g[e]! * rule.scale * pe) / (rule.renormalize ? (mask.has(e) ? sum : still) : 1), 0);
          };
          for (let e = 0; e < E; e++) {
            const moved = (by: number): number => surrogate(z.map((v, j) => (j === e ? v + by : v)));
            const dz = (moved(1e-4) - moved(-1e-4)) / 2e-4;
            for (let d = 0; d < D; d++) expected[e * D + d]! += dz * xt[d]!;
          }
        }
        const grad = await params.get(router).grad!.readF32();
        const norm = Math.hypot(...expected);
        expect(norm).toBeGreaterThan(1e-6);
        expect(Math.hypot(...grad.map((v, i) => v - expected[i]!)) / norm).toBeLessThan(2e-4);
      }
      for (const { x, dy } of found.values()) [x, dy].forEach((t) => t.dispose());
    } finally {
      close();
    }
  });
});

describe("straight through", () => {
  /** Gradients of everything that full fine-tuning trains. */
  async function gradients(config: object, straightThrough: boolean, threads = 2): Promise<Map<string, Float32Array>> {
    const { model, spec, close } = await open(config, threads);
    try {
      const state = model.train({ keys: fullTrainable(spec).keys, attachments: { parameters: [], straightThrough } });
      for (let i = 0; i < 2; i++) model.forwardBackward(host, 0.5 / host.supervised, host.ids.length, {}, i > 0);
      return new Map(await Promise.all(state.parameters.map(async (p) => [p.key, await p.grad!.readF32()] as const)));
    } finally {
      close();
    }
  }

  it.each([
    ["softmax", { ...tinyDeepseek, num_experts_per_tok: tinyDeepseek.n_routed_experts }],
    ["softmax renormalised", { ...tinyOlmoe, norm_topk_prob: true, num_experts_per_tok: tinyOlmoe.num_experts }],
    ["sigmoid renormalised", { ...v3, num_experts_per_tok: tinyDeepseek.n_routed_experts }],
    ["softmax over the chosen, biases", { ...tinyGptOss, num_experts_per_tok: tinyGptOss.num_local_experts }],
  ])("%s: where every expert is chosen it is the gradient", async (_name, config) => {
    const [dense, sparse] = [await gradients(config, true), await gradients(config, false)];
    for (const [key, grad] of dense) {
      const want = sparse.get(key)!;
      const norm = Math.hypot(...want);
      expect(Math.hypot(...grad.map((v, i) => v - want[i]!)), key).toBeLessThanOrEqual(2e-5 * norm + 1e-9);
    }
  });

  it("beside it every other term of the method gets its gradient", async () => {
    const { model, spec, close } = await open(tinyDeepseek);
    try {
      const method = withRouter(spec, loraTrainable(spec, { rank: 2, targets: ["attention", "head", "router"] }, 1), { router: "ste" }, 1);
      const state = model.train(method);
      model.forwardBackward(host, 1 / host.supervised, host.ids.length, {}, false);
      for (const p of state.parameters)
        if (p.key.endsWith(".B")) expect(Math.hypot(...(await p.grad!.readF32())), p.key).toBeGreaterThan(0);
    } finally {
      close();
    }
  });

  it("changes the router's gradient, and the experts' of the last layer not at all; 1 and 2 threads give the same bits", async () => {
    const [dense, sparse, one] = [
      await gradients(tinyDeepseek, true),
      await gradients(tinyDeepseek, false),
      await gradients(tinyDeepseek, true, 1),
    ];
    expect(one).toEqual(dense);
    const last = moeOf(deepseek, 2)!;
    expect(dense.get(sliceKey(last.router))).not.toEqual(sparse.get(sliceKey(last.router)));
    for (const e of last.experts) expect(dense.get(sliceKey(apart(e).down))).toEqual(sparse.get(sliceKey(apart(e).down)));
  });
});
