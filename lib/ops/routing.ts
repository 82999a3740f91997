// Routing: csrc/ops/topk_route.h, load_balance.h, expert_sort.h.
import type { Tensor } from "../tensor.ts";
import { bind, code, flag, handleOf, type Maybe } from "./bind.ts";

/** How a family turns logits into experts and weights. */
export interface RouteRule {
  /** "sparseMixer": of each chosen expert the softmax over those near it, in the way of evaluation. */
  readonly score: "softmax" | "sigmoid" | "softmaxTopk" | "sparseMixer";
  readonly groups: number;
  readonly topkGroups: number;
  readonly groupScore: "max" | "top2Sum";
  readonly dropped: "zero" | "minusInfinity";
  readonly renormalize: boolean;
  readonly normEps: number;
  readonly scale: number;
  /** Of "sparseMixer": logits are near within twice this share. */
  readonly jitter?: number;
}
const scores = { softmax: 0, sigmoid: 1, softmaxTopk: 2, sparseMixer: 3 };
const groupScores = { max: 0, top2Sum: 1 };
const drops = { zero: 0, minusInfinity: 1 };
type Ruled = { readonly rule: RouteRule };
/** What choosing and its backward both take. */
const weighting = {
  score: (a: Ruled) => code(scores, a.rule.score),
  renormalize: (a: Ruled) => flag(a.rule.renormalize),
  norm_eps: (a: Ruled) => a.rule.normEps,
  scale: (a: Ruled) => a.rule.scale,
  jitter: (a: Ruled) => a.rule.jitter ?? 0,
};

/**
 * The K best experts of every token, ties to the lower id, and their weights by the rule. Logits that are not finite: KernelError.
 * logits [T, E], bias [E] (for choosing only), expertScale [E] f32 or bf16 (multiplies the weights), ids [T, K] i32, weights [T, K], probs [T, E], kept for the backward.
 */
export const topkRoute = bind<{
  logits: Tensor;
  bias?: Maybe<Tensor>;
  expertScale?: Maybe<Tensor>;
  ids: Tensor;
  weights: Tensor;
  probs?: Maybe<Tensor>;
  rule: RouteRule;
}>("topk_route", {
  ...weighting,
  n_group: (a) => a.rule.groups,
  topk_group: (a) => a.rule.topkGroups,
  group_score: (a) => code(groupScores, a.rule.groupScore),
  drop: (a) => code(drops, a.rule.dropped),
});

/**
 * dlogits [T, E] from the gradient of the weights: dweights [T, K], or [N] in the order of the experts with pos [T, K] i32.
 * dexpertScale [E] f32 (+)=. `dense`: the straight-through gradient of a dense mixture, with dweights [T, E] of all experts.
 */
export const routeBackward = bind<{
  dweights: Tensor;
  pos?: Maybe<Tensor>;
  dense?: boolean;
  /** Not needed for "softmaxTopk" unless dense. */
  probs?: Maybe<Tensor>;
  ids: Tensor;
  weights: Tensor;
  expertScale?: Maybe<Tensor>;
  dlogits: Tensor;
  dexpertScale?: Maybe<Tensor>;
  /** Adds to dexpertScale. */
  accumulate?: boolean;
  rule: RouteRule;
}>("route_backward", { ...weighting, accumulate: (a) => flag(a.accumulate), dense: (a) => flag(a.dense) });

/**
 * dlogits += coefficient · T · gradient of the layer's load-balancing loss; loss [1] f64 += that loss (1 when perfectly balanced).
 * probs, dlogits [T, E], offsets [E + 1] i32. `scale` [1] f64: read on the device in place of the coefficient. Switch Transformer, arXiv 2101.03961 eq. 4–6, over all K slots.
 */
export const loadBalance = bind<{
  probs: Tensor;
  offsets: Tensor;
  dlogits: Tensor;
  loss?: Maybe<Tensor>;
  scale?: Maybe<Tensor>;
  coefficient?: number;
}>("load_balance", { scale: (a) => handleOf(a.scale), coefficient: (a) => a.coefficient ?? (a.scale ? 0 : undefined) });

/**
 * Stable counting sort of the T·K slots by expert. ids [T, K] i32 in [0, E) → offsets [E + 1] i32, tokens [N] i32 (row → token),
 * pos [T, K] i32 (slot → row); weights [T, K] → gate [N], both or neither.
 */
export const expertSort = bind<{
  ids: Tensor;
  weights?: Maybe<Tensor>;
  offsets: Tensor;
  tokens: Tensor;
  pos: Tensor;
  gate?: Maybe<Tensor>;
}>("expert_sort");

/**
 * Affinity of a profile: counts [E] i64 += slots routed to each expert, gateSums [E] f64 += their weights, over the tokens whose
 * mask [T] i32 is not 0 (absent: all). Eq. 6–7 of arXiv 2407.01906.
 */
export const countExperts = bind<{ ids: Tensor; weights: Tensor; mask?: Maybe<Tensor>; counts: Tensor; gateSums: Tensor }>("count_experts");
