// What transformers 5 calls the modules of a checkpoint, as PEFT's adapter files name them. Most are called as in the checkpoint; experts
// are one module with two stacked parameters, whatever the checkpoint has.

import type { TensorSlice } from "../../files/slice.ts";

export interface PeftNames {
  /** Of the stacked parameters of the experts' module. */
  readonly gateUp: string;
  readonly down: string;
  /** The module of a checkpoint's tensor, given without ".weight". */
  module(name: string): string;
  /** The module of all experts, from the tensor of one's down. */
  experts(down: TensorSlice): string;
  /** The router's matrix is a parameter of a module of its own kind, no linear layer. */
  readonly routerIsParameter: boolean;
  /** PEFT 0.21 takes modules of this name for routed experts or the router, also where they are something else. */
  rewritten(module: string): boolean;
}

type Renames = readonly (readonly [RegExp, string])[];
const blockToMlp: Renames = [[/\.block_sparse_moe\./, ".mlp."]];
const renames: Readonly<Record<string, Renames>> = {
  mixtral: blockToMlp,
  minimax_m2: blockToMlp,
  granitemoe: [[/\.router\.layer$/, ".router"]],
  granitemoeshared: [[/\.router\.layer$/, ".router"]],
  hy_v3: [
    [/\.mlp\.router\.gate$/, ".mlp.gate"],
    [/\.mlp\.shared_mlp\./, ".mlp.shared_experts."],
  ],
};
/** Where the experts' module is not the last part but the expert's own of the names below it. */
const fusedNames: Readonly<Record<string, readonly [RegExp, string]>> = {
  granitemoe: [/\.output_linear\.weight$/, ".experts"],
  granitemoeshared: [/\.output_linear\.weight$/, ".experts"],
};
const linearRouters: ReadonlySet<string> = new Set(["afmoe", "hunyuan_v1_moe"]);
/** Those that conversion_mapping.py of transformers 5.17 treats as Qwen2-MoE or Mixtral, by PEFT's table of target modules. */
const likeMixtral: ReadonlySet<string> = new Set(["mixtral", "minimax_m2"]);
const notRewritten: ReadonlySet<string> = new Set(["qwen2_moe", "granitemoe", "granitemoeshared", "lfm2_moe", "mistral4", "qwen3_5_moe", "qwen3_5_moe_text", "hy_v3"]); // prettier-ignore
/** Names that PEFT files do not share with the checkpoint in a way that is known here. */
const unknown: ReadonlySet<string> = new Set(["mistral3", "gpt_oss", "llama4", "llama4_text", "phimoe", "gemma4", "gemma4_text"]);

/** Null: not known for this model type. */
export function peftNames(modelType: string): PeftNames | null {
  if (unknown.has(modelType)) return null;
  const rename = (name: string): string => (renames[modelType] ?? []).reduce((n, [from, to]) => n.replace(from, to), name);
  const leaves = likeMixtral.has(modelType) ? ["gate", "w1", "w2", "w3"] : ["gate", "gate_proj", "up_proj", "down_proj"];
  return {
    gateUp: "gate_up_proj",
    down: "down_proj",
    module: rename,
    experts: ({ name, index }) => {
      const fused = fusedNames[modelType];
      if (fused) return rename(name.replace(fused[0], fused[1]));
      return rename(index === undefined ? name.replace(/\.\d+\.[^.]+\.weight$/, "") : name.replace(/\.[^.]+$/, ""));
    },
    routerIsParameter: !linearRouters.has(modelType),
    rewritten: (module) => !notRewritten.has(modelType) && leaves.includes(module.split(".").at(-1) ?? ""),
  };
}
