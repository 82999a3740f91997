// One decoder layer: the branch of attention, then that of the MLP or the experts, each added to the residual stream.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { AttentionSpec, LayerSpec } from "../spec.ts";
import type { Parameter } from "../weights/parameter.ts";
import { Branch, branchSlots } from "./branch.ts";
import type { BranchBody } from "./branch.ts";
import type { Composer } from "./composer.ts";
import { DeltaAttention } from "./delta.ts";
import { HeadsAttention } from "./heads.ts";
import { LatentAttention } from "./latent.ts";
import { Mlp } from "./mlp.ts";
import { MoeBlock } from "./moe.ts";
import type { RouteObserver } from "./moe.ts";
import { Parallel } from "./parallel.ts";
import { ShortConv } from "./short_conv.ts";

export class Block {
  /** The block's input: kept for backward, or one of the model's two that take turns. */
  readonly x: Slot;
  readonly trains: boolean;
  private readonly attention: Branch;
  private readonly mlp: Branch;
  private readonly xMid: Slot;
  private readonly outputFactor: Parameter | null;

  /** @param passing where the input lies when this layer keeps nothing */
  constructor(spec: LayerSpec, layer: number, D: number, passing: Slot, c: Composer) {
    const { plan } = c;
    const { residualFactor: factor } = spec;
    const [attention, mlp] = [c.named("attention"), c.named("mlp")];
    this.x = plan.keeps ? plan.kept(act(D), "x") : passing;
    const slots = branchSlots(plan, D);
    const mixer = attentionOf(spec.attention, attention);
    this.attention = new Branch("attention", mixer, { norms: spec.attentionNorms, factor }, D, slots, c);
    this.mlp = new Branch("mlp", mlpOf(spec.mlp, layer, D, mlp), { norms: spec.mlpNorms, factor }, D, slots, c);
    this.outputFactor = spec.outputFactor ? c.parameter(spec.outputFactor) : null;
    this.trains = this.attention.trains || this.mlp.trains;
    this.xMid = plan.kept(act(D), "xMid");
  }

  forward(run: Run, x: Tensor, out: Tensor, observe?: RouteObserver): void {
    const xMid = run.at(this.xMid);
    this.attention.forward(run, x, xMid);
    this.mlp.forward(run, xMid, out, observe);
    this.scale(run, out);
  }

  /** By the layer's own number: its output, or the gradient of that. */
  private scale(run: Run, x: Tensor): void {
    if (this.outputFactor) ops.scale(run.device, { x, by: this.outputFactor.value });
  }

  /** dx holds the gradient of the block's output and becomes that of its input, when `needDx`. */
  backward(run: Run, dx: Tensor, needDx: boolean): void {
    this.scale(run, dx);
    this.mlp.backward(run, dx, run.at(this.xMid), needDx || this.attention.trains);
    this.attention.backward(run, dx, run.at(this.x), needDx);
  }
}

function mlpOf(spec: LayerSpec["mlp"], layer: number, D: number, c: Composer): BranchBody {
  switch (spec.kind) {
    case "dense":
      return new Mlp(spec, layer, D, c);
    case "moe":
      return new MoeBlock(spec, layer, D, c);
    case "parallel":
      return new Parallel(spec, layer, D, c);
  }
}

function attentionOf(spec: AttentionSpec, c: Composer): BranchBody {
  switch (spec.kind) {
    case "heads":
      return new HeadsAttention(spec, c);
    case "latent":
      return new LatentAttention(spec, c);
    case "delta":
      return new DeltaAttention(spec, c);
    case "conv":
      return new ShortConv(spec, c);
  }
}
