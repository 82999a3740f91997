// PERFT (arXiv 2411.08212): low-rank adapters beside whole Mixture-of-Experts blocks. Δ_j(h) = (α/r)·B_j·A_j·h, or, as parallel
// adapters, B_j·silu(A_j·h); h is the block's own input.
//
//   R  moe(h) + Σ_{j ∈ top K} g_j·Δ_j(h)   a router of its own over N adapters; g = softmax over N, then the K best, divided by their sum
//                                         where the base divides its weights
//   E  Σ_{i ∈ top k} G_i·(E_i(h) + Δ_i(h)) an adapter per routed expert, under the base's router
//   D  moe(h) + Σ_j Δ_j(h)                 N adapters that every token visits, no weights
//   S  D with one adapter
//
// compat "perft-2024": R as the released OLMoE code computes it, which multiplies the adapter in slot n by the base router's n-th
// largest weight instead of g; the added router then only chooses, and learns from its balance loss alone.
//
// Tensors: perft.layers.<l>.adapters.<j>.A [r, D] and .B [D, r], perft.layers.<l>.router [N, D]. Load-balancing losses are pooled over
// layers (model/layers/balance.ts): that of the added router as balanceLoss says, that of the frozen base routers, whose gradient
// reaches the adapters below, as baseBalanceLoss says.

import type {
  AttachmentContext,
  Attachments,
  BalanceWeights,
  ExpertsAttachment,
  ExpertsSite,
  MoeAttachment,
  MoeSite,
} from "../model/layers/attachment.ts";
import type { ModelSpec } from "../model/spec.ts";
import { moeLayers, moeOf } from "../model/spec.ts";
import type { AttachedSpec } from "../model/weights/parameter.ts";
import { dropoutOf } from "./dropout.ts";
import type { Dropout } from "./dropout.ts";
import { firstA, normal, zeros } from "./low_rank_init.ts";
import { trainable } from "./method.ts";
import type { TrainableSpec } from "./method.ts";
import { DenseAdapters, ExpertAdapters } from "./perft_adapters.ts";
import type { AdapterBank } from "./perft_adapters.ts";
import { checkPerft, perftManifest } from "./perft_options.ts";
import type { CheckedPerft, PerftOptions } from "./perft_options.ts";
import { RoutedAdapters } from "./perft_routed.ts";

/** Deviations of first values in the published code. */
const ROUTER_DEVIATION = 0.02;
const RELEASED_B_DEVIATION = 1e-6;

/**
 * PERFT on every sparse layer; the base is frozen.
 * @param seed of first values
 * @throws ConfigError options that do not fit each other or the model
 */
export function perftTrainable(spec: ModelSpec, options: PerftOptions, seed: number): TrainableSpec {
  const attachments = new PerftAttachments(spec, options, seed);
  return trainable(spec, { type: "perft", options: perftManifest(options), attachments }, () => false);
}

export class PerftAttachments implements Attachments {
  readonly parameters: readonly AttachedSpec[];
  readonly balance: BalanceWeights;
  private readonly checked: CheckedPerft;
  readonly dropsOut: boolean;
  private readonly spec: ModelSpec;
  private readonly seed: number;

  /** @param seed of first values, and of dropout */
  constructor(spec: ModelSpec, options: PerftOptions, seed: number) {
    const checked = checkPerft(spec, options);
    const { rank, init, released, routing } = checked;
    this.spec = spec;
    this.seed = seed;
    this.dropsOut = checked.dropout > 0;
    this.checked = checked;
    this.balance = checked.balance;
    const D = spec.hidden;
    this.parameters = moeLayers(spec).flatMap((layer): AttachedSpec[] => {
      const place = { role: "expert", layer } as const;
      const adapters = keysOf(layer, this.count(layer)).flatMap(({ a, b }): AttachedSpec[] => [
        { key: a, shape: [rank, D], place, initial: () => firstA(released ? "perft" : init, rank, D, seed, a) },
        { key: b, shape: [D, rank], place, initial: () => (released ? normal(D * rank, RELEASED_B_DEVIATION, seed, b) : zeros(D * rank)) },
      ]);
      if (!routing) return adapters;
      const key = routerKey(layer);
      const N = routing.adapters;
      const initial = (): Float32Array => normal(N * D, ROUTER_DEVIATION, seed, key);
      return [...adapters, { key, shape: [N, D], place: { role: "router", layer }, initial }];
    });
  }

  /** Adapters of a layer. */
  private count(layer: number): number {
    return this.checked.adapters ?? moeOf(this.spec, layer)!.experts.length;
  }

  private bank(layer: number): AdapterBank {
    const { rank, between, dropout: p } = this.checked;
    const dropout = (name: string): Dropout | null => dropoutOf(p, this.seed, name);
    return { width: this.spec.hidden, rank, between, dropout, keys: keysOf(layer, this.count(layer)) };
  }

  experts({ routed, layer, topK }: ExpertsSite, context: AttachmentContext): ExpertsAttachment | null {
    return routed && this.checked.variant === "E" ? new ExpertAdapters(this.bank(layer), topK, context.named("perft")) : null;
  }

  moe(site: MoeSite, context: AttachmentContext): MoeAttachment | null {
    const { variant, routing } = this.checked;
    if (variant === "E") return null;
    const within = context.named("perft");
    const bank = this.bank(site.layer);
    if (!routing) return new DenseAdapters(bank, within);
    const { renormalize, normEps, score } = moeOf(this.spec, site.layer)!.rule;
    const base = { renormalize: renormalize || score === "softmaxTopk", normEps };
    return new RoutedAdapters(bank, { ...routing, ...base, router: routerKey(site.layer) }, site, within);
  }
}

const routerKey = (layer: number): string => `perft.layers.${layer}.router`;
const keysOf = (layer: number, n: number): { a: string; b: string }[] =>
  Array.from({ length: n }, (_, j) => ({ a: `perft.layers.${layer}.adapters.${j}.A`, b: `perft.layers.${layer}.adapters.${j}.B` }));
