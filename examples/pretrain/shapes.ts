// The tensors of the embedded model by config: names, shapes and initial spread. Hugging Face names of `deepseek_v2`.
//   npx tsx examples/pretrain/shapes.ts      prints the parameter table
// V vocabulary, D hidden, F expert hidden, H heads, R compressed key-value rank.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export interface ModelConfig {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly num_hidden_layers: number;
  readonly moe_intermediate_size: number;
  readonly n_routed_experts: number;
  readonly num_experts_per_tok: number;
  readonly n_shared_experts: number;
  readonly num_attention_heads: number;
  readonly kv_lora_rank: number;
  readonly qk_nope_head_dim: number;
  readonly qk_rope_head_dim: number;
  readonly v_head_dim: number;
  readonly initializer_range: number;
}

export type Group = "embedding" | "head" | "attention" | "norm" | "router" | "shared" | "routed";

export interface InitTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Standard deviation of the normal draw; "ones" for norms. */
  readonly std: number | "ones";
  readonly group: Group;
}

export function readConfig(): ModelConfig {
  const folder = dirname(fileURLToPath(import.meta.url));
  return JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as ModelConfig;
}

/** Every tensor of the model in checkpoint order. All layers are MoE layers (first_k_dense_replace 0). */
export function modelTensors(config: ModelConfig): InitTensor[] {
  const { vocab_size: V, hidden_size: D, num_hidden_layers: L, moe_intermediate_size: F, num_attention_heads: H, kv_lora_rank: R } = config;
  const { qk_nope_head_dim: nope, qk_rope_head_dim: rope, v_head_dim: v, initializer_range: std } = config;
  // Two branches per layer add to the residual stream; their last projections are scaled so that its variance stays put.
  const out = std / Math.sqrt(2 * L);
  const tensors: InitTensor[] = [];
  const add = (group: Group, name: string, shape: readonly number[], spread: number | "ones"): void => {
    tensors.push({ group, name, shape, std: spread });
  };
  const mlp = (group: Group, prefix: string, width: number): void => {
    add(group, `${prefix}.gate_proj.weight`, [width, D], std);
    add(group, `${prefix}.up_proj.weight`, [width, D], std);
    add(group, `${prefix}.down_proj.weight`, [D, width], out);
  };
  add("embedding", "model.embed_tokens.weight", [V, D], std);
  for (let l = 0; l < L; l++) {
    const layer = `model.layers.${l}`;
    add("norm", `${layer}.input_layernorm.weight`, [D], "ones");
    add("attention", `${layer}.self_attn.q_proj.weight`, [H * (nope + rope), D], std);
    add("attention", `${layer}.self_attn.kv_a_proj_with_mqa.weight`, [R + rope, D], std);
    add("norm", `${layer}.self_attn.kv_a_layernorm.weight`, [R], "ones");
    add("attention", `${layer}.self_attn.kv_b_proj.weight`, [H * (nope + v), R], std);
    add("attention", `${layer}.self_attn.o_proj.weight`, [D, H * v], out);
    add("norm", `${layer}.post_attention_layernorm.weight`, [D], "ones");
    add("router", `${layer}.mlp.gate.weight`, [config.n_routed_experts, D], std);
    for (let e = 0; e < config.n_routed_experts; e++) mlp("routed", `${layer}.mlp.experts.${e}`, F);
    mlp("shared", `${layer}.mlp.shared_experts`, F * config.n_shared_experts);
  }
  add("norm", "model.norm.weight", [D], "ones");
  // Small logits at the start: the first loss is ln V.
  add("head", "lm_head.weight", [V, D], 0.02);
  return tensors;
}

export const parameterCount = (tensors: readonly InitTensor[]): number =>
  tensors.reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0);

function printTable(config: ModelConfig): void {
  const tensors = modelTensors(config);
  const total = parameterCount(tensors);
  const groups = [...new Set(tensors.map((tensor) => tensor.group))];
  for (const group of groups) {
    const own = parameterCount(tensors.filter((tensor) => tensor.group === group));
    console.log(group.padEnd(12) + String(own).padStart(10) + `${((100 * own) / total).toFixed(1)} %`.padStart(9));
  }
  const expert = 3 * config.hidden_size * config.moe_intermediate_size;
  const idle = (config.n_routed_experts - config.num_experts_per_tok) * expert * config.num_hidden_layers;
  const embedding = config.vocab_size * config.hidden_size;
  console.log(`${"total".padEnd(12)}${String(total).padStart(10)}   ${((2 * total) / 1e6).toFixed(2)} MB as bf16`);
  console.log(`${"active".padEnd(12)}${String(total - idle - embedding).padStart(10)}   per token, without the embedding table`);
  const limit = Math.floor((0.15 * total) / expert);
  console.log(
    `one expert   ${expert} (${((100 * expert) / total).toFixed(2)} %): 15 % of the model is ${limit} experts, ${(limit / config.num_hidden_layers).toFixed(1)} per layer`,
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) printTable(readConfig());
