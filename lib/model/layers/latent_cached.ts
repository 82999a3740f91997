// Latent attention over what a sequence has kept: per token the normalised latent and the rotary key that all heads share, never keys and
// values of heads (DeepSeek-V2, arXiv 2405.04434, section 2.1.2). The up-projection is taken into the queries and the output:
// q_h·k = q_h·(W_k·c) = (q_h·W_k)·c, and Σ p·v = W_v·Σ p·c, so that latents c are keys and values at once, of one head for all.
// Of the projection's value as it is in that pass: whatever trains it or stands in for it.

import * as ops from "../../ops.ts";
import type { AttentionLayout } from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Slot } from "../slots.ts";
import type { LatentAttentionSpec } from "../spec.ts";
import type { StateHandle } from "../states.ts";
import type { Parameter } from "../weights/parameter.ts";
import type { Composer } from "./composer.ts";
import type { Linear } from "./linear.ts";

/** What a pass makes of its tokens, whichever way they are attended: normalised latents [T, kvRank] and rotated keys [T, ropeDim]. */
export interface LatentKeys {
  readonly latent: Tensor;
  readonly kRope: Tensor;
}

/** The projection is its weight and no more. Terms of a method beside it are functions of tokens' latents, which are not at hand here. */
export const absorbs = (kvB: Linear): boolean => kvB.attached.length === 0 && kvB.bias === null;

export class LatentCached {
  private readonly spec: LatentAttentionSpec;
  private readonly up: Parameter;
  private readonly kept: StateHandle;
  private readonly layout: AttentionLayout;
  private readonly slots: ReturnType<typeof slotsOf>;

  /** @param q the queries [T, heads·(nopeDim + ropeDim)], whose rotary part is copied as it is */
  constructor(spec: LatentAttentionSpec, q: Slot, kvB: Linear, c: Composer) {
    const { heads, kvRank, ropeDim, scale } = spec;
    this.spec = spec;
    this.up = kvB.weight;
    this.kept = c.state({ kind: "rows", width: kvRank + ropeDim, reach: null });
    const part = { kDim: kvRank, kOffset: 0, kStride: kvRank, vDim: kvRank, vOffset: 0, vStride: kvRank };
    this.layout = { heads, kvHeads: 1, ...part, window: 0, scale };
    this.slots = slotsOf(c, spec, q);
  }

  /** Keeps the tokens of a pass that attends them by itself. */
  store(run: Run, keys: LatentKeys): void {
    this.attend(run, keys, null);
  }

  /** out [T, heads·vDim] of the queries q over all that was kept and the new tokens, which are kept. */
  forward(run: Run, q: Tensor, keys: LatentKeys, out: Tensor): void {
    const { heads, nopeDim, vDim } = this.spec;
    const [{ device, precision }, { slots }] = [run, this];
    const common = { w: this.up.value, heads, precision };
    const latentOut = run.at(slots.out);
    ops.headsGemm(device, { ...common, mode: "nn", x: q, y: run.at(slots.q), firstRow: 0, headRows: nopeDim });
    ops.cast(device, { x: run.at(slots.rotary.from), y: run.at(slots.rotary.to) });
    this.attend(run, keys, latentOut);
    ops.headsGemm(device, { ...common, mode: "nt", x: latentOut, y: out, firstRow: nopeDim, headRows: vDim });
  }

  private attend(run: Run, { latent, kRope }: LatentKeys, out: Tensor | null): void {
    const { docStart, positions } = run.batch;
    ops.attentionCached(run.device, {
      q: run.at(this.slots.q),
      k: latent,
      v: null,
      kShared: kRope,
      docStart,
      positions,
      kCache: run.keptBy(this.kept),
      vCache: null,
      out,
      chunk: 0,
      layout: this.layout,
      precision: run.precision,
    });
  }
}

function slotsOf({ plan }: Composer, { heads, nopeDim, ropeDim, kvRank }: LatentAttentionSpec, q: Slot) {
  const absorbed = plan.decoding(act(heads * (kvRank + ropeDim)), "qLatent");
  return {
    q: absorbed,
    /** The rotary columns of every head, in the queries and behind the absorbed part. */
    rotary: {
      from: plan.columns(plan.rows(q, heads), nopeDim, nopeDim + ropeDim),
      to: plan.columns(plan.rows(absorbed, heads), kvRank, kvRank + ropeDim),
    },
    /** Σ p·c of every head. */
    out: plan.decoding(act(heads * kvRank), "latentOut"),
  };
}
