// The seams of the model, each with an attachment of the simplest kind: its gradients, and those of everything around it, against
// finite differences of the loss; and what is attached at zero changes nothing. No GPU.
// Run alone: npx vitest run test/methods/seams.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { LoraAttachments } from "../../lib/methods/lora.ts";
import { PerftAttachments } from "../../lib/methods/perft.ts";
import type { PerftOptions } from "../../lib/methods/perft_options.ts";
import { loraMatrices } from "../../lib/methods/lora_targets.ts";
import type { LoraOptions } from "../../lib/methods/lora_targets.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { Attachments, ExpertsAttachment, LinearAttachment, MoeAttachment } from "../../lib/model/layers/attachment.ts";
import type { Run } from "../../lib/model/run.ts";
import { act } from "../../lib/model/slots.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { moeLayers, moeOf } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import * as ops from "../../lib/ops.ts";
import { Device } from "../../lib/tensor.ts";
import type { Tensor } from "../../lib/tensor.ts";
import { normals, tinyDeepseek, tinyGptOss, tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";

/** A matrix of its own for every routed expert, beside gate|up and beside down: what changing the weights would do. */
function insideExperts(spec: ModelSpec, scale: number): Attachments {
  const D = spec.hidden;
  const site = (layer: number) => {
    const { experts, expertHidden: F } = moeOf(spec, layer)!;
    return { E: experts.length, F };
  };
  const key = (layer: number, e: number, part: string): string => `test.layers.${layer}.${e}.${part}`;
  const random = (n: number, seed: number) => () => Float32Array.from({ length: n }, normals(seed)).map((x) => x * scale);
  return {
    parameters: moeLayers(spec).flatMap((layer) => {
      const { E, F } = site(layer);
      return Array.from({ length: E }, (_, e) => [
        {
          key: key(layer, e, "hidden"),
          shape: [2 * F, D],
          place: { role: "expert", layer } as const,
          initial: random(2 * F * D, 7 * e + 1),
        },
        { key: key(layer, e, "output"), shape: [D, F], place: { role: "expert", layer } as const, initial: random(D * F, 7 * e + 2) },
      ]).flat();
    }),
    experts: ({ routed, layer, experts, width, hidden: F }, context): ExpertsAttachment | null => {
      const { plan } = context;
      if (!routed) return null;
      const K = moeOf(spec, layer)!.topK;
      const all = (part: string) => experts.map((_, e) => context.attached(key(layer, e, part)));
      const [hidden, output] = [all("hidden"), all("output")];
      const list = (device: Device, tensors: readonly Tensor[]) => device.list(tensors);
      const grads = (parameters: typeof hidden) => parameters.map((p) => p.grad!);
      const groups = experts.map((_, e) => e);
      const [h, y, da, dx] = [plan.scratch(act(2 * F, K), "th"), plan.scratch(act(width, K), "ty"), plan.backward(act(F, K), "tda"), plan.backward(act(width, K), "tdx")]; // prettier-ignore
      const backY = plan.backward(act(width, K), "ty2");
      const plus = (run: Run, x: Tensor, term: Tensor): void => ops.add(run.device, { a: x, b: term, y: x });
      return {
        forward: {
          hidden: (run, x, { tokens, offsets }, into) => {
            const w = list(run.device, hidden.map((p) => p.value)); // prettier-ignore
            ops.groupedGemmNt(run.device, { x, rows: tokens, w, offsets, y: run.at(h) });
            plus(run, into.whole, run.at(h));
          },
          output: (run, _x, { offsets }, a, into, pass) => {
            const w = list(run.device, output.map((p) => p.value)); // prettier-ignore
            const term = run.at(pass === "backward" ? backY : y);
            ops.groupedGemmNt(run.device, { x: a, w, offsets, y: term });
            plus(run, into, term);
          },
        },
        backward: {
          output: (run, dy, _x, { offsets }, a, into) => {
            ops.groupedGemmTn(run.device, { dy, x: a, offsets, dw: list(run.device, grads(output)), groups, accumulate: run.accumulate });
            const w = list(run.device, output.map((p) => p.value)); // prettier-ignore
            ops.groupedGemmNn(run.device, { dy, w, offsets, dx: run.at(da) });
            plus(run, into, run.at(da));
          },
          hidden: (run, dh, x, { tokens, offsets }) => {
            ops.groupedGemmTn(run.device, {
              dy: dh.whole,
              x,
              xRows: tokens,
              offsets,
              dw: list(run.device, grads(hidden)),
              groups,
              accumulate: run.accumulate,
            });
          },
          input: (run, dh, { offsets }, into) => {
            const w = list(run.device, hidden.map((p) => p.value)); // prettier-ignore
            ops.groupedGemmNn(run.device, { dy: dh.whole, w, offsets, dx: run.at(dx) });
            plus(run, into, run.at(dx));
          },
        },
      };
    },
  };
}

/** y += x·Mᵀ, beside a linear layer or a whole block. */
class Plus implements LinearAttachment, MoeAttachment {
  readonly trains = true;
  private readonly m: ReturnType<Parameters["attached"]>;
  constructor(m: Plus["m"]) {
    this.m = m;
  }
  forward(run: Run, x: Tensor, y: Tensor): void {
    ops.gemm(run.device, "nt", { a: x, b: this.m.value, c: y, accumulate: true });
  }
  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null): void {
    ops.gemm(run.device, "tn", { a: dy, b: x, c: this.m.grad!, accumulate: run.accumulate });
    if (dx) ops.gemm(run.device, "nn", { a: dy, b: this.m.value, c: dx, accumulate: true });
  }
}

