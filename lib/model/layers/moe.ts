// The Mixture-of-Experts block: router → sort by expert → experts → weighted combine, plus the shared expert, plus what a method
// attached to the whole block.
//
// dW exists for trained experts only; a frozen router still passes gradient to its input through the gate weights. Routing is
// kept and never repeated. Sizes in names: T tokens, D model width, E experts, K experts per token, N = T·K routed rows.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act, f32, i32 } from "../slots.ts";
import type { Planner, Slot } from "../slots.ts";
import type { MoeSpec } from "../spec.ts";
import type { Parameter } from "../weights/parameter.ts";
import type { ExpertRows, MoeAttachment } from "./attachment.ts";
import type { BalancedRouter } from "./balance.ts";
import type { Composer } from "./composer.ts";
import { ExpertMatrices, Experts } from "./experts.ts";
import type { Routing } from "./experts.ts";
import { AttachedExperts } from "./experts_attached.ts";
import { Linear } from "./linear.ts";
import { MoeInputs } from "./moe_inputs.ts";
import type { ExpertsAndRouter } from "./moe_inputs.ts";
import { SharedExpert } from "./shared.ts";
import { StraightThrough } from "./straight_through.ts";

/** What a profile collects from the routing of one layer: ids i32 [T, K] and weights f32 [T, K]. */
export type RouteObserver = (layer: number, ids: Tensor, weights: Tensor) => void;

/**
 * @param open the experts are not fused: outputs and their gradient are there once more
 * @param scaled the weights multiply inputs, which then have rows of their own
 */
const slotsOf = (plan: Planner, D: number, E: number, K: number, { open, scaled }: { open: boolean; scaled: boolean }) => ({
  logits_TE: plan.scratch(f32(E), "logits"),
  probs_TE: plan.saved(f32(E), "probs"),
  ids_TK: plan.kept(i32(K), "ids"),
  weights_TK: plan.kept(f32(K), "weights"),
  offsets_E1: plan.kept({ dtype: "i32", fixed: [E + 1] }, "offsets"),
  tokens_N: plan.kept(i32(0, K), "tokens"),
  pos_TK: plan.kept(i32(K), "pos"),
  gate_N: plan.kept(f32(0, K), "gate"),
  y_ND: plan.scratch(act(D, K), "y"),
  /** By row, or by token. */
  dgate: plan.backward(open || scaled ? f32(K) : f32(0, K), "dgate"),
  dlogits_TE: plan.backward(f32(E), "dlogits"),
  dx_ND: plan.backward(act(D, K), "dx"),
  open: open ? { y_ND: plan.backward(act(D, K), "y"), dy_ND: plan.backward(act(D, K), "dy") } : null,
  scaled: scaled
    ? {
        x_ND: plan.scratch(act(D, K), "scaled"),
        backwardX_ND: plan.backward(act(D, K), "scaled"),
        ones_TK: open ? plan.backward(f32(K), "ones") : null,
      }
    : null,
});

export class MoeBlock {
  readonly trains: boolean;
  /** The gradient of weights that multiply inputs. */
  readonly readsInput: boolean;
  private readonly layer: number;
  private readonly spec: MoeSpec;
  private readonly router: Linear;
  private readonly selectionBias: Parameter | null;
  /** One that a method attached, and its sum with the family's where both are. */
  private readonly attachedBias: { readonly own: Parameter; readonly sum: Slot | null } | null;
  private readonly expertScale: Parameter | null;
  private readonly inputs: MoeInputs | null;
  private readonly experts: Experts | AttachedExperts;
  private readonly shared: SharedExpert | null;
  private readonly attached: readonly MoeAttachment[];
  private readonly balanced: BalancedRouter | null;
  private readonly slots: ReturnType<typeof slotsOf>;
  private readonly straight: StraightThrough | null;
  /** Gradient of the logits through what is attached. */
  private readonly moreLogits: Slot | null;

