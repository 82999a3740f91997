// The options of PERFT, and whether they fit each other and a model.

import { ConfigError } from "../errors.ts";
import type { BalanceWeights } from "../model/layers/attachment.ts";
import type { ModelSpec, MoeSpec } from "../model/spec.ts";
import { moeLayers, moeOf } from "../model/spec.ts";
import type { Between } from "./grouped_low_rank.ts";
import type { LowRankInit } from "./low_rank_init.ts";
import type { MethodOptions } from "./method.ts";

export const PERFT_VARIANTS = ["R", "E", "D", "S"] as const;
export type PerftVariant = (typeof PERFT_VARIANTS)[number];

export interface PerftOptions {
  readonly variant: PerftVariant;
  readonly rank: number;
  /** α, of "lora" adapters; default 2·rank. */
  readonly alpha?: number | undefined;
  /** Low-rank adapters, or parallel ones with SiLU. Default "lora". */
  readonly form?: "lora" | "parallel" | undefined;
  /** N, of R (default 4) and D (default 2). */
  readonly adapters?: number | undefined;
  /** K of N, of R. Default 2. */
  readonly adaptersPerToken?: number | undefined;
  readonly compat?: "perft-2024" | undefined;
  /** Weight of the load-balancing loss of the added router: R. Default 0. */
  readonly balanceLoss?: number | undefined;
  /** Of that of the base's routers. Default 0. */
  readonly baseBalanceLoss?: number | undefined;
  readonly init?: LowRankInit | undefined;
  /** Share of an adapter's input (parallel ones: of A·h) that is dropped out. Default 0. */
  readonly dropout?: number | undefined;
}

/** What R chooses with, for every router alike; null for the others. */
export interface PerftRouting {
  readonly adapters: number;
  readonly topK: number;
  /** The weights are the base router's, slot by slot. */
  readonly released: boolean;
}

const fail = (key: string, message: string): never => {
  throw new ConfigError(`PERFT: ${message}`, { where: { key: `method.${key}` } });
};
const whole = (value: number, key: string): number =>
  Number.isSafeInteger(value) && value >= 1 ? value : fail(key, `${key} must be an integer >= 1, found ${value}`);
const weight = (value: number, key: string): number =>
  Number.isFinite(value) && value >= 0 ? value : fail(key, `${key} must be a number >= 0, found ${value}`);

/** Options with their defaults, as they were found to fit. */
export interface CheckedPerft {
  readonly variant: PerftVariant;
  readonly rank: number;
  readonly between: Between;
  /** N; null: as many as the layer has experts. */
  readonly adapters: number | null;
  readonly routing: PerftRouting | null;
  readonly balance: BalanceWeights;
  readonly init: LowRankInit;
  readonly released: boolean;
  readonly dropout: number;
}

/** @throws ConfigError */
export function checkPerft(spec: ModelSpec, options: PerftOptions): CheckedPerft {
  const { variant, rank, form = "lora", compat, init = "kaiming" } = options;
  const layers = moeLayers(spec);
  if (layers.length === 0)
    throw new ConfigError(`PERFT needs a Mixture-of-Experts model; this ${spec.modelType} model has no sparse layer`);
  whole(rank, "rank");
  if (rank > spec.hidden) fail("rank", `rank must be at most the model's width ${spec.hidden}, found ${rank}`);
  const { alpha = 2 * rank } = options;
  if (!Number.isFinite(alpha) || alpha <= 0) fail("alpha", `alpha must be a number > 0, found ${alpha}`);
  if (form === "parallel" && options.alpha !== undefined)
    fail("alpha", 'parallel adapters have no factor: leave alpha out, or take form "lora"');
  const only = (key: "adapters" | "adaptersPerToken" | "compat" | "balanceLoss", variants: string): void => {
    if (options[key] !== undefined && !variants.includes(variant))
      fail(key, `${key} belongs to variant ${[...variants].join(" and ")}, found it with ${variant}`);
  };
  only("adapters", "RD");
  only("adaptersPerToken", "R");
  only("compat", "R");
  only("balanceLoss", "R");
  const adapters = variant === "S" ? 1 : variant === "E" ? null : whole(options.adapters ?? (variant === "R" ? 4 : 2), "adapters");
  const released = compat === "perft-2024";
  const { dropout = 0 } = options;
  if (!(dropout >= 0 && dropout < 1)) fail("dropout", `dropout must be a number >= 0 and < 1, found ${dropout}`);
  const base = weight(options.baseBalanceLoss ?? 0, "baseBalanceLoss");
  const blocks = layers.map((l) => moeOf(spec, l)!);
  const routing = variant === "R" ? routingOf(options, adapters!, blocks) : null;
  if (base > 0) requireSoftmax(blocks);
  return {
    variant,
    rank,
    between: form === "parallel" ? "silu" : { scaling: alpha / rank },
    adapters,
    routing,
    balance: { base, added: weight(options.balanceLoss ?? 0, "balanceLoss") },
    init,
    released,
    dropout,
  };
}

function routingOf({ adaptersPerToken = 2, compat }: PerftOptions, adapters: number, blocks: readonly MoeSpec[]): PerftRouting {
  const topK = whole(adaptersPerToken, "adaptersPerToken");
  if (topK > adapters)
    fail("adaptersPerToken", `a token cannot visit ${topK} of ${adapters} adapters: adaptersPerToken must be at most adapters`);
  const released = compat === "perft-2024";
  const least = Math.min(...blocks.map((b) => b.topK));
  if (released && topK > least)
    fail(
      "adaptersPerToken",
      `with compat "perft-2024" the weights are the base router's ${least}: adaptersPerToken must be at most that, found ${topK}`,
    );
  return { adapters, topK, released };
}

/** @throws ConfigError the pooled loss of routers that are not alike, or of another score than softmax, is not defined */
function requireSoftmax(blocks: readonly MoeSpec[]): void {
  const score = blocks.find((b) => b.rule.score !== "softmax")?.rule.score;
  if (score !== undefined)
    fail("baseBalanceLoss", `the load-balancing loss is that of softmax routers, this model's score is ${score}; set it to 0`);
  const [first] = blocks;
  if (blocks.some((b) => b.topK !== first?.topK || b.experts.length !== first.experts.length))
    fail("baseBalanceLoss", "the load-balancing loss is pooled over routers that are alike, this model's are not; set it to 0");
}

/** As an adapter's manifest keeps them, defaults filled in. */
export function perftManifest(options: PerftOptions): MethodOptions {
  const {
    variant,
    rank,
    form = "lora",
    alpha = 2 * rank,
    compat,
    balanceLoss = 0,
    baseBalanceLoss = 0,
    init = "kaiming",
    dropout = 0,
  } = options;
  const { adapters = variant === "R" ? 4 : 2, adaptersPerToken = 2 } = options;
  return {
    variant,
    rank,
    ...(form === "parallel" ? { form } : { alpha }),
    ...(variant === "R" || variant === "D" ? { adapters } : {}),
    ...(variant === "R" ? { adaptersPerToken } : {}),
    ...(compat === undefined ? {} : { compat }),
    ...(balanceLoss > 0 ? { balanceLoss } : {}),
    ...(baseBalanceLoss > 0 ? { baseBalanceLoss } : {}),
    ...(init === "kaiming" ? {} : { init }),
    ...(dropout > 0 ? { dropout } : {}),
  };
}
