// One model in several forms of config.json: as transformers saves it, as it was published, inside of a larger model. And flags that are
// not served are refused. No GPU. Run alone: npx vitest run test/model/config_forms.test.ts

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";

type Config = Readonly<Record<string, unknown>>;
const saved = JSON.parse(readFileSync("test/fixtures/families/gemma4-moe/config.json", "utf8")) as Config;
const specOf = (config: Config): ModelSpec => modelSpec(config as never, "config.json");

describe("layers of two sizes", () => {
  const { per_layer_config: _, ...rest } = saved;
  const published = { ...rest, global_head_dim: 16, num_global_key_value_heads: 1 };

  it("are said for each layer, or by keys of those that see everything", () => {
    expect(specOf(published)).toEqual(specOf(saved));
    const dims = specOf(saved).layers.map(({ attention: a }) => (a.kind === "heads" ? [a.headDim, a.kvHeads] : []));
    expect(dims).toEqual([[8, 2], [8, 2], [16, 1]]); // prettier-ignore
    // Without keys as values the number of heads is that of all layers.
    const apart = specOf({ ...published, attention_k_eq_v: false }).layers.at(-1)!.attention;
    expect(apart).toMatchObject({ headDim: 16, kvHeads: 2, v: { out: 32 } });
  });

  it("lie below a prefix in a larger model", () => {
    const outer = { model_type: "gemma4", text_config: published, vision_config: {}, tie_word_embeddings: true };
    const text = JSON.stringify(specOf(outer)).replaceAll("model.language_model.", "model.");
    expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify({ ...specOf(saved), modelType: "gemma4" })));
  });
});

describe("what is not served is refused", () => {
  it.each<[Config, RegExp]>([
    [{ hidden_size_per_layer_input: 8 }, /"hidden_size_per_layer_input" must be 0 .* found 8/],
    [{ hidden_size_per_layer_input: undefined }, /"hidden_size_per_layer_input" must be 0 .* found nothing/],
    [{ num_kv_shared_layers: 2 }, /"num_kv_shared_layers" must be 0 or null .* found 2/],
    [{ use_double_wide_mlp: true }, /"use_double_wide_mlp" must be false .* found true/],
    [{ use_bidirectional_attention: "all" }, /"use_bidirectional_attention"/],
    [{ enable_moe_block: false }, /"enable_moe_block" must be true/],
    [{ enable_moe_block: undefined }, /"enable_moe_block" must be true .* found nothing/],
    [{ hidden_activation: "silu" }, /"hidden_activation"/],
    [{ layer_types: ["full_attention", "sliding_attention", "sliding_attention"] }, /"layer_types" must be a list whose last entry/],
    [{ final_logit_softcapping: -1 }, /"final_logit_softcapping"/],
    [{ per_layer_config: { 2: { head_dim: 16, num_attention_heads: 2 } } }, /per_layer_config 2: "num_attention_heads" must be absent/],
    [
      { rope_parameters: { sliding_attention: { rope_type: "default" } } },
      /"rope_parameters" must be an object with one for "full_attention"/,
    ],
    [{ rope_parameters: { sliding_attention: {}, full_attention: { rope_type: "yarn" } } }, /"rope_type" must be .* found "yarn"/],
    [{ rope_parameters: { sliding_attention: { partial_rotary_factor: 0.5 }, full_attention: {} } }, /"partial_rotary_factor" must be 1/],
  ])("%j", (change, message) => {
    expect(() => specOf({ ...saved, ...change })).toThrow(message);
  });
});
