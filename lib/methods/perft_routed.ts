// PERFT-R: adapters beside a whole block under a router of their own, K of N.
//
// Kept for backward: what was chosen, probabilities and weights; outputs are recomputed from the kept A·h. Sizes in names: T tokens, N
// adapters, K of them per token, R = T·K rows in the order of the adapters, D width.

import * as ops from "../ops.ts";
import type { RouteRule } from "../ops.ts";
import type { AttachmentContext, ExpertRows, MoeAttachment, MoeSite } from "../model/layers/attachment.ts";
import type { BalancedRouter } from "../model/layers/balance.ts";
import { exactPrecision } from "../model/layers/linear.ts";
import type { Run } from "../model/run.ts";
import { act, f32, i32 } from "../model/slots.ts";
import type { Planner, Slot } from "../model/slots.ts";
import type { Parameter } from "../model/weights/parameter.ts";
import type { Tensor } from "../tensor.ts";
import type { GroupedLowRank } from "./grouped_low_rank.ts";
import { grouped } from "./perft_adapters.ts";
import type { AdapterBank } from "./perft_adapters.ts";

export interface AddedRouter {
  /** Key of its matrix [N, D]. */
  readonly router: string;
  readonly topK: number;
  /** As the base does. */
  readonly renormalize: boolean;
  readonly normEps: number;
  /** The adapter in slot n is multiplied by the base router's n-th weight. */
  readonly released: boolean;
}

const slotsOf = (plan: Planner, N: number, K: number, D: number) => ({
  logits_TN: plan.scratch(f32(N), "logits"),
  probs_TN: plan.saved(f32(N), "probs"),
  ids_TK: plan.kept(i32(K), "ids"),
  weights_TK: plan.kept(f32(K), "weights"),
  offsets_N1: plan.kept({ dtype: "i32", fixed: [N + 1] }, "offsets"),
  tokens_R: plan.kept(i32(0, K), "tokens"),
  pos_TK: plan.kept(i32(K), "pos"),
  y_RD: plan.scratch(act(D, K), "y"),
  backwardY_RD: plan.backward(act(D, K), "y"),
  dy_RD: plan.backward(act(D, K), "dy"),
  dx_RD: plan.backward(act(D, K), "dx"),
  dweights_TK: plan.backward(f32(K), "dweights"),
  dlogits_TN: plan.backward(f32(N), "dlogits"),
});

export class RoutedAdapters implements MoeAttachment {
  readonly dweights: Slot | null;
  private readonly router: Parameter;
  private readonly adapters: GroupedLowRank;
  private readonly rule: RouteRule;
  private readonly slots: ReturnType<typeof slotsOf>;
  private readonly balanced: BalancedRouter | null;
  /** The base's weights of the first K slots, and their gradient. */
  private readonly base: { readonly weights: Slot; readonly dweights: Slot } | null;

  constructor(bank: AdapterBank, added: AddedRouter, site: MoeSite, context: AttachmentContext) {
    const { plan } = context;
    const { topK: K, released, renormalize, normEps } = added;
    const N = bank.keys.length;
    this.router = context.attached(added.router);
    this.adapters = grouped(bank, K, context);
    const plain = { score: "softmax", groups: 1, topkGroups: 1, groupScore: "max", dropped: "zero", scale: 1 } as const;
    this.rule = { ...plain, renormalize, normEps };
    this.slots = slotsOf(plan, N, K, bank.width);
    this.balanced = context.balanced({ experts: N, topK: K });
    this.dweights = released ? plan.backward(f32(site.topK), "baseDweights") : null;
    this.base = this.dweights ? { weights: plan.columns(site.weights, 0, K), dweights: plan.columns(this.dweights, 0, K) } : null;
  }

  /** What a forward chose: ids i32 [T, K] and the router's weights f32 [T, K], best first. */
  routes(run: Run): { readonly ids: Tensor; readonly weights: Tensor } {
    return { ids: run.at(this.slots.ids_TK), weights: run.at(this.slots.weights_TK) };
  }

  private rows(run: Run): ExpertRows {
    return { offsets: run.at(this.slots.offsets_N1), tokens: run.at(this.slots.tokens_R) };
  }

  /** What rows are weighted with. */
  private weights(run: Run): Tensor {
    return run.at(this.base?.weights ?? this.slots.weights_TK);
  }

  forward(run: Run, x: Tensor, y: Tensor): void {
    const { device } = run;
    const { slots, router, rule } = this;
    const [logits, ids, weights, pos] = [run.at(slots.logits_TN), run.at(slots.ids_TK), run.at(slots.weights_TK), run.at(slots.pos_TK)];
    ops.gemm(device, "nt", { a: x, b: router.value, c: logits, precision: exactPrecision(x, router.value) });
    ops.topkRoute(device, { logits, ids, weights, probs: run.saved(slots.probs_TN), rule });
    this.balanced?.record(run, ids);
    ops.expertSort(device, { ids, offsets: run.at(slots.offsets_N1), tokens: run.at(slots.tokens_R), pos });
    const y_RD = run.at(slots.y_RD);
    this.adapters.forward(run, x, this.rows(run), y_RD, true);
    ops.combine(device, { x: y_RD, pos, weights: this.weights(run), y, accumulate: true });
  }

  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null): void {
    const { device } = run;
    const { slots, adapters, base } = this;
    const rows = this.rows(run);
    const [y_RD, dy_RD, pos] = [run.at(slots.backwardY_RD), run.at(slots.dy_RD), run.at(slots.pos_TK)];
    adapters.recompute(run, rows, y_RD, true);
    if (this.dweights) ops.fill(device, { x: run.at(this.dweights), value: 0 });
    const dweights = run.at(base?.dweights ?? slots.dweights_TK);
    ops.combineBackward(device, { dy, x: y_RD, pos, weights: this.weights(run), dx: dy_RD, dweights });
    adapters.parameterGradients(run, dy_RD, x, rows);
    if (dx) {
      const dx_RD = run.at(slots.dx_RD);
      adapters.inputGradient(run, rows, dx_RD, true);
      ops.combine(device, { x: dx_RD, pos, y: dx, accumulate: true });
    }
    this.routerBackward(run, x, dx);
  }

  private routerBackward(run: Run, x: Tensor, dx: Tensor | null): void {
    const { device, accumulate } = run;
    const { slots, router, rule } = this;
    const [probs, dlogits] = [run.at(slots.probs_TN), run.at(slots.dlogits_TN)];
    if (this.base) ops.fill(device, { x: dlogits, value: 0 });
    else
      ops.routeBackward(device, {
        dweights: run.at(slots.dweights_TK),
        probs,
        ids: run.at(slots.ids_TK),
        weights: run.at(slots.weights_TK),
        dlogits,
        rule,
      });
    this.balanced?.gradient(run, probs, dlogits);
    if (router.grad) ops.gemm(device, "tn", { a: dlogits, b: x, c: router.grad, accumulate, precision: "f32" });
    if (dx) ops.gemm(device, "nn", { a: dlogits, b: router.value, c: dx, accumulate: true, precision: "f32" });
  }
}
