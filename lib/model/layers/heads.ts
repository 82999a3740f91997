// Grouped-head attention: projections, then norm of the whole projection or of each head, clipping, rotary embedding, as far as they
// are there; values may come from the projection of the keys. Forward adds nothing to the residual stream itself: it writes the projected output. Backward takes its gradient.

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
import { OutputGate } from "./output_gate.ts";
import type { GateSlots } from "./output_gate.ts";
import { QueryFactor } from "./query_factor.ts";
import { Rotary } from "./rotary.ts";

export class HeadsAttention {
  private readonly q: Projection;
  private readonly k: Projection;
  private readonly v: Projection | null;
  /** Of v, whichever projection makes it. */
  private readonly values: ValueSlots;
  private readonly o: Linear;
  private readonly core: AttentionCore;
  private readonly gate: OutputGate | null;
  private readonly queryFactor: QueryFactor | null;

  constructor(spec: HeadsAttentionSpec, c: Composer) {
    const { heads, kvHeads, headDim, scale, window, clip = null } = spec;
    const rotary = spec.rope ? new Rotary(spec.rope, c) : null;
    const turned = { clip, rotary, rotaryFirst: spec.norms === "after rotation" };
    const gated = spec.outputGate === "with q";
    this.q = new Projection(spec.q, heads, { ...turned, norm: spec.qNorm ?? null, gated }, c.named("q"));
    const vNorm = spec.vNorm ?? null;
    const beside = spec.v === "with k" ? vNorm : null;
    this.k = new Projection(spec.k, kvHeads, { ...turned, norm: spec.kNorm ?? null, beside }, c.named("k"));
    this.v =
      spec.v === "with k" ? null : new Projection(spec.v, kvHeads, { norm: vNorm, clip, rotary: null, rotaryFirst: false }, c.named("v"));
    this.values = this.v ?? this.k.beside!;
    this.o = new Linear(spec.o, c.named("o"));
    const [k, v] = [
      { kDim: headDim, kOffset: 0, kStride: headDim },
      { vDim: headDim, vOffset: 0, vStride: headDim },
    ];
    this.core = new AttentionCore({ heads, kvHeads, ...k, ...v, window, scale }, c, spec);
    const gate = spec.outputGate === "with q" ? this.q.gate : spec.outputGate;
    this.gate = gate ? new OutputGate(gate, this.core, c.named("gate")) : null;
    this.queryFactor = spec.queryFactor ? new QueryFactor(spec.queryFactor, c) : null;
  }

  /** Something of it trains, so that its backward reads its input. */
  get trains(): boolean {
    return [this.q, this.k, this.v, this.o, this.core, this.gate].some((part) => part?.trains);
  }

  forward(run: Run, xn: Tensor, y: Tensor, residual: Tensor | null = null): boolean {
    const q = this.q.forward(run, xn);
    const k = this.k.forward(run, xn);
    this.v?.forward(run, xn);
    const v = run.at(this.values.y);
    this.queryFactor?.apply(run, q);
    this.core.forward(run, { q, k, v, kShared: null });
    return this.o.forward(run, this.gate?.forward(run, xn) ?? run.at(this.core.out), y, residual);
  }

  /** dy: gradient of the projected output. dxn: gradient of the normalised input, overwritten, or null when not wanted. */
  backward(run: Run, dy: Tensor, xn: Tensor, dxn: Tensor | null): void {
    const [dq, dk, dv] = [run.at(this.q.dy), run.at(this.k.dy), run.at(this.values.dy)];
    const { x, dx } = this.gate?.operands(run) ?? { x: run.at(this.core.out), dx: run.at(this.core.dout) };
    this.o.backward(run, dy, x, dx);
    this.gate?.split(run);
    const operands = { q: run.at(this.q.y), k: run.at(this.k.y), v: run.at(this.values.y), kShared: null };
    this.core.backward(run, operands, { q: dq, k: dk, v: dv, kShared: null });
    this.queryFactor?.apply(run, dq);
    this.q.backward(run, xn, dxn, false);
    this.k.backward(run, xn, dxn, true);
    this.v?.backward(run, xn, dxn, true);
    this.gate?.backward(run, xn, dxn);
  }
}

interface Steps {
  /** Of the whole projection, or of each head: its size says. */
  readonly norm: NormSpec | null;
  readonly clip: number | null;
  readonly rotary: Rotary | null;
  /** The norm comes after the rotation. */
  readonly rotaryFirst: boolean;
  /** The rows of each head are followed by as many of a gate; each head is normalised on its own. */
  readonly gated?: boolean;
  /** The norm of what is made beside y from the linear layer's output: values with keys. That output must not be y itself. */
  readonly beside?: NormSpec | null;
}

interface ValueSlots {
  readonly y: Slot;
  readonly dy: Slot;
}

/** Values from the linear layer of the keys: their norm of its output. */
class ValuesBeside implements ValueSlots {
  readonly y: Slot;
  readonly dy: Slot;
  private readonly norm: Norm;
  private readonly rows: { readonly projected: Slot; readonly y: Slot; readonly dy: Slot; readonly dProjected: Slot };

