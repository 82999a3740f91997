// The gate of gated attention: out · σ(W·x), element by element, before the output projection.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { LinearSpec } from "../spec.ts";
import type { AttentionCore } from "./attention_core.ts";
import type { Composer } from "./composer.ts";
import { Linear } from "./linear.ts";

export class OutputGate {
  private readonly linear: Linear;
  private readonly core: AttentionCore;
  private readonly g: Slot;
  private readonly gated: Slot;
  private readonly dg: Slot;
  private readonly dGated: Slot;

  constructor(spec: LinearSpec, core: AttentionCore, c: Composer) {
    this.linear = new Linear(spec, c);
    this.core = core;
    this.g = c.plan.kept(act(spec.out), "g");
    this.gated = c.plan.kept(act(spec.out), "gated");
    this.dg = c.plan.backward(act(spec.out), "dg");
    this.dGated = c.plan.backward(act(spec.out), "dGated");
  }

  get trains(): boolean {
    return this.linear.trains;
  }

  /** What the output projection reads. */
  forward(run: Run, xn: Tensor): Tensor {
    const [g, gated] = [run.at(this.g), run.at(this.gated)];
    this.linear.forward(run, xn, g);
    ops.sigmoidGate(run.device, { x: run.at(this.core.out), g, y: gated });
    return gated;
  }

  /** What the output projection read, and where its input gradient goes. */
  operands(run: Run): { readonly x: Tensor; readonly dx: Tensor } {
    return { x: run.at(this.gated), dx: run.at(this.dGated) };
  }
  /** From that gradient to the core's, and the gate's own. */
  split(run: Run): void {
    const { core } = this;
    ops.sigmoidGateBackward(run.device, {
      dy: run.at(this.dGated),
      x: run.at(core.out),
      g: run.at(this.g),
      dx: run.at(core.dout),
      dg: run.at(this.dg),
    });
  }
  /** Gradients of the gate's projection; dxn += where wanted. */
  backward(run: Run, xn: Tensor, dxn: Tensor | null): void {
    this.linear.backward(run, run.at(this.dg), xn, dxn, true);
  }
}
