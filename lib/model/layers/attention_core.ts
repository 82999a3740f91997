// softmax(q·kᵀ)·v over the documents of a batch: what grouped-head and latent attention have in common. Scores are recomputed in
// backward from the kept logsumexp.

import * as ops from "../../ops.ts";
import type { AttentionLayout } from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { RopeHandle } from "../rope_table.ts";
import type { Run } from "../run.ts";
import { act, f32 } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { HeadsAttentionSpec } from "../spec.ts";
import type { StateHandle } from "../states.ts";
import type { Parameter } from "../weights/parameter.ts";
import type { Composer } from "./composer.ts";

/** Operands as they lie; keys and values may share one buffer (the layout says where each begins). */
export interface AttentionOperands {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  /** One rotary key for all heads [T, ropeDim], or null. */
  readonly kShared: Tensor | null;
}

interface CoreOptions {
  readonly shared?: number;
  readonly keeps?: boolean;
}

export class AttentionCore {
  readonly out: Slot;
  readonly dout: Slot;
  private readonly lse: Slot;
  private readonly layout: AttentionLayout;
  private readonly sinks: Parameter | null;
  private readonly chunk: RopeHandle | null;
  private readonly chunkSize: number;
  private readonly kept: { readonly keys: StateHandle; readonly values: StateHandle } | null;

  /** @param options shared: width of the part of a key that all heads have in common; keeps: keys and values of decoded sequences */
  constructor(
    layout: AttentionLayout,
    c: Composer,
    { sinks, chunk, shared = 0, keeps = true }: Pick<HeadsAttentionSpec, "sinks" | "chunk"> & CoreOptions = {},
  ) {
    this.layout = layout;
    this.sinks = sinks ? c.parameter(sinks) : null;
    this.chunk = chunk === undefined ? null : c.chunk(chunk);
    this.chunkSize = chunk ?? 0;
    const limits = [layout.window, this.chunkSize].filter((n) => n > 0);
    const reach = limits.length > 0 ? Math.min(...limits) : null;
    this.kept = keeps
      ? {
          keys: c.state({ kind: "rows", width: layout.kvHeads * layout.kDim + shared, reach }),
          values: c.state({ kind: "rows", width: layout.kvHeads * layout.vDim, reach }),
        }
      : null;
    this.out = c.plan.kept(act(layout.heads * layout.vDim), "out");
    this.lse = c.plan.saved(f32(layout.heads), "lse");
    this.dout = c.plan.backward(act(layout.heads * layout.vDim), "dout");
  }

  get trains(): boolean {
    return this.sinks?.trains ?? false;
  }

  forward(run: Run, operands: AttentionOperands): void {
    const fresh = run.continued?.fresh ?? true;
    if (this.kept && run.continued)
      ops.attentionCached(run.device, {
        ...operands,
        sinks: this.sinks?.value,
        docStart: run.batch.docStart,
        positions: run.batch.positions,
        kCache: run.keptBy(this.kept.keys),
        vCache: run.keptBy(this.kept.values),
        out: fresh ? null : run.at(this.out),
        chunk: this.chunkSize,
        layout: this.layout,
        precision: run.precision,
      });
    if (fresh) this.whole(run, operands);
  }

  /** Of documents that begin here. */
  private whole(run: Run, { q, k, v, kShared }: AttentionOperands): void {
    ops.attention(run.device, {
      q,
      k,
      v,
      kShared,
      sinks: this.sinks?.value,
      docStart: run.firstKeys(this.chunk),
      out: run.at(this.out),
      lse: run.saved(this.lse),
      layout: this.layout,
      precision: run.precision,
    });
  }

  /** Gradients of the operands from `dout`, overwritten. */
  backward(run: Run, { q, k, v, kShared }: AttentionOperands, d: AttentionOperands): void {
    ops.attentionBackward(run.device, {
      dout: run.at(this.dout),
      q,
      k,
      v,
      kShared,
      sinks: this.sinks?.value,
      docStart: run.firstKeys(this.chunk),
      out: run.at(this.out),
      lse: run.at(this.lse),
      dq: d.q,
      dk: d.k,
      dv: d.v,
      dkShared: d.kShared,
      dsinks: run.addable(this.sinks?.grad),
      layout: this.layout,
      precision: run.precision,
    });
  }
}
