// The expert of a Mixture-of-Experts block that every token visits: y = mlp(x), or σ(gate·x) · mlp(x) where it has a gate.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Planner } from "../slots.ts";
import type { SharedExpertSpec } from "../spec.ts";
import type { Composer } from "./composer.ts";
import { Linear } from "./linear.ts";
import { Mlp } from "./mlp.ts";

/** g: the gate before its sigmoid [T, 1]; raw: the MLP's output [T, D], which the gate's gradient reads. */
const slotsOf = (plan: Planner, D: number) => ({
  g: plan.kept(act(1), "g"),
  raw: plan.kept(act(D), "raw"),
  dg: plan.backward(act(1), "dg"),
  dRaw: plan.backward(act(D), "dRaw"),
});

export class SharedExpert {
  private readonly mlp: Mlp;
  private readonly gate: { readonly linear: Linear; readonly slots: ReturnType<typeof slotsOf> } | null;

  constructor(spec: SharedExpertSpec, layer: number, width: number, c: Composer) {
    this.mlp = new Mlp(spec, layer, width, c);
    const within = c.named("gate");
    this.gate = spec.outputGate ? { linear: new Linear(spec.outputGate, within), slots: slotsOf(within.plan, width) } : null;
  }

  get trains(): boolean {
    return this.mlp.trains || (this.gate?.linear.trains ?? false);
  }

  /** y: overwritten. */
  forward(run: Run, xn: Tensor, y: Tensor): void {
    const { gate, mlp } = this;
    if (!gate) return void mlp.forward(run, xn, y);
    const [g, raw] = [run.at(gate.slots.g), run.at(gate.slots.raw)];
    mlp.forward(run, xn, raw);
    gate.linear.forward(run, xn, g);
    ops.sigmoidGate(run.device, { x: raw, g, y });
  }

  /** dxn: overwritten, where wanted. */
  backward(run: Run, dy: Tensor, xn: Tensor, dxn: Tensor | null): void {
    const { gate, mlp } = this;
    if (!gate) return mlp.backward(run, dy, xn, dxn);
    if (!dxn && !this.trains) return;
    const [dRaw, dg] = [run.at(gate.slots.dRaw), run.at(gate.slots.dg)];
    ops.sigmoidGateBackward(run.device, { dy, x: run.at(gate.slots.raw), g: run.at(gate.slots.g), dx: dRaw, dg });
    mlp.backward(run, dRaw, xn, dxn);
    gate.linear.backward(run, dg, xn, dxn, true);
  }
}
