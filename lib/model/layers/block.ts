// One decoder layer: x + attention(norm(x)), then + mlp(norm(·)). Normalised inputs are recomputed in backward, not kept.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import { HeadsAttention } from "./heads.ts";
import { LatentAttention } from "./latent.ts";
import { act, f32, normBackward, normForward } from "./layer.ts";
import type { RunContext } from "./layer.ts";
import { Mlp } from "./mlp.ts";
import { Moe } from "./moe.ts";
import type { RouteObserver } from "./moe.ts";
import type { Parameters } from "../weights/parameters.ts";
import type { RopeTable } from "./rope_table.ts";
import type { SlotTable, Slots } from "../slots.ts";
import type { LayerSpec, NormSpec } from "../spec.ts";

export class Block {
  readonly spec: LayerSpec;
  readonly attention: HeadsAttention | LatentAttention;
  readonly mlp: Mlp | Moe;
  /** Slots of the forward; `saved` of them outlive it when a backward follows. */
  readonly slots: SlotTable;
  readonly saved: ReadonlySet<string>;
  readonly backwardSlots: SlotTable;

  constructor(spec: LayerSpec, layer: number, hidden: number) {
    this.spec = spec;
    this.attention = spec.attention.kind === "heads" ? new HeadsAttention(spec.attention) : new LatentAttention(spec.attention);
    this.mlp = spec.mlp.kind === "moe" ? new Moe(spec.mlp, layer, hidden) : new Mlp(spec.mlp, "dense");
    this.slots = {
      x: act(hidden),
      xMid: act(hidden),
      attentionRstd: f32(0),
      mlpRstd: f32(0),
      xn: act(hidden),
      branch: act(hidden),
      ...this.attention.slots,
      ...this.mlp.slots,
    };
    this.saved = new Set(["x", "xMid", "attentionRstd", "mlpRstd", ...this.attention.saved, ...this.mlp.saved]);
    this.backwardSlots = {
      xn: act(hidden),
      dxn: act(hidden),
      ...this.attention.backwardSlots,
      ...(this.mlp instanceof Moe ? this.mlp.backwardSlots : {}),
    };
  }

  /** The lowest-to-highest facts that decide what backward computes. */
  trains(params: Parameters): boolean {
    const run = { params };
    return this.attention.trains(run) || this.mlp.trains(run) || this.trainsNorms(params);
  }
  private trainsNorms(params: Parameters): boolean {
    return params.trains(this.spec.attentionNorm.weight) || params.trains(this.spec.mlpNorm.weight);
  }

  forward(run: RunContext, rope: RopeTable, x: Tensor, s: Slots, out: Tensor, observe?: RouteObserver): void {
    const [xn, branch, xMid] = [s["xn"]!, s["branch"]!, s["xMid"]!];
    normForward(run, this.spec.attentionNorm, x, xn, s["attentionRstd"]!);
    this.attention.forward(run, rope, xn, s, branch);
    ops.add(run.device, { a: x, b: branch, y: xMid });
    normForward(run, this.spec.mlpNorm, xMid, xn, s["mlpRstd"]!);
    if (this.mlp instanceof Moe) this.mlp.forward(run, xn, s, branch, observe);
    else this.mlp.forward(run, xn, s, branch);
    ops.add(run.device, { a: xMid, b: branch, y: out });
  }

  /** dx holds the gradient of the block's output and becomes that of its input, when `needDx`. */
  backward(run: RunContext, rope: RopeTable, dx: Tensor, x: Tensor, s: Slots, b: Slots, needDx: boolean): void {
    const { params } = run;
    const { attentionNorm, mlpNorm } = this.spec;
    const attentionTrains = this.attention.trains(run);
    const belowMlp = needDx || attentionTrains || params.trains(attentionNorm.weight);
    const [xn, dxn] = [b["xn"]!, b["dxn"]!];

    if (this.mlp.trains(run)) this.recompute(run, mlpNorm, s["xMid"]!, xn);
    const mlpDx = belowMlp || params.trains(mlpNorm.weight) ? dxn : null;
    if (this.mlp instanceof Moe) this.mlp.backward(run, dx, xn, s, b, mlpDx);
    else {
      if (mlpDx) ops.fill(run.device, { x: mlpDx, value: 0 });
      if (mlpDx || this.mlp.trains(run)) this.mlp.backward(run, dx, xn, s, mlpDx);
    }
    if (mlpDx) normBackward(run, mlpNorm, mlpDx, s["xMid"]!, s["mlpRstd"]!, belowMlp ? dx : null, true);
    if (!belowMlp) return;

    if (attentionTrains) this.recompute(run, attentionNorm, x, xn);
    const attentionDx = needDx || params.trains(attentionNorm.weight) ? dxn : null;
    this.attention.backward(run, rope, dx, xn, s, b, attentionDx);
    if (attentionDx) normBackward(run, attentionNorm, attentionDx, x, s["attentionRstd"]!, needDx ? dx : null, true);
  }

  private recompute(run: RunContext, norm: NormSpec, x: Tensor, y: Tensor): void {
    ops.rmsNorm(run.device, { x, weight: run.params.value(norm.weight), y, eps: norm.eps });
  }
}
