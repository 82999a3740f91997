// Routing: csrc/ops/topk_route.h, load_balance.h, expert_sort.h.
import type { Device, Tensor } from "../tensor.ts";
import { flag, index, type Maybe } from "./call.ts";

/** How a family turns logits into experts and weights. */
export interface RouteRule {
  readonly score: "softmax" | "sigmoid" | "softmaxTopk";
  readonly groups: number;
  readonly topkGroups: number;
  readonly groupScore: "max" | "top2Sum";
  readonly dropped: "zero" | "minusInfinity";
  readonly renormalize: boolean;
  readonly normEps: number;
  readonly scale: number;
}
const scoreCode = { softmax: 0, sigmoid: 1, softmaxTopk: 2 } as const;

const iTopk = index("topk_route");
/** Per token the K best experts (ids, ties to the lower id) and their weights by the rule; probs for the backward. */
export function topkRoute(
  device: Device,
  a: { logits: Tensor; bias?: Maybe<Tensor>; ids: Tensor; weights: Tensor; probs?: Maybe<Tensor>; rule: RouteRule },
): void {
  device.run(iTopk, {
    logits: a.logits,
    bias: a.bias,
    ids: a.ids,
    weights: a.weights,
    probs: a.probs,
    score: scoreCode[a.rule.score],
    n_group: a.rule.groups,
    topk_group: a.rule.topkGroups,
    group_score: a.rule.groupScore === "max" ? 0 : 1,
    drop: a.rule.dropped === "zero" ? 0 : 1,
    renormalize: flag(a.rule.renormalize),
    norm_eps: a.rule.normEps,
    scale: a.rule.scale,
  });
}

const iRouteBackward = index("route_backward");
/** dlogits from the gradient of the K weights (at `pos` when sorted by expert). */
export function routeBackward(
  device: Device,
  a: { dweights: Tensor; pos?: Maybe<Tensor>; probs?: Maybe<Tensor>; ids: Tensor; weights: Tensor; dlogits: Tensor; rule: RouteRule },
): void {
  device.run(iRouteBackward, {
    dweights: a.dweights,
    pos: a.pos,
    probs: a.probs,
    ids: a.ids,
    weights: a.weights,
    dlogits: a.dlogits,
    score: scoreCode[a.rule.score],
    renormalize: flag(a.rule.renormalize),
    norm_eps: a.rule.normEps,
    scale: a.rule.scale,
  });
}

const iBalance = index("load_balance");
/** dlogits += coefficient · T · gradient of the layer's load-balancing loss. */
export function loadBalance(
  device: Device,
  a: { probs: Tensor; offsets: Tensor; dlogits: Tensor; loss?: Maybe<Tensor>; coefficient: number },
): void {
  device.run(iBalance, { probs: a.probs, offsets: a.offsets, dlogits: a.dlogits, loss: a.loss, coefficient: a.coefficient });
}

const iSort = index("expert_sort");
/** Stable counting sort of the T·K slots by expert: offsets [E+1], token and gate of each sorted row, row of each slot. */
export function expertSort(
  device: Device,
  a: { ids: Tensor; weights?: Maybe<Tensor>; offsets: Tensor; tokens: Tensor; pos: Tensor; gate?: Maybe<Tensor> },
): void {
  device.run(iSort, { ids: a.ids, weights: a.weights, offsets: a.offsets, tokens: a.tokens, pos: a.pos, gate: a.gate });
}

const iCount = index("count_experts");
/** Affinity accumulators: counts (i64) and gateSums (f64) per expert += over the unmasked tokens. */
export function countExperts(
  device: Device,
  a: { ids: Tensor; weights: Tensor; mask?: Maybe<Tensor>; counts: Tensor; gateSums: Tensor },
): void {
  device.run(iCount, { ids: a.ids, weights: a.weights, mask: a.mask, counts: a.counts, gate_sums: a.gateSums });
}