function besideBlocks(spec: ModelSpec, scale: number): Attachments {
  const D = spec.hidden;
  const normal = normals(3);
  return {
    parameters: moeLayers(spec).map((layer) => ({
      key: `test.layers.${layer}.block`,
      shape: [D, D],
      place: { role: "expert", layer },
      initial: () => Float32Array.from({ length: D * D }, () => scale * normal()),
    })),
    moe: ({ layer }, context) => new Plus(context.attached(`test.layers.${layer}.block`) as Plus["m"]),
  };
}

function lora(spec: ModelSpec, scale: number, targets = ["linear", "router"], more: Partial<LoraOptions> = {}): Attachments {
  const attachments = new LoraAttachments(loraMatrices(spec, { rank: 3, alpha: 5, targets, ...more }), "kaiming", 1);
  const parameters = attachments.parameters.map((p, i) => {
    const normal = normals(i);
    return { ...p, initial: () => Float32Array.from({ length: p.shape[0]! * p.shape[1]! }, () => scale * normal()) };
  });
  return {
    parameters,
    linear: attachments.linear.bind(attachments),
    experts: attachments.experts.bind(attachments),
    head: attachments.head.bind(attachments),
  };
}

function perft(spec: ModelSpec, scale: number, options: Partial<PerftOptions>): Attachments {
  const attachments = new PerftAttachments(spec, { variant: "R", rank: 3, ...options }, 1);
  const parameters = attachments.parameters.map((p, i) => {
    const normal = normals(i);
    // All adapters are visited: no step can change a choice.
    return { ...p, initial: () => Float32Array.from({ length: p.shape[0]! * p.shape[1]! }, () => 2 * scale * normal()) };
  });
  return { parameters, moe: attachments.moe.bind(attachments), experts: attachments.experts.bind(attachments) };
}

/** Some experts, in one layer all; down has other ranks. */
function some(spec: ModelSpec): Partial<LoraOptions> {
  const [first = 0, ...others] = moeLayers(spec);
  const layers = [
    [first, { ranked: moeOf(spec, first)!.experts.map((_, e) => e) }],
    ...others.map((l) => [l, { ranked: [2, 0] }]),
  ] as const;
  // Of fused experts the names have an index.
  const fused = "gateUp" in moeOf(spec, first)!.experts[0]!;
  const ranks: Record<string, number> = fused ? { "/down_proj/": 2, "down_proj[0]": 1 } : { down_proj: 2, "experts.0.down_proj": 1 };
  return { experts: new ExpertSet({ layers: layers as never }), ranks };
}

