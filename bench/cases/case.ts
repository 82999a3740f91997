// What a benchmark case is: one type for the CPU, the GPU and the peer. cases/index.ts holds the table, made of the performance rows
// of test/ops/cases (one op), layer.ts (an expert layer) and step.ts (a training step). cpu/run.ts and gpu/run.ts set a case up and time
// it; bench/peer_torch.py reads `describe` and runs the same sizes.

import type { Precision } from "../../lib/ops.ts";
import type { Tensor } from "../../lib/tensor.ts";
import type { Backend, Cost } from "../../test/ops/perf.ts";
import type { Buffers } from "./buffers.ts";

/** Sizes and words as JSON, the configuration of a model among them. */
export type CaseSizes = Readonly<Record<string, Json>>;
export type Json = number | string | boolean | null | readonly Json[] | { readonly [key: string]: Json };

export interface BenchCase {
  /** what/config/dtype/mode. The peer appends /variant. */
  readonly id: string;
  /** Whose case it is; "peer": a ceiling that only the peer measures. */
  readonly on: Backend | "peer";
  readonly sizes: CaseSizes;
  /** Cases with FLOPs are held against the peak of arithmetic, others with bytes against a copy. Asked for when it is needed. */
  readonly cost: () => Cost;
  /** On cuda: floors and what is compared with PyTorch; the rest is the sweep. */
  readonly headline: boolean;
  /** Too big to share the GPU with the peer: they take turns. */
  readonly alone?: boolean;
  readonly setup: (b: Buffers) => Work | Promise<Work>;
}

/** A case that is set up on a device. */
export interface Work {
  /** Submits one call; only ops, so that it can be recorded, unless it is `eagerOnly`. */
  readonly run: () => void;
  readonly eagerOnly?: boolean;
  /** What an eager call does before (uploads); not part of a graph. */
  readonly before?: () => void;
  /** Brings back what a call destroys, outside every time; each set then runs once between two of them. */
  readonly restore?: () => void;
  /** Overwritten by every call. */
  readonly outputs: readonly Tensor[];
  /** Accumulated or updated in place; `reset` brings them back. */
  readonly state?: readonly Tensor[];
  readonly reset?: () => void;
  /** What else is worth knowing about the inputs. */
  readonly facts?: Readonly<Record<string, number>>;
  readonly dispose?: () => void | Promise<void>;
}

/** Parts of an id. */
export function parts(id: string): { what: string; config: string; dtype: string; mode: string } {
  const [what, config, dtype, mode] = id.split("/") as [string, string, string, string];
  return { what, config, dtype, mode };
}
export const precisionOf = (id: string): Precision => (parts(id).dtype === "bf16" ? "bf16" : "f32");

/** A case as the peer reads it. */
export function describe(c: BenchCase): Readonly<Record<string, unknown>> {
  return { id: c.id, ...parts(c.id), sizes: c.sizes, headline: c.headline, ...c.cost() };
}

/** What sizes become with --tiny, by their letters and names: enough for every path, nothing that is worth measuring. */
const most: Readonly<Record<string, number>> = Object.fromEntries(
  (
    [
      [2, "K B heads trained batch n_shared_experts num_experts_per_tok num_attention_heads num_key_value_heads"],
      [3, "matrices num_hidden_layers"],
      [8, "E num_experts n_routed_experts"],
      [16, "rows seq"],
      [32, "T S kv_lora_rank moe_intermediate_size"],
      [40, "M"],
      [48, "cols"],
      [64, "D dim hidden_size"],
      [96, "F N intermediate_size"],
      [256, "V vocab_size"],
    ] as const
  ).flatMap(([limit, names]) => names.split(" ").map((name) => [name, limit])),
);

const isObject = (value: Json): value is CaseSizes => value !== null && typeof value === "object" && !Array.isArray(value);

export function tiny<S extends CaseSizes>(sizes: S): S {
  const shrink = ([key, value]: [string, Json]): [string, Json] => {
    // A list of layers gets as short as their number.
    if (Array.isArray(value)) return [key, value.slice(0, most["num_hidden_layers"])];
    if (isObject(value)) return [key, tiny(value)];
    return [key, typeof value === "number" ? Math.min(value, most[key] ?? value) : value];
  };
  return Object.fromEntries(Object.entries(sizes).map(shrink)) as S;
}
