// What Qwen3-Next and Qwen3.5 have in common: layers of Gated DeltaNet, some of gated full attention among them, norms of the form
// x ⊙ (1 + weight), a partial rotation, and a shared expert with a gate of its own.

import type { DeltaAttentionSpec, LayerSpec, MoeSpec } from "../spec.ts";
import type { Builder } from "./build.ts";
import { softmaxRule } from "./build.ts";
import { ranges } from "./config.ts";
import { ropeFromConfig } from "./rope.ts";

/** Sizes of linear attention. */
export interface DeltaSizes {
  readonly keyHeads: number;
  readonly heads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  /** Columns of all keys, of all values. */
  readonly keys: number;
  readonly values: number;
}

export interface HybridOptions {
  readonly projections: (at: string, sizes: DeltaSizes) => DeltaAttentionSpec["projections"];
  readonly mlp: (at: string, l: number) => LayerSpec["mlp"];
}

export function hybridLayers(b: Builder, o: HybridOptions): LayerSpec[] {
  const { c } = b;
  const sizes = deltaSizes(b);
  const taps = c.int("linear_conv_kernel_dim", 4, [1, 8]);
  const heads = {
    rope: ropeFromConfig(c, b.headDim(256), { partial: 0.25 }).spec,
    norms: { over: "head" },
    bias: c.bool("attention_bias", false) ? "all" : "none",
    kvHeads: 2,
    headDim: 256,
    gated: true,
  } as const;
  const every = c.int("full_attention_interval", 4);
  const kind = c.perLayer("layer_types", b.depth, ["linear_attention", "full_attention"], (l) =>
    (l + 1) % every === 0 ? "full_attention" : "linear_attention",
  );
  const delta = (at: string): DeltaAttentionSpec => ({
    kind: "delta",
    keyHeads: sizes.keyHeads,
    heads: sizes.heads,
    keyDim: sizes.keyDim,
    valueDim: sizes.valueDim,
    projections: o.projections(at, sizes),
    conv: b.conv(`${at}.conv1d`, 2 * sizes.keys + sizes.values, taps),
    aLog: { name: `${at}.A_log` },
    dtBias: { name: `${at}.dt_bias` },
    norm: b.norm(`${at}.norm`, sizes.valueDim, b.eps, "rms"),
    o: b.linear(`${at}.out_proj`, sizes.values, b.D),
    unitEps: 1e-6,
  });
  return b.layers((at, l) =>
    b.preNorm(at, kind(l) === "linear_attention" ? delta(`${at}.linear_attn`) : b.heads(`${at}.self_attn`, heads), o.mlp(`${at}.mlp`, l)),
  );
}

function deltaSizes({ c }: Builder): DeltaSizes {
  const keyHeads = c.int("linear_num_key_heads", 16);
  const heads = c.int("linear_num_value_heads", 32);
  if (heads % keyHeads !== 0) c.fail("linear_num_value_heads", `a multiple of linear_num_key_heads ${keyHeads}`);
  const [keyDim, valueDim] = [c.int("linear_key_head_dim", 128, ranges.headDim), c.int("linear_value_head_dim", 128, ranges.headDim)];
  return { keyHeads, heads, keyDim, valueDim, keys: keyHeads * keyDim, values: heads * valueDim };
}

/** The experts of such a layer. */
export function hybridMoe(b: Builder, at: string, o: { readonly topK: number; readonly renormalize: boolean }): MoeSpec {
  const { c } = b;
  return b.moe(at, {
    count: ["num_experts", "num_local_experts"],
    topK: c.int("num_experts_per_tok", o.topK),
    expertHidden: c.int("moe_intermediate_size", 512),
    rule: { ...softmaxRule, renormalize: o.renormalize },
    shared: b.gatedShared(at),
  });
}