  constructor(spec: MoeSpec, layer: number, D: number, c: Composer) {
    this.spec = spec;
    this.layer = layer;
    const E = spec.experts.length;
    const { topK: K, expertHidden: F } = spec;
    const bias = spec.routerBias ? { bias: spec.routerBias } : {};
    this.router = new Linear({ weight: spec.router, ...bias, in: D, out: E }, c.named("router"), { exact: true });
    this.selectionBias = spec.selectionBias ? c.parameter(spec.selectionBias) : null;
    const own = c.attachedSelectionBias(layer);
    const sum = (): Slot => c.plan.scratch({ dtype: "f32", fixed: [E] }, "bias");
    this.attachedBias = own && { own, sum: this.selectionBias ? sum() : null };
    this.expertScale = spec.expertScale ? c.parameter(spec.expertScale) : null;
    this.inputs = spec.inputNorms ? new MoeInputs(spec.inputNorms, D, c.named("inputs")) : null;
    const within = c.named("experts");
    const matrices = new ExpertMatrices(spec.experts, within);
    const { open, terms } = within.attachedToExperts({ layer, routed: true, experts: spec.experts, width: D, hidden: F, topK: K });
    const sizes = { hidden: F, rowsPerToken: K, activation: spec.activation };
    this.experts = open.length > 0 ? new AttachedExperts(matrices, open, sizes, within) : new Experts(matrices, sizes, within, terms);
    this.shared = spec.shared ? new SharedExpert(spec.shared, layer, D, c.named("shared")) : null;
    this.readsInput = spec.weighted === "inputs";
    this.slots = slotsOf(c.plan, D, E, K, { open: open.length > 0, scaled: spec.weighted === "inputs" });
    this.attached = c.attachedToMoe({ layer, width: D, experts: E, topK: K, weights: this.slots.weights_TK });
    this.moreLogits = this.attached.some((m) => m.dweights) ? c.plan.backward(f32(E), "moreLogits") : null;
    this.balanced = c.baseBalanced({ experts: E, topK: K });
    const site = { layer, inside: open.length + (terms ? 1 : 0), terms: this.router.attached.length > 0 };
    this.straight = c.straightThrough && this.routerTrains ? new StraightThrough(spec, site, within.named("dense")) : null;
    const beside = this.attached.length > 0 || (this.shared?.trains ?? false) || (this.inputs?.trains ?? false);
    this.trains = this.experts.trains || this.routerTrains || beside;
  }

  private get routerTrains(): boolean {
    return this.router.trains || (this.expertScale?.trains ?? false);
  }

  private routing(run: Run): Routing {
    return { offsets: run.at(this.slots.offsets_E1), tokens: run.at(this.slots.tokens_N), gate: run.at(this.slots.gate_N) };
  }

  /** y: the block's output, overwritten. True: the residual is in it; what is attached adds before it does. */
  forward(run: Run, x: Tensor, y: Tensor, residual: Tensor | null = null, observe?: RouteObserver): boolean {
    const { device } = run;
    const { experts: xn, router: routed } = this.inputs?.forward(run, x) ?? { experts: x, router: x };
    const { logits_TE, ids_TK, weights_TK, pos_TK, y_ND: rows_ND } = this.slots;
    const [logits, ids, weights, pos, y_ND] = [run.at(logits_TE), run.at(ids_TK), run.at(weights_TK), run.at(pos_TK), run.at(rows_ND)];
    this.router.forward(run, routed, logits);
    this.scaleLogits(run, logits);
    const [bias, expertScale] = [this.choosingBias(run), this.expertScale?.value];
    ops.topkRoute(device, { logits, bias, expertScale, ids, weights, probs: run.saved(this.slots.probs_TE), rule: this.spec.rule });
    observe?.(this.layer, ids, weights);
    this.balanced?.record(run, ids);
    const rows = this.routing(run);
    ops.expertSort(device, {
      ids,
      weights,
      offsets: rows.offsets,
      tokens: run.at(this.slots.tokens_N),
      pos,
      gate: run.at(this.slots.gate_N),
    });
    const { scaled } = this.slots;
    if (scaled) {
      const inputs = this.scaledInputs(run, xn, y_ND, run.at(scaled.x_ND));
      this.experts.forward(run, inputs, { offsets: rows.offsets, tokens: null }, y_ND);
    } else this.experts.forward(run, xn, rows, y_ND);
    if (this.shared) this.shared.forward(run, xn, y);
    const last = this.attached.length === 0 ? residual : null;
    ops.combine(device, { x: y_ND, pos, weights: scaled ? null : weights, residual: last, y, accumulate: this.shared !== null });
    for (const m of this.attached) m.forward(run, xn, y);
    return last !== null;
  }