  constructor(spec: NormSpec, width: number, keys: { readonly projected: Slot; readonly dProjected: Slot }, c: Composer) {
    const { plan } = c;
    const n = width / spec.size;
    this.norm = new Norm(spec, c, n);
    this.y = plan.kept(act(width), "y");
    this.dy = plan.backward(act(width), "dy");
    const rows = (slot: Slot): Slot => (n === 1 ? slot : plan.rows(slot, n));
    this.rows = { projected: rows(keys.projected), y: rows(this.y), dy: rows(this.dy), dProjected: rows(keys.dProjected) };
  }

  get trains(): boolean {
    return this.norm.trains;
  }
  forward(run: Run): void {
    this.norm.forward(run, run.at(this.rows.projected), run.at(this.rows.y));
  }
  /** Adds to the gradient of the linear layer's output. */
  backward(run: Run): void {
    this.norm.backward(run, run.at(this.rows.dy), run.at(this.rows.projected), run.at(this.rows.dProjected), true);
  }
}

/** x → linear → norm → clip → rotation, or x → linear → rotation → norm → clip: a step that needs its input again keeps it. */
class Projection {
  readonly y: Slot;
  /** Gradient of y, overwritten on the way back. */
  readonly dy: Slot;
  private readonly heads: number;
  /** What the linear layer makes beside it, where it does. */
  readonly gate: GateSlots | null;
  readonly beside: ValuesBeside | null;
  private readonly linear: Linear;
  private readonly norm: Norm | null;
  private readonly steps: Steps;
  /** Output of the linear layer and of the norm, where another step follows; gradient of the first. */
  private readonly projected: Slot;
  private readonly normed: Slot;
  private readonly dProjected: Slot;
  /** The same and dy, in rows that are normalised on their own. */
  private readonly rows: { readonly projected: Slot; readonly normed: Slot; readonly d: Slot; readonly dProjected: Slot };

  constructor(spec: LinearSpec, heads: number, steps: Steps, c: Composer) {
    const { plan } = c;
    const { norm, clip } = steps;
    const width = steps.gated ? spec.out / 2 : spec.out;
    const rowsPerToken = norm ? width / norm.size : 1;
    this.heads = heads;
    this.steps = steps;
    this.linear = new Linear(spec, c);
    this.norm = norm ? new Norm(norm, c, rowsPerToken) : null;
    this.y = plan.kept(act(width), "y");
    this.normed = clip === null ? this.y : plan.kept(act(width), "wide");
    this.projected = norm ? plan.kept(act(spec.out), "pre") : this.normed;
    this.dy = plan.backward(act(width), "dy");
    const rows = (slot: Slot): Slot => (rowsPerToken === 1 ? slot : plan.rows(slot, rowsPerToken));
    this.rows = { projected: rows(this.projected), normed: rows(this.normed), d: rows(this.dy), dProjected: rows(this.dy) };
    this.gate = null;
    this.dProjected = this.dy;
    this.beside = steps.beside
      ? new ValuesBeside(steps.beside, width, { projected: this.projected, dProjected: this.dProjected }, c.named("values"))
      : null;
    if (!steps.gated) return;
    this.dProjected = plan.backward(act(spec.out), "dPre");
    const halves = (slot: Slot) => {
      const each = rows(slot);
      return { own: plan.columns(each, 0, width / heads), gate: plan.columns(each, width / heads, (2 * width) / heads) };
    };
    const [forward, backward] = [halves(this.projected), halves(this.dProjected)];
    this.rows = { ...this.rows, projected: forward.own, dProjected: backward.own };
    this.gate = { heads, g: forward.gate, dg: backward.gate };
  }

  get trains(): boolean {
    return [this.linear, this.norm, this.beside].some((part) => part?.trains);
  }

  forward(run: Run, x: Tensor): Tensor {
    const { clip, rotary, rotaryFirst } = this.steps;
    const [projected, y] = [run.at(this.projected), run.at(this.y)];
    this.linear.forward(run, x, projected);
    this.beside?.forward(run);
    if (rotaryFirst) rotary?.forward(run, projected, projected, this.heads);
    this.norm?.forward(run, run.at(this.rows.projected), run.at(this.rows.normed));
    if (clip !== null) ops.clamp(run.device, { x: run.at(this.normed), y, lo: -clip, hi: clip });
    if (!rotaryFirst) rotary?.forward(run, y, y, this.heads);
    return y;
  }

  /** From `dy`; dx (+)= where wanted. */
  backward(run: Run, x: Tensor, dx: Tensor | null, accumulate: boolean): void {
    const { clip, rotary, rotaryFirst } = this.steps;
    const d = run.at(this.dy);
    if (!rotaryFirst) rotary?.backward(run, d, d, this.heads);
    if (clip !== null) ops.clampBackward(run.device, { x: run.at(this.normed), dy: d, dx: d, lo: -clip, hi: clip });
    const rows = run.at(this.rows.d);
    const dProjected = run.at(this.dProjected);
    this.norm?.backward(run, rows, run.at(this.rows.projected), run.at(this.rows.dProjected));
    if (rotaryFirst) rotary?.backward(run, dProjected, dProjected, this.heads);
    this.beside?.backward(run);
    this.linear.backward(run, dProjected, x, dx, accumulate);
  }
}
