// Grouped-head attention: projections, optional norm over the whole projection, optional clipping, rotary embedding.
// Forward adds nothing to the residual stream itself: it writes the projected output. Backward takes its gradient.

import * as ops from "../../ops.ts";
import type { AttentionLayout } from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import { act, f32, linearBackward, linearForward, normBackward, normForward } from "./layer.ts";
import type { RunContext } from "./layer.ts";
import type { RopeTable } from "./rope_table.ts";
import type { SlotTable, Slots } from "../slots.ts";
import type { HeadsAttentionSpec } from "../spec.ts";

export class HeadsAttention {
  readonly spec: HeadsAttentionSpec;
  readonly slots: SlotTable;
  readonly saved: ReadonlySet<string>;
  readonly backwardSlots: SlotTable;
  private readonly layout: AttentionLayout;

  constructor(spec: HeadsAttentionSpec) {
    this.spec = spec;
    const { heads, kvHeads, headDim } = spec;
    const Q = heads * headDim;
    const KV = kvHeads * headDim;
    const slots: Record<string, ReturnType<typeof act>> = { q: act(Q), k: act(KV), v: act(KV), out: act(Q), lse: f32(heads) };
    if (spec.qNorm) Object.assign(slots, { qPre: act(Q), qRstd: f32(0) });
    if (spec.kNorm) Object.assign(slots, { kPre: act(KV), kRstd: f32(0) });
    if (spec.clip !== undefined) Object.assign(slots, { qWide: act(Q), kWide: act(KV), vWide: act(KV) });
    this.slots = slots;
    this.saved = new Set(Object.keys(slots));
    this.backwardSlots = { dAttention: act(Q), dq: act(Q), dk: act(KV), dv: act(KV) };
    this.layout = {
      heads,
      kvHeads,
      kDim: headDim,
      kOffset: 0,
      kStride: headDim,
      vDim: headDim,
      vOffset: 0,
      vStride: headDim,
      window: 0,
      scale: spec.scale,
    };
  }

  forward(run: RunContext, rope: RopeTable, xn: Tensor, s: Slots, y: Tensor): void {
    const { spec } = this;
    const { device } = run;
    const clip = spec.clip;
    const project = (name: "q" | "k" | "v"): Tensor => {
      const norm = name === "q" ? spec.qNorm : name === "k" ? spec.kNorm : undefined;
      const last = clip === undefined ? s[name]! : s[`${name}Wide`]!;
      if (norm) {
        linearForward(run, spec[name], xn, s[`${name}Pre`]!);
        normForward(run, norm, s[`${name}Pre`]!, last, s[`${name}Rstd`]!);
      } else linearForward(run, spec[name], xn, last);
      if (clip !== undefined) ops.clamp(device, { x: last, y: s[name]!, lo: -clip, hi: clip });
      return s[name]!;
    };
    const q = project("q");
    const k = project("k");
    const v = project("v");
    const { positions } = run.batch;
    const { cos, sin } = rope;
    const { interleaved } = spec.rope;
    ops.rope(device, { x: q, positions, cos, sin, y: q, heads: spec.heads, interleaved });
    ops.rope(device, { x: k, positions, cos, sin, y: k, heads: spec.kvHeads, interleaved });
    ops.attention(device, {
      q,
      k,
      v,
      docStart: run.batch.docStart,
      out: s["out"]!,
      lse: run.keep ? s["lse"]! : null,
      layout: this.layout,
      precision: run.precision,
    });
    linearForward(run, spec.o, s["out"]!, y);
  }

  /** True when a weight of this attention trains. */
  trains(run: Pick<RunContext, "params">): boolean {
    const { spec } = this;
    return (
      [spec.q, spec.k, spec.v, spec.o].some((l) => run.params.trains(l.weight) || run.params.trains(l.bias)) ||
      run.params.trains(spec.qNorm?.weight) ||
      run.params.trains(spec.kNorm?.weight)
    );
  }

  /** dy: gradient of the projected output. dxn: gradient of the normalised input, overwritten, or null when not wanted. */
  backward(run: RunContext, rope: RopeTable, dy: Tensor, xn: Tensor, s: Slots, b: Slots, dxn: Tensor | null): void {
    const { spec } = this;
    const { device } = run;
    const { positions, docStart } = run.batch;
    const dAttention = b["dAttention"]!;
    linearBackward(run, spec.o, dy, s["out"]!, dAttention);
    const [dq, dk, dv] = [b["dq"]!, b["dk"]!, b["dv"]!];
    ops.attentionBackward(device, {
      dout: dAttention,
      q: s["q"]!,
      k: s["k"]!,
      v: s["v"]!,
      docStart,
      out: s["out"]!,
      lse: s["lse"]!,
      dq,
      dk,
      dv,
      layout: this.layout,
      precision: run.precision,
    });
    const { cos, sin } = rope;
    const { interleaved } = spec.rope;
    ops.rope(device, { x: dq, positions, cos, sin, y: dq, heads: spec.heads, interleaved, inverse: true });
    ops.rope(device, { x: dk, positions, cos, sin, y: dk, heads: spec.kvHeads, interleaved, inverse: true });
    const through = (name: "q" | "k" | "v", d: Tensor, accumulate: boolean): void => {
      const norm = name === "q" ? spec.qNorm : name === "k" ? spec.kNorm : undefined;
      if (spec.clip !== undefined) ops.clampBackward(device, { x: s[`${name}Wide`]!, dy: d, dx: d, lo: -spec.clip, hi: spec.clip });
      if (norm) normBackward(run, norm, d, s[`${name}Pre`]!, s[`${name}Rstd`]!, d, false);
      linearBackward(run, spec[name], d, xn, dxn, accumulate);
    };
    through("q", dq, false);
    through("k", dk, true);
    through("v", dv, true);
  }
}
