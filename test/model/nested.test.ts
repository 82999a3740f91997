// Text models inside of larger ones: where their fields and tensors are looked for. Headers alone, no GPU.
// Alone: npx vitest run test/model/nested.test.ts

import { describe, expect, it } from "vitest";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { inspectCheckpoint } from "../../lib/inspect.ts";
import { checkpointSpec, modelSpec } from "../../lib/model/families/index.ts";
import { ConfigReader } from "../../lib/model/families/config.ts";
import { Headers } from "../../lib/model/families/headers.ts";
import { textModel, textNames } from "../../lib/model/families/nested.ts";

const outer = (config: object): ConfigReader => new ConfigReader({ model_type: "whole", ...config }, "c.json");
const headers = (...names: string[]): Headers => new Headers(new Map(names.map((name) => [name, { shape: [1] }])));

describe("fields of the text model", () => {
  it("lie at the top level where nothing is nested", () => {
    const { reader, type } = textModel(outer({ hidden_size: 8 }), null);
    expect([reader.int("hidden_size"), type]).toEqual([8, "whole"]);
  });

  it("are those of text_config; tying and quantisation those of the top level alone", () => {
    const text = { model_type: "part", hidden_size: 8, tie_word_embeddings: true, eos_token_id: 3 };
    const { reader, type } = textModel(outer({ text_config: text, bos_token_id: 1, eos_token_id: 2, quantization_config: {} }), ["part"]);
    expect(type).toBe("part");
    expect(reader.int("hidden_size")).toBe(8);
    expect(reader.bool("tie_word_embeddings", false)).toBe(false);
    expect([reader.ids("bos_token_id", [0, 9]), reader.ids("eos_token_id", [0, 9])]).toEqual([[1], [3]]);
    expect(reader.config["quantization_config"]).toEqual({});
  });

  it("are named with their place where they are wrong", () => {
    const { reader } = textModel(outer({ text_config: { hidden_size: 0 }, tie_word_embeddings: 1 }), ["part"]);
    expect(() => reader.int("hidden_size")).toThrow(/^c\.json text_config: "hidden_size"/);
    expect(() => reader.bool("tie_word_embeddings", false)).toThrow(/^c\.json: "tie_word_embeddings"/);
  });

  it("are missed where there is no text_config, or that of another model", () => {
    expect(() => textModel(outer({}), ["part"])).toThrow(/c\.json: "text_config" must be an object/);
    expect(() => textModel(outer({ text_config: { model_type: "other" } }), ["part"])).toThrow(
      /"part" in a model of type "whole", found "other"/,
    );
    expect(() => modelSpec({ model_type: "qwen3_5_moe" }, "c.json")).toThrow(/"text_config"/);
  });
});

describe("names of the text model's tensors", () => {
  it("are below the prefix that the headers show", () => {
    expect(textNames(headers("model.embed_tokens.weight"), false)).toEqual({ root: "model", head: "lm_head" });
    expect(textNames(headers("model.embed_tokens.weight", "lm_head.weight"), true)).toEqual({ root: "model", head: "lm_head" });
    expect(textNames(headers("model.language_model.embed_tokens.weight"), true)).toEqual({ root: "model.language_model", head: "lm_head" });
    expect(textNames(headers("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"), true)).toEqual({
      root: "language_model.model",
      head: "language_model.lm_head",
    });
  });
  it("are those of today's checkpoints where there are no weights yet", () => {
    expect(textNames(new Headers(null), true)).toEqual({ root: "model.language_model", head: "lm_head" });
  });
});

describe("Llama 4 as it is published", async () => {
  const alone = await openCheckpoint("test/fixtures/families/llama4");
  const [some] = alone.weights.values();
  const within = {
    dir: alone.dir,
    config: { model_type: "llama4", text_config: alone.config, vision_config: {} },
    weights: new Map([
      ...[...alone.weights].map(([name, w]) => [`language_model.${name}`, w] as const),
      ["vision_model.class_embedding", some!] as const,
      ["multi_modal_projector.linear_1.weight", some!] as const,
    ]),
  };
  const changed = (change: object) => ({ ...alone, config: { ...alone.config, ...change } });

  it("is its text model below another prefix, beside a vision tower", () => {
    const spec = checkpointSpec(within);
    expect(spec.head.name).toBe("language_model.lm_head.weight");
    const text = JSON.stringify({ ...spec, modelType: "llama4_text" }).replaceAll("language_model.", "");
    expect(text).toBe(JSON.stringify(checkpointSpec(alone)));
  });

  it("is told of in words", () => {
    const heads = "4 heads of 8, 2 for keys and values";
    expect(inspectCheckpoint(alone)).toMatchObject({
      attention: `3 layers: ${heads}, q and k normalised, chunks of 8; 1 layer: ${heads}, no positions, queries that grow with their position`,
      routerText: "sigmoid, top-1, weights not renormalised, multiply the experts' inputs",
    });
  });

  it("says what it does layer by layer by either list, or by an interval", () => {
    const { layer_types: _types, no_rope_layers: _layers, moe_layers: _moe, ...rest } = alone.config;
    expect(checkpointSpec({ ...alone, config: rest })).toEqual(checkpointSpec(alone));
    expect(checkpointSpec(changed({ no_rope_layers: [] }))).toEqual(checkpointSpec(alone));
    const tuned = checkpointSpec(changed({ attn_temperature_tuning: 4 }));
    expect(tuned).toEqual(checkpointSpec(alone));
  });

  it.each([
    [{ attention_chunk_size: null }, /"attention_chunk_size" must be a number of tokens/],
    [{ no_rope_layers: [1, 0] }, /"no_rope_layers" must be a list of 4/],
    [{ layer_types: ["chunked_attention", "sliding_attention"] }, /"layer_types"/],
    [{ moe_layers: [0, 4] }, /"moe_layers" must be a list of integers from 0 to 3/],
    [{ moe_layers: [0, 1, 2] }, /layers\.3\.feed_forward.*"moe_layers"/],
    [{ hidden_act: "gelu" }, /"hidden_act"/],
    [{ floor_scale: 0 }, /"floor_scale"/],
  ])("is refused with %j", (change, message) => {
    expect(() => checkpointSpec(changed(change))).toThrow(message);
  });
});