  /**
   * dy: gradient of the block's output (also the residual's, not changed). dx: gradient of the block's input,
   * overwritten; null when nothing below needs it: then only the trained experts' rows are touched.
   * Destroys the saved pre-activations.
   */
  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null): void {
    const { inputs } = this;
    if (!inputs) return this.backwardOf(run, dy, { experts: x, router: x }, dx ? { experts: dx, router: dx } : null);
    const gradients = dx || inputs.trains ? inputs.gradients(run) : null;
    this.backwardOf(run, dy, inputs.recompute(run, x), gradients);
    if (gradients) inputs.backward(run, x, dx);
  }

  /** By what experts and router read. d: their gradients, overwritten; one tensor where they read the same. */
  private backwardOf(run: Run, dy: Tensor, { experts: xn, router: routed }: ExpertsAndRouter, d: ExpertsAndRouter | null): void {
    const dxn = d?.experts ?? null;
    const all = dxn !== null || this.routerTrains || this.balanced !== null;
    const rows = this.routing(run);
    const dgate = run.at(this.slots.dgate);
    const { scaled } = this.slots;
    const x = scaled ? this.scaledInputs(run, xn, run.at(this.slots.dx_ND), run.at(scaled.backwardX_ND)) : xn;
    const xRows = scaled ? { offsets: rows.offsets, tokens: null } : rows;
    if (!(this.experts instanceof Experts)) this.plainBackward(this.experts, run, dy, x, xRows);
    else if (scaled) this.experts.backward(run, dy, x, { ...rows, gate: null, xTokens: null }, { dgate: null, all });
    else this.experts.backward(run, dy, xn, rows, { dgate: all && !this.straight ? dgate : null, all });
    if (this.shared) this.shared.backward(run, dy, xn, dxn);
    if (scaled ? all : dxn) this.experts.rowGradient(run, xRows, run.at(this.slots.dx_ND));
    const [dx_ND, pos, weights] = [run.at(this.slots.dx_ND), run.at(this.slots.pos_TK), run.at(this.slots.weights_TK)];
    if (scaled && all) ops.combineBackward(run.device, { dy: xn, x: dx_ND, pos, weights, dweights: dgate });
    if (dxn) ops.combine(run.device, { x: dx_ND, pos, weights: scaled ? weights : null, y: dxn, accumulate: this.shared !== null });
    for (const m of this.attached) m.backward(run, dy, xn, dxn);
    if (all) this.routerBackward(run, this.straight?.dweights(run, dy, xn) ?? null, routed, d?.router ?? null);
  }

  private choosingBias(run: Run): Tensor | null {
    const base = this.selectionBias?.value ?? null;
    const { own, sum } = this.attachedBias ?? {};
    if (!own || !base || !sum) return own?.value ?? base;
    const y = run.at(sum);
    ops.add(run.device, { a: base, b: own.value, y });
    return y;
  }

  private scaleLogits(run: Run, x: Tensor): void {
    const { logitsFactor: factor = 1 } = this.spec;
    if (factor !== 1) ops.scale(run.device, { x, factor });
  }

  /** into [N, D]: each row's token of xn times its weight. unread: an operand of the same shape that is not read. */
  private scaledInputs(run: Run, xn: Tensor, unread: Tensor, into: Tensor): Tensor {
    const [pos, weights] = [run.at(this.slots.pos_TK), run.at(this.slots.weights_TK)];
    ops.combineBackward(run.device, { dy: xn, x: unread, pos, weights, dx: into });
    return into;
  }

  /** Experts that are not fused: outputs once more, the weighting backwards (dgate by token, [T, K]), then the experts. */
  private plainBackward(experts: AttachedExperts, run: Run, dy: Tensor, x: Tensor, rows: ExpertRows): void {
    if (!this.slots.open) return;
    const { scaled } = this.slots;
    const [y_ND, dy_ND] = [run.at(this.slots.open.y_ND), run.at(this.slots.open.dy_ND)];
    const [pos, weights] = [run.at(this.slots.pos_TK), run.at(this.slots.weights_TK)];
    // The gradient of weights that multiply inputs is taken there.
    if (scaled?.ones_TK) {
      const ones = run.at(scaled.ones_TK);
      ops.fill(run.device, { x: ones, value: 1 });
      ops.combineBackward(run.device, { dy, x: y_ND, pos, weights: ones, dx: dy_ND });
    } else {
      experts.recompute(run, x, rows, y_ND);
      ops.combineBackward(run.device, { dy, x: y_ND, pos, weights, dx: dy_ND, dweights: run.at(this.slots.dgate) });
    }
    experts.backward(run, dy_ND, x, rows);
  }

  /** dense: gradient of the weights of all experts, where it is taken straight through; else that of the chosen is there. */
  private routerBackward(run: Run, dense: Tensor | null, x: Tensor, dx: Tensor | null): void {
    const { device, accumulate } = run;
    const { rule } = this.spec;
    const [expertScale, dexpertScale] = [this.expertScale?.value, this.expertScale?.grad];
    const [probs, ids, weights, dlogits] = [
      run.at(this.slots.probs_TE),
      run.at(this.slots.ids_TK),
      run.at(this.slots.weights_TK),
      run.at(this.slots.dlogits_TE),
    ];
    const pos = this.slots.open || this.slots.scaled ? null : run.at(this.slots.pos_TK);
    const routed = { probs, ids, weights, expertScale, dexpertScale, rule };
    if (dense) ops.routeBackward(device, { ...routed, dweights: dense, dense: true, dlogits, accumulate });
    else ops.routeBackward(device, { ...routed, dweights: run.at(this.slots.dgate), pos, dlogits, accumulate });
    for (const { dweights } of this.attached) {
      if (!dweights || !this.moreLogits) continue;
      const more = run.at(this.moreLogits);
      ops.routeBackward(device, { ...routed, dweights: run.at(dweights), dlogits: more, accumulate: true });
      ops.add(device, { a: dlogits, b: more, y: dlogits });
    }
    this.balanced?.gradient(run, probs, dlogits);
    if (run.balance && this.router.trains && rule.score === "softmax")
      ops.loadBalance(device, { probs, offsets: run.at(this.slots.offsets_E1), dlogits, scale: run.balance });
    this.scaleLogits(run, dlogits);
    this.router.backward(run, dlogits, x, dx, this.inputs === null);
  }
}
