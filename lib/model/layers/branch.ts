// One of the two branches of a decoder layer: out = x + factor · after(body(before(x))), norms as far as they are there. The
// normalised input is recomputed in backward, not kept.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Planner, Slot } from "../slots.ts";
import type { BranchNorms } from "../spec.ts";
import type { Composer } from "./composer.ts";
import type { RouteObserver } from "./moe.ts";
import { Norm } from "./norm.ts";

/** Attention, an MLP, a Mixture-of-Experts block. */
export interface BranchBody {
  readonly trains: boolean;
  /** Its backward reads its input even where nothing of it trains. */
  readonly readsInput?: boolean;
  /** y: overwritten. True: the residual is in it, by the last op that writes y; false, and without one: it is not. */
  forward(run: Run, xn: Tensor, y: Tensor, residual: Tensor | null, observe?: RouteObserver): boolean;
  /** dy: gradient of the output, not changed. dxn: gradient of the input, overwritten, or null when not wanted. */
  backward(run: Run, dy: Tensor, xn: Tensor, dxn: Tensor | null): void;
}

/** What both branches of a layer use one after the other: [T, D] each. */
export const branchSlots = (plan: Planner, D: number) => ({
  xn: plan.scratch(act(D), "xn"),
  backwardXn: plan.backward(act(D), "xn"),
  dxn: plan.backward(act(D), "dxn"),
});

export class Branch {
  readonly trains: boolean;
  private readonly body: BranchBody;
  private readonly before: Norm | null;
  private readonly after: Norm | null;
  private readonly factor: number;
  private readonly slots: ReturnType<typeof branchSlots>;
  /** Output of the body, where a norm follows; else it lies where the branch's is wanted. */
  private readonly raw: Slot | null;
  /** Its gradient, where that is not the gradient of the layer's output. */
  private readonly dRaw: Slot | null;

  /** @param part names the norms in the plan: `${part}Norm`, `${part}PostNorm` */
  constructor(
    part: string,
    body: BranchBody,
    spec: { norms: BranchNorms; factor: number },
    D: number,
    slots: ReturnType<typeof branchSlots>,
    c: Composer,
  ) {
    const { before, after } = spec.norms;
    this.body = body;
    this.before = before ? new Norm(before, c.named(`${part}Norm`)) : null;
    this.after = after ? new Norm(after, c.named(`${part}PostNorm`)) : null;
    this.factor = spec.factor;
    this.slots = slots;
    this.raw = after ? c.plan.kept(act(D), `${part}Raw`) : null;
    this.dRaw = after || this.factor !== 1 ? c.plan.backward(act(D), `${part}Raw`) : null;
    this.trains = body.trains || this.normTrains || (this.after?.trains ?? false);
  }

  private get normTrains(): boolean {
    return this.before?.trains ?? false;
  }

  forward(run: Run, x: Tensor, out: Tensor, observe?: RouteObserver): void {
    const { before, after, slots, factor } = this;
    const xn = before ? run.at(slots.xn) : x;
    if (before) before.forward(run, x, xn);
    const raw = this.raw ? run.at(this.raw) : out;
    const plain = !after && factor === 1; // then the body's last op can add x
    const added = this.body.forward(run, xn, raw, plain ? x : null, observe);
    after?.forward(run, raw, out);
    if (!added) ops.add(run.device, { a: x, b: out, y: out, alpha: factor });
  }

  /** dx holds the gradient of the output and becomes that of x, when `needDx`. */
  backward(run: Run, dx: Tensor, x: Tensor, needDx: boolean): void {
    const { before, body, slots } = this;
    if (!needDx && !this.trains) return;
    const xn = before ? run.at(slots.backwardXn) : x;
    if (before && (body.trains || body.readsInput)) before.recompute(run, x, xn);
    const dxn = needDx || this.normTrains ? run.at(slots.dxn) : null;
    body.backward(run, this.bodyGradient(run, dx), xn, dxn);
    if (!dxn) return;
    if (before) before.backward(run, dxn, x, needDx ? dx : null, true);
    else ops.add(run.device, { a: dx, b: dxn, y: dx });
  }

  private bodyGradient(run: Run, dx: Tensor): Tensor {
    const { after, factor } = this;
    if (!this.dRaw) return dx;
    const d = run.at(this.dRaw);
    if (factor !== 1) {
      ops.cast(run.device, { x: dx, y: d });
      ops.scale(run.device, { x: d, factor });
    }
    if (after && this.raw) after.backward(run, factor === 1 ? dx : d, run.at(this.raw), d);
    return d;
  }
}