describe.each([
  // Every token visits every expert: no step of a finite difference can change a choice.
  ["olmoe", { ...tinyOlmoe, num_experts_per_tok: tinyOlmoe.num_experts }],
  ["deepseek_v2", { ...tinyDeepseek, num_experts_per_tok: tinyDeepseek.n_routed_experts }],
  ["gpt_oss", { ...tinyGptOss, num_experts_per_tok: tinyGptOss.num_local_experts }],
] as const)("%s", (family, config) => {
  let dir: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), "esft-seams-"));
    await writeTinyModel(dir, config, { tokenizer: false, dtype: "f32" });
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  async function open(): Promise<{ model: Transformer; spec: ModelSpec; close: () => void }> {
    const device = new Device({ kind: "cpu", threads: 2 });
    const checkpoint = await openCheckpoint(dir);
    const spec = modelSpec(checkpoint.config, dir);
    const params = await Parameters.load(device, spec, checkpoint);
    const model = new Transformer(spec, device, params);
    return {
      model,
      spec,
      close: () => {
        model.dispose();
        params.dispose();
        device.dispose();
      },
    };
  }
  const normal = normals(11);
  const ids = Int32Array.from({ length: 33 }, () => Math.floor(Math.abs(normal()) * 500) % 2048);
  const host = hostBatch([{ ids, targets: Int32Array.from(ids, (_, t) => (t % 3 === 0 ? -100 : (ids[t + 1] ?? -100))) }]);

  const loss = async (model: Transformer): Promise<number> => {
    model.resetLoss();
    model.evaluate(host);
    return (await model.readLoss()).loss / host.supervised;
  };

  describe.each([
    ["inside experts", insideExperts],
    ["beside blocks", besideBlocks],
    ["LoRA on linear layers", lora],
    ["LoRA on the head", (spec: ModelSpec, scale: number) => lora(spec, scale, ["head"])],
    ["LoRA on the router", (spec: ModelSpec, scale: number) => lora(spec, scale, ["router"])],
    ["LoRA on routed experts", (spec: ModelSpec, scale: number) => lora(spec, scale, ["experts"])],
    ["LoRA on some routed experts, of several ranks", (spec: ModelSpec, scale: number) => lora(spec, scale, ["experts"], some(spec))],
    ["PERFT-R", (spec: ModelSpec, scale: number) => perft(spec, scale, { adapters: 3, adaptersPerToken: 3 })],
    ["PERFT-R, parallel", (spec: ModelSpec, scale: number) => perft(spec, scale, { adapters: 2, form: "parallel" })],
    ["PERFT-E", (spec: ModelSpec, scale: number) => perft(spec, scale, { variant: "E" })],
    ["PERFT-D, parallel", (spec: ModelSpec, scale: number) => perft(spec, scale, { variant: "D", form: "parallel" })],
    ["PERFT-S", (spec: ModelSpec, scale: number) => perft(spec, scale, { variant: "S" })],
    ["LoRA on gate over up, and on down", (spec: ModelSpec, scale: number) => lora(spec, scale, ["experts"], { expertTerms: "fused" })],
    ...["gate_proj", "up_proj", "down_proj"]
      .filter(() => family === "deepseek_v2") // of OLMoE these are routed experts
      .map((name) => [`LoRA on ${name} alone`, (spec: ModelSpec, scale: number) => lora(spec, scale, [name])] as const),
  ] as const)("%s", (_what, make) => {
    it("gradients are those of finite differences, for what is attached and for the base around it", async () => {
      const { model, spec, close } = await open();
      try {
        const attachments = make(spec, 0.05);
        const state = model.train({ keys: fullTrainable(spec).keys, attachments });
        // Two micro-batches: gradients add up.
        for (let i = 0; i < 2; i++) model.forwardBackward(host, 0.5 / host.supervised);
        const before = await loss(model);
        const checked: string[] = [];
        // Along its own gradient: the slope of the loss is the squared norm.
        for (const p of state.parameters) {
          const [values, grad] = [await p.master!.readF32(), await p.grad!.readF32()];
          const norm = Math.hypot(...grad);
          if (norm < 1e-3) continue; // below what f32 losses can show
          const step = Math.min(4e-3 / norm, 0.05) / norm;
          const at = async (sign: number): Promise<number> => {
            p.master!.write(values.map((x, i) => x + sign * step * grad[i]!));
            return loss(model);
          };
          const slope = ((await at(1)) - (await at(-1))) / (2 * step);
          p.master!.write(values);
          expect(Math.abs(slope / norm ** 2 - 1), p.key).toBeLessThan(0.02);
          checked.push(p.key);
        }
        const own = attachments.parameters.map((p) => p.key);
        expect(checked.filter((k) => own.includes(k))).toEqual(own);
        expect(checked.filter((k) => !own.includes(k)).length).toBeGreaterThan(10);
        expect(await loss(model)).toBe(before);
      } finally {
        close();
      }
    }, 120_000);

    it("at zero it changes no logit by more than rounding, and taken off no bit", async () => {
      const { model, spec, close } = await open();
      try {
        const base = await model.logits(host).readF32();
        model.train({ keys: [], attachments: make(spec, 0) });
        const zero = await model.logits(host).readF32();
        const error = Math.hypot(...zero.map((x, i) => x - base[i]!)) / Math.hypot(...base);
        expect(error).toBeLessThan(2e-6);
        model.freeze();
        expect(Buffer.compare(Buffer.from((await model.logits(host).readF32()).buffer), Buffer.from(base.buffer))).toBe(0);
      } finally {
        close();
      }
    });
  });
});

