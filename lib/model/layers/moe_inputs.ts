// What the experts and the router of a block read of its input: each a norm of its own. Both are recomputed in backward.

import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Planner } from "../slots.ts";
import type { MoeSpec } from "../spec.ts";
import type { Composer } from "./composer.ts";
import { Norm } from "./norm.ts";

/** A tensor for the experts, one for the router. */
export interface ExpertsAndRouter {
  readonly experts: Tensor;
  readonly router: Tensor;
}

const slotsOf = (plan: Planner, D: number) => ({
  forward: { experts: plan.scratch(act(D), "experts"), router: plan.scratch(act(D), "router") },
  backward: { experts: plan.backward(act(D), "experts"), router: plan.backward(act(D), "router") },
  gradient: { experts: plan.backward(act(D), "dExperts"), router: plan.backward(act(D), "dRouter") },
});

export class MoeInputs {
  private readonly experts: Norm;
  private readonly router: Norm;
  private readonly slots: ReturnType<typeof slotsOf>;

  constructor(spec: NonNullable<MoeSpec["inputNorms"]>, D: number, c: Composer) {
    this.experts = new Norm(spec.experts, c.named("experts"));
    this.router = new Norm(spec.router, c.named("router"));
    this.slots = slotsOf(c.plan, D);
  }

  get trains(): boolean {
    return this.experts.trains || this.router.trains;
  }

  forward(run: Run, x: Tensor): ExpertsAndRouter {
    const [experts, router] = [run.at(this.slots.forward.experts), run.at(this.slots.forward.router)];
    this.experts.forward(run, x, experts);
    this.router.forward(run, x, router);
    return { experts, router };
  }
  /** The same, for a backward. */
  recompute(run: Run, x: Tensor): ExpertsAndRouter {
    const [experts, router] = [run.at(this.slots.backward.experts), run.at(this.slots.backward.router)];
    this.experts.recompute(run, x, experts);
    this.router.recompute(run, x, router);
    return { experts, router };
  }

  /** Where the gradients of both go. */
  gradients(run: Run): ExpertsAndRouter {
    return { experts: run.at(this.slots.gradient.experts), router: run.at(this.slots.gradient.router) };
  }
  /** From those to dx, overwritten, where wanted, and to what trains. */
  backward(run: Run, x: Tensor, dx: Tensor | null): void {
    const { experts, router } = this.gradients(run);
    this.experts.backward(run, experts, x, dx);
    this.router.backward(run, router, x, dx, true);
  }
}
