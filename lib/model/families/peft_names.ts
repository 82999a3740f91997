// What transformers 5 calls the modules of a checkpoint, as PEFT's adapter files name them. Most are called as in the checkpoint; experts
// are one module with two stacked parameters, whatever the checkpoint has. What differs stands in a family's table.

import type { TensorSlice } from "../../files/slice.ts";

/** Of one family. */
export interface PeftNaming {
  /**
   * Whose names PEFT 0.21 takes for routed experts or the router, also where they are something else: conversion_mapping.py of
   * transformers 5.17 treats the family like Qwen2-MoE or Mixtral, by PEFT's table of target modules; or like neither.
   */
  readonly rewritten: keyof typeof leaves;
  /** Modules that have another name in the checkpoint: what becomes what. */
  readonly renames?: Renames;
  /** Makes the name of the experts' module of that of a fused down, where it does not stand in it. */
  readonly experts?: readonly [RegExp, string];
  /** The router is a linear layer; else its matrix is a parameter of a module of its own kind. */
  readonly linearRouter?: boolean;
}

type Renames = readonly (readonly [RegExp, string])[];
const leaves = {
  qwen2: ["gate", "gate_proj", "up_proj", "down_proj"],
  mixtral: ["gate", "w1", "w2", "w3"],
  none: [],
} satisfies Readonly<Record<string, readonly string[]>>;

/** Mixtral's name of the sparse block. */
export const blockToMlp: Renames = [[/\.block_sparse_moe\./, ".mlp."]];

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

export function namesOf({ rewritten, renames = [], experts, linearRouter = false }: PeftNaming): PeftNames {
  const rename = (name: string): string => renames.reduce((n, [from, to]) => n.replace(from, to), name);
  const taken: readonly string[] = leaves[rewritten];
  return {
    gateUp: "gate_up_proj",
    down: "down_proj",
    module: rename,
    experts: ({ name, index }) => {
      if (experts) return rename(name.replace(experts[0], experts[1]));
      return rename(index === undefined ? name.replace(/\.\d+\.[^.]+\.weight$/, "") : name.replace(/\.[^.]+$/, ""));
    },
    routerIsParameter: !linearRouter,
    rewritten: (module) => taken.includes(module.split(".").at(-1) ?? ""),
  };
}