// Masks do not change between passes of one number, so that the loss of a training pass is a function of what trains.
describe.each([
  ["LoRA", (spec: ModelSpec) => new LoraAttachments(loraMatrices(spec, { rank: 3, targets: ["all-linear"] }), "kaiming", 1, 0.3)],
  ["LoRA on the head", (spec: ModelSpec) => new LoraAttachments(loraMatrices(spec, { rank: 3, targets: ["head"] }), "kaiming", 1, 0.3)],
  ["PERFT-E", (spec: ModelSpec) => new PerftAttachments(spec, { variant: "E", rank: 3, dropout: 0.3 }, 1)],
  ["PERFT-D, parallel", (spec: ModelSpec) => new PerftAttachments(spec, { variant: "D", rank: 3, form: "parallel", dropout: 0.3 }, 1)],
] as const)("dropout of %s", (_what, make) => {
  it("gradients are those of the pass; other passes drop others, evaluation nothing", async () => {
    const dir = await mkdtemp(join(tmpdir(), "esft-dropout-"));
    await writeTinyModel(dir, { ...tinyDeepseek, num_experts_per_tok: tinyDeepseek.n_routed_experts }, { tokenizer: false, dtype: "f32" });
    const device = new Device({ kind: "cpu", threads: 2 });
    const checkpoint = await openCheckpoint(dir);
    const spec = modelSpec(checkpoint.config, dir);
    const params = await Parameters.load(device, spec, checkpoint);
    const model = new Transformer(spec, device, params);
    try {
      const attachments = make(spec);
      const state = model.train({ keys: [], attachments });
      for (const [i, p] of state.parameters.entries()) {
        const normal = normals(i);
        p.master!.write(Float32Array.from({ length: p.shape[0]! * p.shape[1]! }, () => 0.1 * normal()));
      }
      const ids = Int32Array.from({ length: 24 }, (_, t) => (t * 97) % 2000);
      const host = hostBatch([{ ids, targets: Int32Array.from(ids, (_, t) => ids[t + 1] ?? -100) }]);
      const loss = async (pass: number): Promise<number> => {
        model.pass = pass;
        model.resetLoss();
        model.forwardBackward(host, 1 / host.supervised, host.ids.length, {}, false);
        return (await model.readLoss()).loss / host.supervised;
      };
      const [first, second] = [await loss(1), await loss(2)];
      expect(await loss(1)).toBe(first);
      expect(second).not.toBe(first);
      model.resetLoss();
      model.evaluate(host);
      const plain = (await model.readLoss()).loss / host.supervised;
      expect([first, second]).not.toContain(plain);
      await loss(1);
      const gradients = await Promise.all(state.parameters.map((p) => p.grad!.readF32()));
      let checked = 0;
      for (const [i, p] of state.parameters.entries()) {
        const [values, grad] = [await p.master!.readF32(), gradients[i]!];
        const norm = Math.hypot(...grad);
        if (norm < 2e-3) continue;
        const step = Math.min(4e-3 / norm, 0.05) / norm;
        const at = async (sign: number): Promise<number> => {
          p.master!.write(values.map((x, j) => x + sign * step * grad[j]!));
          return loss(1);
        };
        const slope = ((await at(1)) - (await at(-1))) / (2 * step);
        p.master!.write(values);
        expect(Math.abs(slope / norm ** 2 - 1), p.key).toBeLessThan(0.03);
        if (++checked === 40) break;
      }
      expect(checked).toBeGreaterThan(1);
    } finally {
      model.dispose();
      params.dispose();
      device.dispose();
      await rm(dir, { recursive: true, force: true });
    }
  }, 120_000);
});
