// Gated DeltaNet (arXiv 2412.06464) in the place of attention: projections, short convolution over q, k and v, gated delta rule, norm of
// each head gated by SiLU(z), projection. Both layouts of the projections end as [q | k | v | z] and [b | a]; what lies grouped by key
// head in the checkpoint is laid out anew, its gradient back.

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act, f32 } from "../slots.ts";
import type { Planner, Slot } from "../slots.ts";
import type { DeltaAttentionSpec, LinearSpec } from "../spec.ts";
import type { StateHandle } from "../states.ts";
import type { Parameter } from "../weights/parameter.ts";
import type { Composer } from "./composer.ts";
import { Conv } from "./conv.ts";
import { Linear } from "./linear.ts";
import { Norm } from "./norm.ts";

export class DeltaAttention {
  private readonly spec: DeltaAttentionSpec;
  private readonly wide: Parts;
  private readonly narrow: Parts;
  private readonly conv: Conv;
  private readonly aLog: Parameter;
  private readonly dtBias: Parameter;
  private readonly norm: Norm;
  private readonly o: Linear;
  private readonly kept: StateHandle;
  private readonly slots: ReturnType<typeof slotsOf>;

  constructor(spec: DeltaAttentionSpec, c: Composer) {
    this.spec = spec;
    const { keyHeads, heads, keyDim, valueDim, projections: p } = spec;
    const group = heads / keyHeads;
    const widths = [keyDim, keyDim, group * valueDim, group * valueDim];
    this.wide =
      "qkvz" in p ? new GroupedParts(p.qkvz, keyHeads, widths, c.named("qkvz")) : new SeparateParts([p.qkv, p.z], c.named("qkvz"));
    this.narrow =
      "ba" in p ? new GroupedParts(p.ba, keyHeads, [group, group], c.named("ba")) : new SeparateParts([p.b, p.a], c.named("ba"));
    this.conv = new Conv(spec.conv, c, { silu: true });
    this.aLog = c.parameter(spec.aLog);
    this.dtBias = c.parameter(spec.dtBias);
    this.norm = new Norm(spec.norm, c.named("norm"), heads);
    this.o = new Linear(spec.o, c.named("o"));
    this.kept = c.state({ kind: "matrix", rows: heads * keyDim, cols: valueDim });
    this.slots = slotsOf(c.plan, spec, this.wide, this.narrow);
  }

  get trains(): boolean {
    const { wide, narrow, conv, aLog, dtBias, norm, o } = this;
    return [wide, narrow, conv, aLog, dtBias, norm, o].some((part) => part.trains);
  }

  forward(run: Run, xn: Tensor, y: Tensor, residual: Tensor | null = null): boolean {
    const { device } = run;
    const { qkv, z, b, a, beta, g, q, k, v, mixed, out, normed, gated } = this.slots;
    this.wide.forward(run, xn);
    this.narrow.forward(run, xn);
    this.conv.forward(run, run.at(qkv), run.at(mixed));
    const gates = { beta: run.at(beta), g: run.at(g) };
    ops.deltaGates(device, { b: run.at(b), a: run.at(a), aLog: this.aLog.value, dtBias: this.dtBias.value, ...gates });
    const heads = { q: run.at(q), k: run.at(k), v: run.at(v) };
    ops.gatedDeltaRule(device, { ...heads, ...gates, ...this.rule(run), states: run.state(this.kept), o: run.at(out.whole) });
    this.norm.forward(run, run.at(out.heads), run.at(normed.heads));
    ops.multiply(device, { a: run.at(normed.whole), b: run.at(z), y: run.at(gated), silu: true });
    return this.o.forward(run, run.at(gated), y, residual);
  }

  /** dy: gradient of the projected output. dxn: gradient of the normalised input, overwritten, or null when not wanted. */
  backward(run: Run, dy: Tensor, xn: Tensor, dxn: Tensor | null): void {
    const { device } = run;
    const { qkv, z, b, a, beta, g, q, k, v, out, normed, gated, d } = this.slots;
    const [dOut, dGated] = [run.at(d.out.whole), run.at(d.gated)];
    this.o.backward(run, dy, run.at(gated), dGated);
    ops.multiplyBackward(device, { dy: dGated, a: run.at(normed.whole), b: run.at(z), da: dOut, db: run.at(d.z), silu: true });
    this.norm.backward(run, run.at(d.out.heads), run.at(out.heads), run.at(d.out.heads));
    const dGates = { dbeta: run.at(d.beta), dg: run.at(d.g) };
    ops.gatedDeltaRuleBackward(device, {
      dout: dOut,
      q: run.at(q),
      k: run.at(k),
      v: run.at(v),
      beta: run.at(beta),
      g: run.at(g),
      ...this.rule(run),
      dq: run.at(d.q),
      dk: run.at(d.k),
      dv: run.at(d.v),
      ...dGates,
    });
    ops.deltaGatesBackward(device, {
      ...dGates,
      b: run.at(b),
      a: run.at(a),
      aLog: this.aLog.value,
      dtBias: this.dtBias.value,
      db: run.at(d.b),
      da: run.at(d.a),
      daLog: run.addable(this.aLog.grad),
      ddtBias: run.addable(this.dtBias.grad),
    });
    this.conv.backward(run, run.at(d.mixed), run.at(qkv), run.at(d.qkv));
    this.wide.backward(run, xn, dxn, false);
    this.narrow.backward(run, xn, dxn, true);
  }

