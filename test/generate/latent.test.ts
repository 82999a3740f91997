// Decoding of latent attention: what is kept of a token, and that decoded logits and tokens are those of the whole forward where the
// up-projection is another value, trains, or has a low-rank term beside it. Families: families.test.ts. No GPU.
// Alone: npx vitest run test/generate/latent.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { sliceKey } from "../../lib/files/slice.ts";
import { Engine } from "../../lib/generate/engine.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import { Decoder } from "../../lib/model/decoder.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { Attachments } from "../../lib/model/layers/attachment.ts";
import type { LatentAttentionSpec } from "../../lib/model/spec.ts";
import type { StateSpec } from "../../lib/model/states.ts";
import type { Transformer } from "../../lib/model/transformer.ts";
import { PlannedParameters } from "../../lib/model/weights/planned.ts";
import { OneAtATime } from "../../lib/task.ts";
import { Device } from "../../lib/tensor.ts";
import type { Tensor } from "../../lib/tensor.ts";
import { Random } from "../ops/host.ts";
import { tinyDeepseek, writeTinyModel } from "../support/tiny_model.ts";
import { closeModel, decoded, greedy, openModel, wholeLogits } from "./support.ts";

const v2Lite = { ...tinyDeepseek, hidden_size: 2048, intermediate_size: 10944, moe_intermediate_size: 1408, num_hidden_layers: 27, num_attention_heads: 16, num_key_value_heads: 16, qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128, kv_lora_rank: 512, n_routed_experts: 64, num_experts_per_tok: 6, n_shared_experts: 2, vocab_size: 102400 }; // prettier-ignore

const device = new Device({ kind: "cpu", threads: 2 });
let root: string;
let model: Transformer;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-latent-"));
  await writeTinyModel(root, tinyDeepseek, { tokenizer: false });
  model = await openModel(device, root);
});
afterAll(async () => {
  closeModel(model);
  device.dispose();
  await rm(root, { recursive: true, force: true });
});

const random = new Random("latent");
const ids = Array.from({ length: 30 }, () => random.below(tinyDeepseek.vocab_size));
const prompts = [ids.slice(0, 9), ids.slice(9, 10), ids.slice(10, 30)];
const values = (shape: readonly number[], scale: number): Tensor => device.tensor("f32", shape, random.normal(shape, scale).values as Float32Array); // prettier-ignore
const upKeys = (): string[] => model.spec.layers.map(({ attention }) => sliceKey((attention as LatentAttentionSpec).kvB.weight));
const kept = (): Set<number> => new Set(model.states(16).map((s) => (s as Extract<StateSpec, { kind: "rows" }>).width));

const [latent, heads] = [
  [24 + 8],
  [3 * 16 + 8, 3 * 16], // keys of the heads and the rotary one, values
];

/** Logits of pieces, and greedy tokens alone, in a batch and in pieces, against whole forwards. */
async function expectWhole(): Promise<void> {
  const V = model.spec.vocab;
  const whole = await wholeLogits(model, ids);
  const size = whole.reduce((m, x) => Math.max(m, Math.abs(x)), 1);
  let end = 0;
  const pieces = [9, 1, 1, 5, 1, 1, 12];
  for (const [i, made] of (await decoded(model, ids, pieces, "f32")).entries()) {
    end += pieces[i]!;
    const error = made.reduce((m, x, c) => Math.max(m, Math.abs(x - whole[(end - 1) * V + c]!)), 0);
    expect(error / size, `after ${end} tokens`).toBeLessThan(3e-6);
  }
  const together = await greedy(model, prompts, 6, { piece: 4 });
  for (const [i, prompt] of prompts.entries()) {
    expect((await greedy(model, [prompt], 6))[0]).toEqual(together[i]);
    const all = await wholeLogits(model, [...prompt, ...together[i]!]);
    const best = together[i]!.map((_, j) => {
      const row = all.subarray((prompt.length - 1 + j) * V, (prompt.length + j) * V);
      return row.reduce((b, x, id) => (x > row[b]! ? id : b), 0);
    });
    expect(together[i]).toEqual(best);
  }
}

