// A checkpoint with random weights in the shape of OLMoE-1B-7B with 4 layers (3.4 GB bf16), for benchmarks of whole models.

import { existsSync, mkdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writeSafetensors } from "../lib/files/safetensors_writer.ts";
import { modelSpec } from "../lib/model/families/index.ts";
import { parameterShapes } from "../lib/model/spec.ts";

export const OLMOE_4 = {
  model_type: "olmoe",
  architectures: ["OlmoeForCausalLM"],
  hidden_size: 2048,
  intermediate_size: 1024,
  num_hidden_layers: 4,
  num_attention_heads: 16,
  num_key_value_heads: 16,
  num_experts: 64,
  num_experts_per_tok: 8,
  norm_topk_prob: false,
  clip_qkv: null,
  hidden_act: "silu",
  attention_bias: false,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
  vocab_size: 8192,
  bos_token_id: 1,
  eos_token_id: 2,
};

/** Writes it where it is not there yet, other sizes where they are given. Numbers like those of weights; the same ones again and again, which no kernel notices. */
export async function writeOlmoe(dir: string, sizes: Partial<typeof OLMOE_4> = {}): Promise<void> {
  const config = { ...OLMOE_4, ...sizes };
  if (existsSync(join(dir, "config.json"))) return;
  mkdirSync(dir, { recursive: true });
  const block = new Uint16Array(1 << 20);
  let state = 1;
  for (let i = 0; i < block.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    block[i] = 0x3c00 | ((state >>> 16) & 0x80ff) | ((state >>> 8) & 0x7f); // ±0.008 … 0.03
  }
  const bytes = new Uint8Array(block.buffer);
  const spec = modelSpec(config, "config.json");
  const entries = [...parameterShapes(spec)].map(({ ref, shape }) => {
    const size = 2 * shape.reduce((a, b) => a * b, 1);
    return {
      name: ref.name,
      dtype: "BF16" as const,
      shape,
      data: async function* () {
        for (let at = 0; at < size; at += bytes.length) yield bytes.subarray(0, Math.min(bytes.length, size - at));
      },
    };
  });
  await writeSafetensors(join(dir, "model.safetensors"), entries, { hash: false });
  await writeFile(join(dir, "config.json"), JSON.stringify(config));
}
