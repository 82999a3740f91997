// The Mixture-of-Experts block: router → sort by expert → gate|up with SwiGLU → down → weighted combine, plus shared expert.
//
// Saved for backward: routing metadata and the pre-activation h. Expert outputs are never needed again: the gate gradient is
// ⟨dout·W_down, a⟩, taken in the epilogue of the backward product. dW exists for trained experts only; a frozen router still
// passes gradient to its input through the gate weights.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import { act, exactPrecision, f32, i32 } from "./layer.ts";
import type { RunContext } from "./layer.ts";
import { Mlp } from "./mlp.ts";
import type { SlotTable, Slots } from "../slots.ts";
import type { ExpertWeights, MoeSpec } from "../spec.ts";

/** What a profile collects from the routing of one layer. */
export type RouteObserver = (layer: number, ids: Tensor, weights: Tensor) => void;

export class Moe {
  readonly spec: MoeSpec;
  readonly layer: number;
  readonly slots: SlotTable;
  readonly saved: ReadonlySet<string>;
  readonly backwardSlots: SlotTable;
  readonly shared: Mlp | null;
  private readonly hidden: number;

  constructor(spec: MoeSpec, layer: number, hidden: number) {
    this.spec = spec;
    this.layer = layer;
    this.hidden = hidden;
    const E = spec.experts.length;
    const { topK: K, expertHidden: F } = spec;
    this.shared = spec.shared ? new Mlp(spec.shared, "shared") : null;
    this.slots = {
      logits: f32(E),
      probs: f32(E),
      ids: i32(K),
      weights: f32(K),
      offsets: { dtype: "i32", fixed: [E + 1] },
      tokens: i32(0, K),
      pos: i32(K),
      gate: f32(0, K),
      h: act(2 * F, K),
      a: act(F, K),
      yRouted: act(hidden, K),
      ...this.shared?.slots,
    };
    this.saved = new Set(["probs", "ids", "weights", "offsets", "tokens", "pos", "gate", "h", ...(this.shared?.saved ?? [])]);
    this.backwardSlots = { dgate: f32(0, K), dlogits: f32(E), dxRouted: act(hidden, K) };
  }

  /** y: the block's output without the residual, overwritten. */
  forward(run: RunContext, xn: Tensor, s: Slots, y: Tensor, observe?: RouteObserver): void {
    const { device, params, precision } = run;
    const { spec } = this;
    const [ids, weights, offsets, tokens, pos] = [s["ids"]!, s["weights"]!, s["offsets"]!, s["tokens"]!, s["pos"]!];
    // Router arithmetic is always exact: f32 logits of the operands as they are.
    const router = params.value(spec.router);
    ops.gemm(device, "nt", { a: xn, b: router, c: s["logits"]!, precision: exactPrecision(xn, router) });
    ops.topkRoute(device, {
      logits: s["logits"]!,
      bias: spec.selectionBias ? params.value(spec.selectionBias) : null,
      ids,
      weights,
      probs: run.keep ? s["probs"]! : null,
      rule: spec.rule,
    });
    observe?.(this.layer, ids, weights);
    ops.expertSort(device, { ids, weights, offsets, tokens, pos, gate: s["gate"]! });
    ops.groupedGemmNt(device, {
      x: xn,
      rows: tokens,
      w: this.gateUp(run),
      segments: 2,
      offsets,
      swiglu: true,
      h: run.keep ? s["h"]! : null,
      y: s["a"]!,
      precision,
    });
    ops.groupedGemmNt(device, { x: s["a"]!, w: this.down(run), offsets, y: s["yRouted"]!, precision });
    if (this.shared) this.shared.forward(run, xn, s, y);
    ops.combine(device, { x: s["yRouted"]!, pos, weights, y, accumulate: this.shared !== null });
  }

  private gateUp(run: RunContext): ReturnType<RunContext["params"]["list"]> {
    return run.params.list(`gateUp ${this.layer}`, () => this.spec.experts.flatMap((e) => [e.gate, e.up]));
  }
  private down(run: RunContext): ReturnType<RunContext["params"]["list"]> {
    return run.params.list(`down ${this.layer}`, () => this.spec.experts.map((e) => e.down));
  }

  /** Experts that train, ascending. An expert trains whole. */
  trainedExperts(run: Pick<RunContext, "params">): number[] {
    return this.spec.experts.flatMap((e, i) => (run.params.trains(e.down) ? [i] : []));
  }

  trains(run: Pick<RunContext, "params">): boolean {
    return this.trainedExperts(run).length > 0 || run.params.trains(this.spec.router) || (this.shared?.trains(run) ?? false);
  }

  /**
   * dy: gradient of the block's output (also the residual's, not changed). dxn: gradient of the normalised input,
   * overwritten; null when nothing below needs it: then only the trained experts' rows are touched.
   * Destroys the saved pre-activations.
   */
  backward(run: RunContext, dy: Tensor, xn: Tensor, s: Slots, b: Slots, dxn: Tensor | null): void {
    const { device, params, precision } = run;
    const { spec } = this;
    const groups = this.trainedExperts(run);
    const [offsets, tokens, pos, gate, h] = [s["offsets"]!, s["tokens"]!, s["pos"]!, s["gate"]!, s["h"]!];
    const trainsRouter = params.trains(spec.router);
    const all = dxn !== null || trainsRouter;
    const refs = (pick: (e: ExpertWeights) => ExpertWeights[keyof ExpertWeights][]) => () => groups.flatMap((g) => pick(spec.experts[g]!));

    if (groups.length > 0)
      ops.groupedGemmTn(device, {
        dy,
        dyRows: tokens,
        dyScale: gate,
        x: h,
        swigluX: true,
        offsets,
        dw: params.list(
          `down ${this.layer}`,
          refs((e) => [e.down]),
          "grad",
        ),
        groups,
        precision,
      });
    if (all || groups.length > 0)
      ops.groupedGemmNn(device, {
        dy,
        rows: tokens,
        w: this.down(run),
        offsets,
        h,
        gate,
        dx: h,
        dgate: all ? b["dgate"]! : null,
        groups: all ? [] : groups,
        swiglu: true,
        precision,
      });
    if (groups.length > 0)
      ops.groupedGemmTn(device, {
        dy: h,
        x: xn,
        xRows: tokens,
        offsets,
        dw: params.list(
          `gateUp ${this.layer}`,
          refs((e) => [e.gate, e.up]),
          "grad",
        ),
        segments: 2,
        groups,
        precision,
      });
    if (dxn) {
      ops.groupedGemmNn(device, { dy: h, w: this.gateUp(run), segments: 2, offsets, dx: b["dxRouted"]!, precision });
      ops.combine(device, { x: b["dxRouted"]!, pos, y: dxn });
    }
    if (all) {
      const dlogits = b["dlogits"]!;
      ops.routeBackward(device, {
        dweights: b["dgate"]!,
        pos,
        probs: s["probs"]!,
        ids: s["ids"]!,
        weights: s["weights"]!,
        dlogits,
        rule: spec.rule,
      });
      if (run.balance > 0 && trainsRouter && spec.rule.score === "softmax")
        ops.loadBalance(device, { probs: s["probs"]!, offsets, dlogits, coefficient: run.balance });
      const dw = params.get(spec.router).grad;
      if (dw) ops.gemm(device, "tn", { a: dlogits, b: xn, c: dw, accumulate: true });
      if (dxn) ops.gemm(device, "nn", { a: dlogits, b: params.value(spec.router), c: dxn, accumulate: true });
    }
    if (this.shared && (dxn || this.shared.trains(run))) this.shared.backward(run, dy, xn, s, dxn);
  }
}