/** LoRA beside every up-projection, with numbers in both factors. */
function terms(): { attachments: Attachments; values: Map<string, Tensor> } {
  const { attachments } = loraTrainable(model.spec, { rank: 3, targets: ["kv_b_proj"] }, 1);
  return { attachments: attachments!, values: new Map(attachments!.parameters.map((p) => [p.key, values(p.shape, 0.3)])) };
}

it("a token of DeepSeek-V2-Lite keeps 576 numbers a layer, where keys and values of its heads are 4160", () => {
  const spec = modelSpec(v2Lite, "config.json");
  const { states } = new Decoder(spec, new PlannedParameters(spec, [], []), [], Number.POSITIVE_INFINITY, "f32");
  expect(states.specs).toEqual(Array.from({ length: 27 }, () => ({ kind: "rows", width: 512 + 64, reach: null })));
});

it("what decoding takes beside a forward is there in no other plan", () => {
  const plan = model.describePlan(false);
  expect(plan.table(64).some(({ name }) => name.includes("Latent") || name.includes("latentOut"))).toBe(false);
  expect(plan.decodes).toBe(false);
});

describe("decoded tokens are those of the whole forward", () => {
  it("of the base", async () => {
    expect(kept()).toEqual(new Set(latent));
    await expectWhole();
  });

  it("with another value of the up-projection, and of the base again", async () => {
    const before = await greedy(model, prompts, 6);
    model.override(new Map(upKeys().map((key) => [key, values([3 * 32, 24], 0.3)])));
    expect(kept()).toEqual(new Set(latent));
    await expectWhole();
    expect(await greedy(model, prompts, 6)).not.toEqual(before);
    model.restore();
    expect(await greedy(model, prompts, 6)).toEqual(before);
  });

  it("while the up-projection trains", async () => {
    const state = model.train({ keys: upKeys() });
    for (const p of state.parameters) p.value.write(Array.from(random.normal(p.shape, 0.3).values));
    await expectWhole();
    model.freeze();
    await expectWhole();
  });

  it("with a low-rank term beside it, which keeps keys and values of heads", async () => {
    const before = await greedy(model, prompts, 6);
    const { attachments, values } = terms();
    model.override(values, attachments);
    expect(kept()).toEqual(new Set(heads));
    await expectWhole();
    expect(await greedy(model, prompts, 6)).not.toEqual(before);
    model.restore();
    expect(await greedy(model, prompts, 6)).toEqual(before);
  });
});

it("sequences of the base and of an adapter with terms there run beside each other", async () => {
  const { attachments, values } = terms();
  const group = {};
  const adapters = {
    groupOf: (adapter: string | null) => (adapter === null ? null : group),
    switchTo: (to: object | null): void => (to === null ? model.restore() : model.override(values, attachments, true)),
  };
  const answers = async (names: readonly (string | null)[]): Promise<number[][]> => {
    const engine = new Engine(model, new OneAtATime("the model"), { adapters });
    const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, logprobs: 0, uniform: () => 0 };
    const one = (prompt: readonly number[], adapter: string | null): Promise<number[]> =>
      new Promise((resolve, reject) => {
        const made: number[] = [];
        const request = { prompt, maxTokens: 20, stop: new Set<number>(), sampling, adapter };
        engine.submit(request, { token: (id) => (made.push(id), false), end: () => resolve(made), fail: reject });
      });
    return Promise.all(names.flatMap((adapter) => prompts.map((prompt) => one(prompt, adapter))));
  };
  const [base, adapted] = [await answers([null]), await answers(["terms"])];
  expect(adapted).not.toEqual(base);
  expect(await answers([null, "terms"])).toEqual([...base, ...adapted]);
  expect(await answers(["terms", null])).toEqual([...adapted, ...base]);
});
