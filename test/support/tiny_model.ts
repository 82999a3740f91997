// Tiny random checkpoints in Hugging Face layout for tests, with the embedded model's tokenizer.

import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { f32ToBf16, f32ToF16 } from "../../lib/floats.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { fileShape, parameterShapes } from "../../lib/model/spec.ts";
import type { ExpertWeights, ModelSpec, ParameterRole, RoutedExpertWeights } from "../../lib/model/spec.ts";

export const tinyDeepseek = {
  model_type: "deepseek_v2",
  architectures: ["DeepseekV2ForCausalLM"],
  hidden_size: 48,
  intermediate_size: 64,
  moe_intermediate_size: 24,
  num_hidden_layers: 3,
  num_attention_heads: 3,
  num_key_value_heads: 3,
  qk_nope_head_dim: 16,
  qk_rope_head_dim: 8,
  v_head_dim: 16,
  kv_lora_rank: 24,
  q_lora_rank: null,
  n_routed_experts: 8,
  num_experts_per_tok: 3,
  n_shared_experts: 1,
  first_k_dense_replace: 1,
  norm_topk_prob: false,
  routed_scaling_factor: 1,
  topk_method: "greedy",
  n_group: 1,
  topk_group: 1,
  hidden_act: "silu",
  max_position_embeddings: 256,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  tie_word_embeddings: false,
  attention_bias: false,
  vocab_size: 2048,
  bos_token_id: 1,
  eos_token_id: 2,
} as const;

export const tinyOlmoe = {
  model_type: "olmoe",
  architectures: ["OlmoeForCausalLM"],
  hidden_size: 40,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_experts: 6,
  num_experts_per_tok: 2,
  norm_topk_prob: false,
  clip_qkv: null,
  hidden_act: "silu",
  attention_bias: false,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
  vocab_size: 2048,
  bos_token_id: 1,
  eos_token_id: 2,
} as const;

/** Experts with biases and a clamped activation, gate and up in one. */
export const tinyGptOss = {
  model_type: "gpt_oss",
  architectures: ["GptOssForCausalLM"],
  hidden_size: 40,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  num_local_experts: 6,
  num_experts_per_tok: 2,
  sliding_window: 8,
  hidden_act: "silu",
  attention_bias: true,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  rope_theta: 150000,
  rope_scaling: { rope_type: "yarn", factor: 8, beta_fast: 32, beta_slow: 1, truncate: false, original_max_position_embeddings: 32 },
  tie_word_embeddings: false,
  vocab_size: 2048,
  bos_token_id: 1,
  eos_token_id: 2,
} as const;

/** Small deterministic generator (mulberry32) with a normal transform. */
export function normals(seed: number): () => number {
  let a = seed >>> 0;
  const uniform = (): number => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

const STORED = { bf16: "BF16", f32: "F32", f16: "F16" } as const;

export interface TinyOptions {
  readonly seed?: number;
  readonly dtype?: "bf16" | "f32" | "f16";
  readonly tokenizer?: boolean;
}

/** The tensors that a checkpoint of this spec holds: parameters, and those that parameters are slices of. */
export function tensorsOf(spec: ModelSpec): { name: string; shape: number[]; role: ParameterRole }[] {
  const found = new Map<string, { name: string; shape: number[]; role: ParameterRole }>();
  for (const { ref, role, ...p } of parameterShapes(spec)) {
    const { name, index, rows } = ref;
    const [first = 0, ...inner] = fileShape(p);
    const whole = [...(index === undefined ? [] : [index + 1]), rows ? rows[1] : first, ...inner];
    const before = found.get(name)?.shape;
    found.set(name, { name, shape: whole.map((n, i) => Math.max(n, before?.[i] ?? 0)), role });
  }
  return [...found.values()];
}

/** Writes config, random weights (norms 1, the rest N(0, 0.05²)) and the tokenizer into `dir`. */
export async function writeTinyModel(dir: string, config: Readonly<Record<string, unknown>>, options: TinyOptions = {}): Promise<void> {
  await mkdir(dir, { recursive: true });
  await writeFile(join(dir, "config.json"), JSON.stringify(config, null, 2));
  const normal = normals(options.seed ?? 1);
  const entries = tensorsOf(modelSpec(config, "config.json")).map(({ name, shape, role }) => {
    const n = shape.reduce((a, b) => a * b, 1);
    const values = Float32Array.from({ length: n }, () => (role === "norm" ? 1 + 0.1 * normal() : 0.05 * normal()));
    const typed = options.dtype === "f32" ? values : options.dtype === "f16" ? f32ToF16(values) : f32ToBf16(values);
    return {
      name,
      dtype: STORED[options.dtype ?? "bf16"],
      shape,
      data: new Uint8Array(typed.buffer, typed.byteOffset, typed.byteLength),
    };
  });
  await writeSafetensors(join(dir, "model.safetensors"), entries, { metadata: { format: "pt" } });
  if (options.tokenizer ?? true)
    for (const f of ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
      await copyFile(join("examples/embedded", f), join(dir, f));
}

/** Chat rows of a learnable toy task. */
export function toyRows(count: number, seed = 1): { messages: { role: string; content: string }[] }[] {
  const normal = normals(seed);
  return Array.from({ length: count }, () => {
    const a = Math.floor(Math.abs(normal()) * 20);
    const b = Math.floor(Math.abs(normal()) * 20);
    return {
      messages: [
        { role: "user", content: `add ${a} and ${b}` },
        { role: "assistant", content: `the sum is ${a + b}.` },
      ],
    };
  });
}

/** The weights of an expert whose file holds gate and up apart. */
export function apart(e: RoutedExpertWeights): ExpertWeights {
  if ("gateUp" in e) throw new Error("gate and up of this expert are one parameter");
  return e;
}
