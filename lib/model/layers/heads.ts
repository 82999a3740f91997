// Grouped-head attention: projections, optional norm over the whole projection, optional clipping, rotary embedding.
// Forward adds nothing to the residual stream itself: it writes the projected output. Backward takes its gradient.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { HeadsAttentionSpec, LinearSpec, NormSpec } from "../spec.ts";
import { AttentionCore } from "./attention_core.ts";
import type { Composer } from "./composer.ts";
import { Linear } from "./linear.ts";
import { Norm } from "./norm.ts";
import { Rotary } from "./rotary.ts";

export class HeadsAttention {
  private readonly heads: number;
  private readonly kvHeads: number;
  private readonly q: Projection;
  private readonly k: Projection;
  private readonly v: Projection;
  private readonly o: Linear;
  private readonly rotary: Rotary;
  private readonly core: AttentionCore;

  constructor(spec: HeadsAttentionSpec, c: Composer) {
    const { heads, kvHeads, headDim, scale } = spec;
    this.heads = heads;
    this.kvHeads = kvHeads;
    this.q = new Projection(spec.q, spec.qNorm ?? null, spec.clip, c.named("q"));
    this.k = new Projection(spec.k, spec.kNorm ?? null, spec.clip, c.named("k"));
    this.v = new Projection(spec.v, null, spec.clip, c.named("v"));
    this.o = new Linear(spec.o, c.named("o"));
    this.rotary = new Rotary(spec.rope, c);
    const [k, v] = [
      { kDim: headDim, kOffset: 0, kStride: headDim },
      { vDim: headDim, vOffset: 0, vStride: headDim },
    ];
    this.core = new AttentionCore({ heads, kvHeads, ...k, ...v, window: 0, scale }, c);
  }

  /** Something of it trains, so that its backward reads its input. */
  get trains(): boolean {
    return this.q.trains || this.k.trains || this.v.trains || this.o.trains;
  }

  forward(run: Run, xn: Tensor, y: Tensor): void {
    const q = this.q.forward(run, xn);
    const k = this.k.forward(run, xn);
    const v = this.v.forward(run, xn);
    this.rotary.forward(run, q, q, this.heads);
    this.rotary.forward(run, k, k, this.kvHeads);
    this.core.forward(run, { q, k, v, kShared: null });
    this.o.forward(run, run.at(this.core.out), y);
  }

  /** dy: gradient of the projected output. dxn: gradient of the normalised input, overwritten, or null when not wanted. */
  backward(run: Run, dy: Tensor, xn: Tensor, dxn: Tensor | null): void {
    const [dq, dk, dv] = [run.at(this.q.dy), run.at(this.k.dy), run.at(this.v.dy)];
    this.o.backward(run, dy, run.at(this.core.out), run.at(this.core.dout));
    const operands = { q: run.at(this.q.y), k: run.at(this.k.y), v: run.at(this.v.y), kShared: null };
    this.core.backward(run, operands, { q: dq, k: dk, v: dv, kShared: null });
    this.rotary.backward(run, dq, dq, this.heads);
    this.rotary.backward(run, dk, dk, this.kvHeads);
    this.q.backward(run, xn, dxn, false);
    this.k.backward(run, xn, dxn, true);
    this.v.backward(run, xn, dxn, true);
  }
}

/** x → linear → norm → clip: each step that is there has its own slot. */
class Projection {
  readonly y: Slot;
  /** Gradient of y, overwritten on the way back. */
  readonly dy: Slot;
  private readonly linear: Linear;
  private readonly norm: Norm | null;
  private readonly clip: number | null;
  /** Output of the linear layer and of the norm, where another step follows. */
  private readonly projected: Slot;
  private readonly normed: Slot;

  constructor(spec: LinearSpec, norm: NormSpec | null, clip: number | undefined, c: Composer) {
    this.linear = new Linear(spec, c);
    this.norm = norm ? new Norm(norm, c) : null;
    this.clip = clip ?? null;
    const { plan } = c;
    this.y = plan.kept(act(spec.out), "y");
    this.normed = this.clip === null ? this.y : plan.kept(act(spec.out), "wide");
    this.projected = this.norm ? plan.kept(act(spec.out), "pre") : this.normed;
    this.dy = plan.backward(act(spec.out), "dy");
  }

  get trains(): boolean {
    return this.linear.trains || (this.norm?.trains ?? false);
  }

  forward(run: Run, x: Tensor): Tensor {
    const [projected, normed, y] = [run.at(this.projected), run.at(this.normed), run.at(this.y)];
    this.linear.forward(run, x, projected);
    this.norm?.forward(run, projected, normed);
    if (this.clip !== null) ops.clamp(run.device, { x: normed, y, lo: -this.clip, hi: this.clip });
    return y;
  }

  /** From `dy`; dx (+)= where wanted. */
  backward(run: Run, x: Tensor, dx: Tensor | null, accumulate: boolean): void {
    const d = run.at(this.dy);
    if (this.clip !== null) ops.clampBackward(run.device, { x: run.at(this.normed), dy: d, dx: d, lo: -this.clip, hi: this.clip });
    this.norm?.backward(run, d, run.at(this.projected), d);
    this.linear.backward(run, d, x, dx, accumulate);
  }
}
