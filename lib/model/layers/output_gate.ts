// The gate of gated attention: out · σ(g), element by element, before the output projection. g is a projection of its own, or what
// the projection of q makes beside it.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { LinearSpec } from "../spec.ts";
import type { AttentionCore } from "./attention_core.ts";
import type { Composer } from "./composer.ts";
import { Linear } from "./linear.ts";

/** A gate that another projection makes and whose gradient it takes: [T · heads, columns of a head]. */
export interface GateSlots {
  readonly heads: number;
  readonly g: Slot;
  readonly dg: Slot;
}

export class OutputGate {
  private readonly linear: Linear | null;
  private readonly g: Slot;
  private readonly dg: Slot;
  /** What the output projection reads, and its gradient. */
  private readonly gated: Slot;
  private readonly dGated: Slot;
  /** The same and the core's, in rows as the gate has them. */
  private readonly rows: { readonly out: Slot; readonly dout: Slot; readonly gated: Slot; readonly dGated: Slot };

  constructor(gate: LinearSpec | GateSlots, core: AttentionCore, c: Composer) {
    const { plan } = c;
    const width = core.out.spec.perToken ?? 0;
    this.gated = plan.kept(act(width), "gated");
    this.dGated = plan.backward(act(width), "dGated");
    const own = "weight" in gate;
    this.linear = own ? new Linear(gate, c) : null;
    this.g = own ? plan.kept(act(width), "g") : gate.g;
    this.dg = own ? plan.backward(act(width), "dg") : gate.dg;
    const rows = (slot: Slot): Slot => (own ? slot : plan.rows(slot, gate.heads));
    this.rows = { out: rows(core.out), dout: rows(core.dout), gated: rows(this.gated), dGated: rows(this.dGated) };
  }

  get trains(): boolean {
    return this.linear?.trains ?? false;
  }

  /** What the output projection reads. */
  forward(run: Run, xn: Tensor): Tensor {
    const { out, gated } = this.rows;
    const g = run.at(this.g);
    this.linear?.forward(run, xn, g);
    ops.sigmoidGate(run.device, { x: run.at(out), g, y: run.at(gated) });
    return run.at(this.gated);
  }

  /** What the output projection read, and where its input gradient goes. */
  operands(run: Run): { readonly x: Tensor; readonly dx: Tensor } {
    return { x: run.at(this.gated), dx: run.at(this.dGated) };
  }
  /** From that gradient to the core's, and the gate's own. */
  split(run: Run): void {
    const { out, dout, dGated } = this.rows;
    ops.sigmoidGateBackward(run.device, {
      dy: run.at(dGated),
      x: run.at(out),
      g: run.at(this.g),
      dx: run.at(dout),
      dg: run.at(this.dg),
    });
  }
  /** Gradients of the gate's own projection; dxn += where wanted. */
  backward(run: Run, xn: Tensor, dxn: Tensor | null): void {
    this.linear?.backward(run, run.at(this.dg), xn, dxn, true);
  }
}
