// A dense MLP and experts beside each other, each between norms of its own: y = Σ after(body(before(x))). What the experts and their
// router read of x is the block's business.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Planner, Slot } from "../slots.ts";
import type { BranchNorms, ParallelSpec } from "../spec.ts";
import type { BranchBody } from "./branch.ts";
import type { Composer } from "./composer.ts";
import { Mlp } from "./mlp.ts";
import { MoeBlock } from "./moe.ts";
import type { RouteObserver } from "./moe.ts";
import { Norm } from "./norm.ts";

/** What both bodies use one after the other: [T, D] each. */
const slotsOf = (plan: Planner, D: number) => ({
  xn: plan.scratch(act(D), "xn"),
  y: plan.scratch(act(D), "y"),
  backwardXn: plan.backward(act(D), "xn"),
  dRaw: plan.backward(act(D), "dRaw"),
  dxn: plan.backward(act(D), "dxn"),
});
type Slots = ReturnType<typeof slotsOf>;

export class Parallel implements BranchBody {
  readonly trains: boolean;
  private readonly bodies: readonly NormedBody[];

  constructor(spec: ParallelSpec, layer: number, D: number, c: Composer) {
    const [dense, moe] = [c.named("dense"), c.named("moe")];
    const slots = slotsOf(c.plan, D);
    this.bodies = [
      new NormedBody(new Mlp(spec.dense, layer, D, dense), spec.denseNorms, D, slots, dense),
      new NormedBody(new MoeBlock(spec.moe, layer, D, moe), spec.moeNorms, D, slots, moe),
    ];
    this.trains = this.bodies.some((b) => b.trains);
  }

  forward(run: Run, x: Tensor, y: Tensor, _residual: Tensor | null, observe?: RouteObserver): boolean {
    this.bodies.forEach((body, i) => body.forward(run, x, y, i > 0, observe));
    return false;
  }

  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null): void {
    this.bodies.forEach((body, i) => body.backward(run, dy, x, dx, i > 0));
  }
}

class NormedBody {
  readonly trains: boolean;
  private readonly body: BranchBody;
  private readonly before: Norm | null;
  private readonly after: Norm | null;
  private readonly slots: Slots;
  /** Output of the body, where a norm follows. */
  private readonly raw: Slot | null;

  constructor(body: BranchBody, { before, after }: BranchNorms, D: number, slots: Slots, c: Composer) {
    this.body = body;
    this.before = before ? new Norm(before, c.named("norm")) : null;
    this.after = after ? new Norm(after, c.named("postNorm")) : null;
    this.slots = slots;
    this.raw = after ? c.plan.kept(act(D), "raw") : null;
    this.trains = body.trains || (this.before?.trains ?? false) || (this.after?.trains ?? false);
  }

  /** y (+)= after(body(before(x))). */
  forward(run: Run, x: Tensor, y: Tensor, accumulate: boolean, observe?: RouteObserver): void {
    const { before, after, slots } = this;
    const xn = before ? run.at(slots.xn) : x;
    before?.forward(run, x, xn);
    const to = accumulate ? run.at(slots.y) : y;
    const raw = this.raw ? run.at(this.raw) : to;
    this.body.forward(run, xn, raw, null, observe);
    after?.forward(run, raw, to);
    if (accumulate) ops.add(run.device, { a: y, b: to, y });
  }

  /** dy is not changed; dx (+)= where wanted. */
  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null, accumulate: boolean): void {
    const { before, after, body, slots } = this;
    if (!dx && !this.trains) return;
    const d = after ? run.at(slots.dRaw) : dy;
    if (after && this.raw) after.backward(run, dy, run.at(this.raw), d);
    const xn = before ? run.at(slots.backwardXn) : x;
    if (before && body.trains) before.recompute(run, x, xn);
    const wanted = dx !== null || (before?.trains ?? false);
    const own = wanted && (before !== null || accumulate) ? run.at(slots.dxn) : dx;
    body.backward(run, d, xn, own);
    if (before && own) before.backward(run, own, x, dx, accumulate);
    else if (accumulate && own && dx) ops.add(run.device, { a: dx, b: own, y: dx });
  }
}
