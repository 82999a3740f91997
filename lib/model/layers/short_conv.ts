// Short convolution in the place of attention (LFM2): [B | C | X] = bcx(x), y = o(C ⊙ conv(B ⊙ X)).

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Planner, Slot } from "../slots.ts";
import type { ShortConvSpec } from "../spec.ts";
import type { Composer } from "./composer.ts";
import { Conv } from "./conv.ts";
import { Linear } from "./linear.ts";

export class ShortConv {
  private readonly bcx: Linear;
  private readonly conv: Conv;
  private readonly o: Linear;
  private readonly slots: ReturnType<typeof slotsOf>;

  constructor(spec: ShortConvSpec, c: Composer) {
    this.bcx = new Linear(spec.bcx, c.named("bcx"));
    this.conv = new Conv(spec.conv, c, { silu: false });
    this.o = new Linear(spec.o, c.named("o"));
    this.slots = slotsOf(c.plan, spec.conv.channels);
  }

  get trains(): boolean {
    return this.bcx.trains || this.conv.trains || this.o.trains;
  }

  forward(run: Run, xn: Tensor, y: Tensor, residual: Tensor | null = null): boolean {
    const { device } = run;
    const { bcx, gated, mixed, out } = this.slots;
    this.bcx.forward(run, xn, run.at(bcx.whole));
    ops.multiply(device, { a: run.at(bcx.b), b: run.at(bcx.x), y: run.at(gated) });
    this.conv.forward(run, run.at(gated), run.at(mixed));
    ops.multiply(device, { a: run.at(bcx.c), b: run.at(mixed), y: run.at(out) });
    return this.o.forward(run, run.at(out), y, residual);
  }

  /** dy: gradient of the projected output. dxn: gradient of the normalised input, overwritten, or null when not wanted. */
  backward(run: Run, dy: Tensor, xn: Tensor, dxn: Tensor | null): void {
    const { device } = run;
    const { bcx, dBcx, gated, mixed, out, dOut, dMixed } = this.slots;
    this.o.backward(run, dy, run.at(out), run.at(dOut));
    ops.multiplyBackward(device, {
      dy: run.at(dOut),
      a: run.at(bcx.c),
      b: run.at(mixed),
      da: run.at(dBcx.c),
      db: run.at(dMixed),
    });
    const dGated = run.at(dOut);
    this.conv.backward(run, run.at(dMixed), run.at(gated), dGated);
    ops.multiplyBackward(device, { dy: dGated, a: run.at(bcx.b), b: run.at(bcx.x), da: run.at(dBcx.b), db: run.at(dBcx.x) });
    this.bcx.backward(run, run.at(dBcx.whole), xn, dxn);
  }
}

function slotsOf(plan: Planner, C: number) {
  const thirds = (whole: Slot) => ({
    whole,
    b: plan.columns(whole, 0, C),
    c: plan.columns(whole, C, 2 * C),
    x: plan.columns(whole, 2 * C, 3 * C),
  });
  return {
    bcx: thirds(plan.kept(act(3 * C), "bcx")),
    gated: plan.kept(act(C), "gated"),
    mixed: plan.kept(act(C), "mixed"),
    out: plan.kept(act(C), "out"),
    dBcx: thirds(plan.backward(act(3 * C), "dBcx")),
    dOut: plan.backward(act(C), "dOut"),
    dMixed: plan.backward(act(C), "dMixed"),
  };
}
