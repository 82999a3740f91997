// Every family at one common shape: 4 layers of width 256, 4 heads, 32 experts of 128, 4 of them per token (of Phi-3.5-MoE two).

import type { CaseSizes } from "./case.ts";

export type Config = CaseSizes;

const common = {
  hidden_size: 256,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 4,
  head_dim: 64,
  num_experts_per_tok: 4,
  max_position_embeddings: 2048,
  vocab_size: 8192,
  hidden_act: "silu",
  rope_theta: 10000,
  tie_word_embeddings: false,
  attention_bias: false,
  norm_topk_prob: false,
} as const;
/** Width of experts and their number, by the names of config.json. */
const plain = { intermediate_size: 128, num_experts: 32, rms_norm_eps: 1e-5 } as const;
const mixtral = { intermediate_size: 128, num_local_experts: 32 } as const;
const qwen = { intermediate_size: 512, moe_intermediate_size: 128, num_experts: 32 } as const;
const deepseek = {
  intermediate_size: 512,
  moe_intermediate_size: 128,
  n_routed_experts: 32,
  n_shared_experts: 1,
  first_k_dense_replace: 0,
} as const;
const latent = { q_lora_rank: null, kv_lora_rank: 128, qk_nope_head_dim: 64, qk_rope_head_dim: 32, v_head_dim: 64 } as const;
const numbered = { intermediate_size: 512, moe_intermediate_size: 128, num_experts: 32, num_shared_experts: 1 } as const;
const sparse = ["sparse", "sparse", "sparse", "sparse"] as const;
const delta = {
  shared_expert_intermediate_size: 128,
  linear_num_key_heads: 2,
  linear_num_value_heads: 4,
  linear_key_head_dim: 64,
  linear_value_head_dim: 64,
  linear_conv_kernel_dim: 4,
} as const;

export const olmoe = { ...common, model_type: "olmoe", ...plain, clip_qkv: null } as const;
export const deepseekV2 = {
  ...common,
  model_type: "deepseek_v2",
  ...deepseek,
  ...latent,
  topk_method: "greedy",
  rms_norm_eps: 1e-6,
} as const;

/** The others, by the name of their case. */
export const families: readonly (readonly [name: string, config: Config])[] = [
  ["afmoe", { ...common, model_type: "afmoe", ...numbered, num_dense_layers: 0, sliding_window: 128 }],
  ["deepseek-v3", { ...common, model_type: "deepseek_v3", ...deepseek, ...latent }],
  ["dots1", { ...common, model_type: "dots1", ...deepseek }],
  [
    "ernie4_5-moe",
    {
      ...common,
      model_type: "ernie4_5_moe",
      num_experts_per_tok: null,
      intermediate_size: 512,
      moe_intermediate_size: 128,
      moe_num_experts: 32,
      moe_k: 4,
      moe_num_shared_experts: 1,
      moe_layer_start_index: 0,
    },
  ],
  ["exaone-moe", { ...common, model_type: "exaone_moe", ...numbered, first_k_dense_replace: 0, sliding_window: 128 }],
  ["flex-olmo", { ...common, model_type: "flex_olmo", ...plain }],
  [
    "gemma4-moe",
    {
      ...common,
      model_type: "gemma4_text",
      ...qwen,
      hidden_act: null,
      hidden_activation: "gelu_pytorch_tanh",
      enable_moe_block: true,
      hidden_size_per_layer_input: 0,
      top_k_experts: 4,
      attention_k_eq_v: true,
      num_global_key_value_heads: 2,
      global_head_dim: 128,
      sliding_window: 128,
      final_logit_softcapping: 30,
      tie_word_embeddings: true,
    },
  ],
  ["glm4-moe", { ...common, model_type: "glm4_moe", ...deepseek, use_qk_norm: true }],
  ["glm4-moe-lite", { ...common, model_type: "glm4_moe_lite", ...deepseek, ...latent, mlp_layer_types: sparse }],
  [
    "gpt-oss",
    {
      ...common,
      model_type: "gpt_oss",
      ...mixtral,
      sliding_window: 128,
      swiglu_limit: 7,
      rope_parameters: { rope_type: "default", rope_theta: 150000 },
    },
  ],
  ["granite-moe", { ...common, model_type: "granitemoe", ...mixtral, attention_multiplier: 0.125 }],
  ["hunyuan-v1-moe", { ...common, model_type: "hunyuan_v1_moe", num_experts_per_tok: null, ...plain, moe_topk: 4 }],
  ["hy-v3", { ...common, model_type: "hy_v3", ...numbered, mlp_layer_types: sparse }],
  [
    "lfm2-moe",
    {
      ...common,
      model_type: "lfm2_moe",
      ...qwen,
      num_dense_layers: 0,
      conv_L_cache: 3,
      layer_types: ["conv", "full_attention", "conv", "conv"],
    },
  ],
  ["llama4", { ...common, model_type: "llama4_text", ...mixtral, intermediate_size_mlp: 512, attention_chunk_size: 128 }],
  ["minimax-m2", { ...common, model_type: "minimax_m2", ...mixtral, rotary_dim: 32 }],
  ["mistral4", { ...common, model_type: "mistral4", ...deepseek, ...latent, rope_parameters: { rope_type: "default", rope_theta: 10000 } }],
  ["mixtral", { ...common, model_type: "mixtral", ...mixtral }],
  ["phimoe", { ...common, model_type: "phimoe", ...mixtral, num_experts_per_tok: 2, attention_bias: true, lm_head_bias: true }],
  ["qwen2-moe", { ...common, model_type: "qwen2_moe", ...qwen, shared_expert_intermediate_size: 128 }],
  ["qwen3-moe", { ...common, model_type: "qwen3_moe", ...qwen }],
  ["qwen3-next", { ...common, model_type: "qwen3_next", ...qwen, ...delta }],
  ["qwen3_5-moe", { ...common, model_type: "qwen3_5_moe_text", ...qwen, ...delta }],
  ["solar-open", { ...common, model_type: "solar_open", ...deepseek }],
];
