// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values from a normalised low-rank latent, one rotary
// key shared by all heads, queries direct or low-rank. k and v stay interleaved in one buffer, as the projection makes them.

import * as ops from "../../ops.ts";
import type { AttentionLayout } from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import { act, f32, linearBackward, linearForward, normBackward, normForward } from "./layer.ts";
import type { RunContext } from "./layer.ts";
import type { RopeTable } from "./rope_table.ts";
import type { SlotTable, Slots } from "../slots.ts";
import type { LatentAttentionSpec } from "../spec.ts";

export class LatentAttention {
  readonly spec: LatentAttentionSpec;
  readonly slots: SlotTable;
  readonly saved: ReadonlySet<string>;
  readonly backwardSlots: SlotTable;
  private readonly layout: AttentionLayout;

  constructor(spec: LatentAttentionSpec) {
    this.spec = spec;
    const { heads, nopeDim, ropeDim, vDim, kvRank } = spec;
    const Q = heads * (nopeDim + ropeDim);
    const KV = heads * (nopeDim + vDim);
    this.slots = {
      q: act(Q),
      compressed: act(kvRank + ropeDim), // latent before its norm | rotary key before rotation
      latent: act(kvRank),
      latentRstd: f32(0),
      kRope: act(ropeDim),
      kv: act(KV),
      out: act(heads * vDim),
      lse: f32(heads),
      ...("a" in spec.q ? { qLow: act(spec.q.a.out), qLowRstd: f32(0), qNormed: act(spec.q.a.out) } : {}),
    };
    this.saved = new Set(Object.keys(this.slots));
    this.backwardSlots = {
      dAttention: act(heads * vDim),
      dq: act(Q),
      dkv: act(KV),
      dkRope: act(ropeDim),
      dLatent: act(kvRank),
      dCompressed: act(kvRank + ropeDim),
      ...("a" in spec.q ? { dqLow: act(spec.q.a.out) } : {}),
    };
    this.layout = {
      heads,
      kvHeads: heads,
      kDim: nopeDim,
      kOffset: 0,
      kStride: nopeDim + vDim,
      vDim,
      vOffset: nopeDim,
      vStride: nopeDim + vDim,
      window: 0,
      scale: spec.scale,
    };
  }

  forward(run: RunContext, rope: RopeTable, xn: Tensor, s: Slots, y: Tensor): void {
    const { spec } = this;
    const { device } = run;
    const { positions, docStart } = run.batch;
    const { cos, sin } = rope;
    const { interleaved } = spec.rope;
    const q = s["q"]!;
    if ("a" in spec.q) {
      linearForward(run, spec.q.a, xn, s["qLow"]!);
      normForward(run, spec.q.norm, s["qLow"]!, s["qNormed"]!, s["qLowRstd"]!);
      linearForward(run, spec.q.b, s["qNormed"]!, q);
    } else linearForward(run, spec.q, xn, q);
    ops.rope(device, { x: q, positions, cos, sin, y: q, heads: spec.heads, offset: spec.nopeDim, interleaved });

    const compressed = s["compressed"]!;
    linearForward(run, spec.kvA, xn, compressed);
    normForward(run, spec.kvNorm, compressed.columns(0, spec.kvRank), s["latent"]!, s["latentRstd"]!);
    ops.rope(device, {
      x: compressed.columns(spec.kvRank, spec.kvRank + spec.ropeDim),
      positions,
      cos,
      sin,
      y: s["kRope"]!,
      heads: 1,
      interleaved,
    });
    const kv = s["kv"]!;
    linearForward(run, spec.kvB, s["latent"]!, kv);
    ops.attention(device, {
      q,
      k: kv,
      v: kv,
      kShared: s["kRope"]!,
      docStart,
      out: s["out"]!,
      lse: run.keep ? s["lse"]! : null,
      layout: this.layout,
      precision: run.precision,
    });
    linearForward(run, spec.o, s["out"]!, y);
  }

  trains(run: Pick<RunContext, "params">): boolean {
    const { spec } = this;
    const q = "a" in spec.q ? [spec.q.a, spec.q.b] : [spec.q];
    return (
      [...q, spec.kvA, spec.kvB, spec.o].some((l) => run.params.trains(l.weight) || run.params.trains(l.bias)) ||
      run.params.trains(spec.kvNorm.weight) ||
      ("a" in spec.q && run.params.trains(spec.q.norm.weight))
    );
  }

  backward(run: RunContext, rope: RopeTable, dy: Tensor, xn: Tensor, s: Slots, b: Slots, dxn: Tensor | null): void {
    const { spec } = this;
    const { device } = run;
    const { positions, docStart } = run.batch;
    const { cos, sin } = rope;
    const { interleaved } = spec.rope;
    const [dq, dkv, dkRope, dCompressed] = [b["dq"]!, b["dkv"]!, b["dkRope"]!, b["dCompressed"]!];
    linearBackward(run, spec.o, dy, s["out"]!, b["dAttention"]!);
    ops.attentionBackward(device, {
      dout: b["dAttention"]!,
      q: s["q"]!,
      k: s["kv"]!,
      v: s["kv"]!,
      kShared: s["kRope"]!,
      docStart,
      out: s["out"]!,
      lse: s["lse"]!,
      dq,
      dk: dkv,
      dv: dkv,
      dkShared: dkRope,
      layout: this.layout,
      precision: run.precision,
    });
    ops.rope(device, { x: dq, positions, cos, sin, y: dq, heads: spec.heads, offset: spec.nopeDim, interleaved, inverse: true });
    if ("a" in spec.q) {
      linearBackward(run, spec.q.b, dq, s["qNormed"]!, b["dqLow"]!);
      normBackward(run, spec.q.norm, b["dqLow"]!, s["qLow"]!, s["qLowRstd"]!, b["dqLow"]!, false);
      linearBackward(run, spec.q.a, b["dqLow"]!, xn, dxn);
    } else linearBackward(run, spec.q, dq, xn, dxn);

    linearBackward(run, spec.kvB, dkv, s["latent"]!, b["dLatent"]!);
    const compressed = s["compressed"]!;
    normBackward(
      run,
      spec.kvNorm,
      b["dLatent"]!,
      compressed.columns(0, spec.kvRank),
      s["latentRstd"]!,
      dCompressed.columns(0, spec.kvRank),
      false,
    );
    ops.rope(device, {
      x: dkRope,
      positions,
      cos,
      sin,
      y: dCompressed.columns(spec.kvRank, spec.kvRank + spec.ropeDim),
      heads: 1,
      interleaved,
      inverse: true,
    });
    linearBackward(run, spec.kvA, dCompressed, xn, dxn, true);
  }
}
