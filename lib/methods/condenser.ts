// Condenser experts (after ExpertCondenser, arXiv 2604.23036): routing is made sparser by a bias on the choice of experts, without a
// loss for it, until a few experts of each layer are chosen for every token. Their weights are the router's as ever: the bias only chooses.
//
// Of the paper the abstract is known here: sparsification driven by a bias, no auxiliary loss, always-active gated experts. The rule is ours,
// the narrowest that does that, with the sign of the bias as DeepSeek-V3 balances it the other way round. Each layer has a bias Δ [E],
// 0 at first, added to the scores (and to a selection bias that the family has) for choosing alone. After every update that was
// applied, with c the slots routed to each expert over all micro-batches of the step:
//
//   H  the n condensers: first those that are always active (Δ = limit), which stay, then the most chosen (ties: the lower id)
//   Δ  of H rises by `rate`, that of all others falls by it, both within [0, limit]
//   limit  1 + (largest − smallest selection bias of the family): scores lie in [0, 1], so that Δ = limit wins over every Δ = 0. Where a
//          group of experts is chosen by its two best, twice that
//
// Others keep their order among each other, since they end at Δ = 0. Steps of a count, not of gradients: learning rate, decay and
// clipping do not touch Δ. `rate` 0.01: with a limit of 1 a condenser is always active after 100 steps, a fifth of the 500 of the published recipe, so that
// most of the training sees the routing that it ends with. n = 1 unless said. The rule is a function of counts, which no number of
// threads changes.
//
// Needs scores in [0, 1] (softmax over all experts, sigmoid): logits and SparseMixer have no limit that always wins.

import { ConfigError } from "../errors.ts";
import type { AttachmentContext, Attachments } from "../model/layers/attachment.ts";
import type { ModelSpec, MoeSpec } from "../model/spec.ts";
import { moeLayers, moeOf } from "../model/spec.ts";
import { joined } from "./joined.ts";
import { trainable } from "./method.ts";
import type { CondenserRule, TrainableSpec } from "./method.ts";
import type { AttachedSpec, Parameter } from "../model/weights/parameter.ts";

export interface CondenserOptions {
  /** Condensers of each layer; absent: none. */
  readonly condensers?: number | undefined;
  readonly condenserRate?: number | undefined;
}

export const CONDENSER_RATE = 0.01;
export const condenserKey = (layer: number): string => `condenser.layers.${layer}.bias`;

const fail = (key: keyof CondenserOptions, message: string): never => {
  throw new ConfigError(`condensers: ${message}`, { where: { key: `method.${key}` } });
};

/** @throws ConfigError numbers or routers that the rule does not serve */
export function condenserRule(spec: ModelSpec, { condensers = 1, condenserRate: rate = CONDENSER_RATE }: CondenserOptions): CondenserRule {
  if (!(rate > 0 && rate <= 1)) fail("condenserRate", `condenserRate must be a number > 0 and <= 1, found ${rate}`);
  if (moeLayers(spec).length === 0) fail("condensers", `they are experts of sparse layers; this ${spec.modelType} model has none`);
  for (const layer of moeLayers(spec)) {
    const { topK, experts, rule } = moeOf(spec, layer)!;
    if (!Number.isSafeInteger(condensers) || condensers < 1 || condensers > topK || condensers >= experts.length)
      fail(
        "condensers",
        `layer ${layer} chooses ${topK} of ${experts.length} experts: at most ${Math.min(topK, experts.length - 1)} can be always active, found ${condensers}`,
      );
    if (rule.score !== "softmax" && rule.score !== "sigmoid")
      fail(
        "condensers",
        `experts are chosen by ${rule.score === "sparseMixer" ? "SparseMixer" : "logits"} in this model: no bias always wins over scores without a bound`,
      );
    if (rule.groups > 1 && condensers > rule.topkGroups)
      fail(
        "condensers",
        `layer ${layer} chooses within ${rule.topkGroups} groups of experts, so that at most as many can be always active, found ${condensers}`,
      );
  }
  return { condensers, rate, layers: moeLayers(spec).map((layer) => ({ layer, key: condenserKey(layer) })) };
}

/** Δ at which an expert is always active. @param base selection bias of the family, null: none */
export function condenserLimit({ rule }: Pick<MoeSpec, "rule">, base: ArrayLike<number> | null): number {
  const values = Array.from(base ?? [0]);
  const spread = Math.max(...values) - Math.min(...values);
  return (rule.groups > 1 && rule.groupScore === "top2Sum" ? 2 : 1) * (1 + spread);
}

/** Δ after an update, in place. @param counts slots routed to each expert in the step */
export function condense(delta: Float32Array, counts: ArrayLike<number>, limit: number, { condensers, rate }: CondenserRule): void {
  const most = Math.fround(limit);
  const active = (e: number): number => (delta[e]! >= most ? 1 : 0);
  const order = Array.from(delta, (_, e) => e).sort((a, b) => active(b) - active(a) || counts[b]! - counts[a]! || a - b);
  const chosen = new Set(order.slice(0, condensers));
  delta.forEach((d, e) => {
    delta[e] = Math.min(most, Math.max(0, d + (chosen.has(e) ? rate : -rate)));
  });
}

/** The biases as what a method attaches. */
export class CondenserAttachments implements Attachments {
  readonly parameters: readonly AttachedSpec[];

  constructor(spec: ModelSpec, rule: CondenserRule) {
    this.parameters = rule.layers.map(({ layer, key }): AttachedSpec => {
      const { experts, selectionBias } = moeOf(spec, layer)!;
      const E = experts.length;
      const beside = selectionBias ? { target: selectionBias } : {};
      return { key, shape: [E], place: { role: "selectionBias", layer }, ...beside, initial: () => new Float32Array(E) };
    });
  }

  selectionBias(layer: number, context: AttachmentContext): Parameter | null {
    return context.attached(condenserKey(layer));
  }
}

/**
 * A method with condensers. @param routersTrain the method's routers do
 * @throws ConfigError they do not, or numbers that do not fit
 */
export function withCondensers(spec: ModelSpec, method: TrainableSpec, options: CondenserOptions, routersTrain: boolean): TrainableSpec {
  const { condensers, condenserRate } = options;
  if (condensers === undefined) {
    if (condenserRate !== undefined) fail("condenserRate", "condenserRate belongs to condensers, found none");
    return method;
  }
  if (!routersTrain) fail("condensers", 'the bias on the choice of experts goes with routers that train: take router "train" or "ste"');
  const rule = condenserRule(spec, options);
  const keys = new Set(method.keys);
  const { type, experts, reallocation } = method;
  const attachments = joined([method.attachments, new CondenserAttachments(spec, rule)]);
  const said = { condensers, condenserRate: rule.rate };
  return trainable(
    spec,
    { type, experts, reallocation, attachments, options: { ...method.options, ...said }, condensing: rule },
    (_, key) => keys.has(key),
  );
}
