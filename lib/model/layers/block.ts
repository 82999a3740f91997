// One decoder layer: x + attention(norm(x)), then + mlp(norm(·)). Normalised inputs are recomputed in backward, not kept.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { LayerSpec } from "../spec.ts";
import type { Composer } from "./composer.ts";
import { HeadsAttention } from "./heads.ts";
import { LatentAttention } from "./latent.ts";
import { Mlp } from "./mlp.ts";
import { MoeBlock } from "./moe.ts";
import type { RouteObserver } from "./moe.ts";
import { Norm } from "./norm.ts";

export class Block {
  /** The block's input: kept for backward, or one of the model's two that take turns. */
  readonly x: Slot;
  readonly trains: boolean;
  private readonly attentionNorm: Norm;
  private readonly attention: HeadsAttention | LatentAttention;
  private readonly mlpNorm: Norm;
  private readonly mlp: Mlp | MoeBlock;
  private readonly xMid: Slot;
  private readonly xn: Slot;
  private readonly branch: Slot;
  private readonly backwardXn: Slot;
  private readonly dxn: Slot;

  /** @param passing where the input lies when this layer keeps nothing */
  constructor(spec: LayerSpec, layer: number, D: number, passing: Slot, c: Composer) {
    const { plan } = c;
    this.x = plan.keeps ? plan.kept(act(D), "x") : passing;
    this.attentionNorm = new Norm(spec.attentionNorm, c.named("attentionNorm"));
    const attention = c.named("attention");
    this.attention =
      spec.attention.kind === "heads" ? new HeadsAttention(spec.attention, attention) : new LatentAttention(spec.attention, attention);
    this.mlpNorm = new Norm(spec.mlpNorm, c.named("mlpNorm"));
    const mlp = c.named("mlp");
    this.mlp = spec.mlp.kind === "moe" ? new MoeBlock(spec.mlp, layer, D, mlp) : new Mlp(spec.mlp, layer, D, mlp);
    this.trains = this.attention.trains || this.mlp.trains || this.attentionNorm.trains || this.mlpNorm.trains;
    this.xMid = plan.kept(act(D), "xMid");
    this.xn = plan.scratch(act(D), "xn");
    this.branch = plan.scratch(act(D), "branch");
    this.backwardXn = plan.backward(act(D), "xn");
    this.dxn = plan.backward(act(D), "dxn");
  }

  forward(run: Run, x: Tensor, out: Tensor, observe?: RouteObserver): void {
    const [xn, branch, xMid] = [run.at(this.xn), run.at(this.branch), run.at(this.xMid)];
    this.attentionNorm.forward(run, x, xn);
    this.attention.forward(run, xn, branch);
    ops.add(run.device, { a: x, b: branch, y: xMid });
    this.mlpNorm.forward(run, xMid, xn);
    if (this.mlp instanceof MoeBlock) this.mlp.forward(run, xn, branch, observe);
    else this.mlp.forward(run, xn, branch);
    ops.add(run.device, { a: xMid, b: branch, y: out });
  }

  /** dx holds the gradient of the block's output and becomes that of its input, when `needDx`. */
  backward(run: Run, dx: Tensor, needDx: boolean): void {
    const { attention, attentionNorm, mlp, mlpNorm } = this;
    const belowMlp = needDx || attention.trains || attentionNorm.trains;
    const [x, xMid, xn, dxn] = [run.at(this.x), run.at(this.xMid), run.at(this.backwardXn), run.at(this.dxn)];

    if (mlp.trains) mlpNorm.recompute(run, xMid, xn);
    const mlpDx = belowMlp || mlpNorm.trains ? dxn : null;
    if (mlp instanceof MoeBlock) mlp.backward(run, dx, xn, mlpDx);
    else mlp.backward(run, dx, xn, mlpDx);
    if (mlpDx) mlpNorm.backward(run, mlpDx, xMid, belowMlp ? dx : null, true);
    if (!belowMlp) return;

    if (attention.trains) attentionNorm.recompute(run, x, xn);
    const attentionDx = needDx || attentionNorm.trains ? dxn : null;
    attention.backward(run, dx, xn, attentionDx);
    if (attentionDx) attentionNorm.backward(run, attentionDx, x, needDx ? dx : null, true);
  }
}