  private rule(run: Run) {
    const { keyHeads, heads, unitEps } = this.spec;
    return { docStart: run.batch.docStart, keyHeads, heads, eps: unitEps };
  }
}

function slotsOf(plan: Planner, spec: DeltaAttentionSpec, wide: Parts, narrow: Parts) {
  const { heads, valueDim, keyHeads, keyDim } = spec;
  const [K, V] = [keyHeads * keyDim, heads * valueDim];
  const byHead = (whole: Slot) => ({ whole, heads: plan.rows(whole, heads) });
  const qkvOf = (whole: Slot) => ({
    q: plan.columns(whole, 0, K),
    k: plan.columns(whole, K, 2 * K),
    v: plan.columns(whole, 2 * K, 2 * K + V),
  });
  const inputs = (w: Slot, n: Slot) => ({
    qkv: plan.columns(w, 0, 2 * K + V),
    z: plan.columns(w, 2 * K + V, 2 * K + 2 * V),
    b: plan.columns(n, 0, heads),
    a: plan.columns(n, heads, 2 * heads),
  });
  const mixed = plan.kept(act(2 * K + V), "mixed");
  const dMixed = plan.backward(act(2 * K + V), "dMixed");
  return {
    ...inputs(wide.y, narrow.y),
    beta: plan.kept(f32(heads), "beta"),
    g: plan.kept(f32(heads), "g"),
    mixed,
    ...qkvOf(mixed),
    out: byHead(plan.kept(act(V), "out")),
    normed: byHead(plan.kept(act(V), "normed")),
    gated: plan.kept(act(V), "gated"),
    d: {
      ...inputs(wide.dy, narrow.dy),
      beta: plan.backward(f32(heads), "dbeta"),
      g: plan.backward(f32(heads), "dg"),
      mixed: dMixed,
      ...qkvOf(dMixed),
      out: byHead(plan.backward(act(V), "dOut")),
      gated: plan.backward(act(V), "dGated"),
    },
  };
}

/** A projection into parts that lie side by side. */
interface Parts {
  readonly y: Slot;
  readonly dy: Slot;
  readonly trains: boolean;
  forward(run: Run, x: Tensor): void;
  /** From `dy`; dx (+)= where wanted. */
  backward(run: Run, x: Tensor, dx: Tensor | null, accumulate: boolean): void;
}

/** Each part is a linear layer. */
class SeparateParts implements Parts {
  readonly y: Slot;
  readonly dy: Slot;
  private readonly parts: readonly { readonly linear: Linear; readonly y: Slot; readonly dy: Slot }[];

  constructor(specs: readonly LinearSpec[], c: Composer) {
    const { plan } = c;
    const width = specs.reduce((n, { out }) => n + out, 0);
    this.y = plan.kept(act(width), "y");
    this.dy = plan.backward(act(width), "dy");
    let at = 0;
    this.parts = specs.map((spec, i) => {
      const [from, to] = [at, (at += spec.out)];
      return {
        linear: new Linear(spec, c.named(`${i}`)),
        y: plan.columns(this.y, from, to),
        dy: plan.columns(this.dy, from, to),
      };
    });
  }

  get trains(): boolean {
    return this.parts.some(({ linear }) => linear.trains);
  }
  forward(run: Run, x: Tensor): void {
    for (const { linear, y } of this.parts) linear.forward(run, x, run.at(y));
  }
  backward(run: Run, x: Tensor, dx: Tensor | null, accumulate: boolean): void {
    for (const [i, { linear, dy }] of this.parts.entries()) linear.backward(run, run.at(dy), x, dx, accumulate || i > 0);
  }
}

/** One linear layer whose rows are grouped: the parts of each group side by side. */
class GroupedParts implements Parts {
  readonly y: Slot;
  readonly dy: Slot;
  private readonly linear: Linear;
  private readonly layout: { readonly widths: readonly number[]; readonly groups: number };
  private readonly projected: Slot;
  private readonly dProjected: Slot;

  constructor(spec: LinearSpec, groups: number, widths: readonly number[], c: Composer) {
    this.linear = new Linear(spec, c);
    this.layout = { widths, groups };
    this.projected = c.plan.scratch(act(spec.out), "grouped");
    this.dProjected = c.plan.backward(act(spec.out), "dGrouped");
    this.y = c.plan.kept(act(spec.out), "y");
    this.dy = c.plan.backward(act(spec.out), "dy");
  }

  get trains(): boolean {
    return this.linear.trains;
  }
  forward(run: Run, x: Tensor): void {
    this.linear.forward(run, x, run.at(this.projected));
    ops.regroup(run.device, { x: run.at(this.projected), y: run.at(this.y), ...this.layout });
  }
  backward(run: Run, x: Tensor, dx: Tensor | null, accumulate: boolean): void {
    ops.regroup(run.device, { x: run.at(this.dy), y: run.at(this.dProjected), ...this.layout, inverse: true });
    this.linear.backward(run, run.at(this.dProjected), x, dx, accumulate);
  }
}
