// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values from a normalised low-rank latent, one rotary
// key shared by all heads, queries direct or low-rank. k and v stay interleaved in one buffer, as the projection makes them.

import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import { act } from "../slots.ts";
import type { Planner, Slot } from "../slots.ts";
import type { LatentAttentionSpec } from "../spec.ts";
import { AttentionCore } from "./attention_core.ts";
import type { Composer } from "./composer.ts";
import { absorbs, LatentCached } from "./latent_cached.ts";
import type { LatentKeys } from "./latent_cached.ts";
import { Linear } from "./linear.ts";
import { Norm } from "./norm.ts";
import { QueryFactor } from "./query_factor.ts";
import { Rotary } from "./rotary.ts";

export class LatentAttention {
  private readonly spec: LatentAttentionSpec;
  private readonly query: DirectQuery | LowRankQuery;
  private readonly kvA: Linear;
  private readonly kvNorm: Norm;
  private readonly kvB: Linear;
  private readonly o: Linear;
  private readonly rotary: Rotary;
  private readonly core: AttentionCore;
  /** Null: keys and values of heads are kept, as the core does. */
  private readonly cached: LatentCached | null;
  private readonly queryFactor: QueryFactor | null;
  private readonly slots: ReturnType<typeof slotsOf>;

  constructor(spec: LatentAttentionSpec, c: Composer) {
    this.spec = spec;
    const { heads, nopeDim, vDim, scale } = spec;
    this.query = "a" in spec.q ? new LowRankQuery(spec.q, c.named("q")) : new DirectQuery(new Linear(spec.q, c.named("q")), spec.q.out, c);
    this.kvA = new Linear(spec.kvA, c.named("kvA"));
    this.kvNorm = new Norm(spec.kvNorm, c.named("kvNorm"));
    this.kvB = new Linear(spec.kvB, c.named("kvB"));
    this.o = new Linear(spec.o, c.named("o"));
    this.rotary = new Rotary(spec.rope, c);
    this.queryFactor = spec.queryFactor ? new QueryFactor(spec.queryFactor, c) : null;
    this.slots = slotsOf(c.plan, spec);
    const stride = nopeDim + vDim;
    const layout = { heads, kvHeads: heads, kDim: nopeDim, kOffset: 0, kStride: stride, vDim, vOffset: nopeDim, vStride: stride };
    this.cached = absorbs(this.kvB) ? new LatentCached(spec, this.query.q, this.kvB, c.named("cached")) : null;
    this.core = new AttentionCore({ ...layout, window: 0, scale }, c, { shared: spec.ropeDim, keeps: !this.cached });
  }

  get trains(): boolean {
    return this.query.trains || this.kvA.trains || this.kvNorm.trains || this.kvB.trains || this.o.trains;
  }

  forward(run: Run, xn: Tensor, y: Tensor, residual: Tensor | null = null): boolean {
    const { heads, nopeDim } = this.spec;
    const q = this.query.forward(run, xn);
    this.rotary.forward(run, q, q, heads, nopeDim);
    this.queryFactor?.apply(run, q);
    this.kvA.forward(run, xn, run.at(this.slots.compressed.whole));
    this.kvNorm.forward(run, run.at(this.slots.compressed.latent), run.at(this.slots.latent));
    this.rotary.forward(run, run.at(this.slots.compressed.key), run.at(this.slots.kRope), 1);
    this.mix(run, q, { latent: run.at(this.slots.latent), kRope: run.at(this.slots.kRope) });
    return this.o.forward(run, run.at(this.core.out), y, residual);
  }

  /** Attention to `core.out`: over keys and values of the heads where documents begin here, else over the latents that are kept. */
  private mix(run: Run, q: Tensor, keys: LatentKeys): void {
    const { cached } = this;
    if (cached && run.continued && !run.continued.fresh) return cached.forward(run, q, keys, run.at(this.core.out));
    if (cached && run.continued) cached.store(run, keys);
    const kv = run.at(this.slots.kv);
    this.kvB.forward(run, keys.latent, kv);
    this.core.forward(run, { q, k: kv, v: kv, kShared: keys.kRope });
  }

  /** dy: gradient of the projected output. dxn: gradient of the normalised input, overwritten, or null when not wanted. */
  backward(run: Run, dy: Tensor, xn: Tensor, dxn: Tensor | null): void {
    const { heads, nopeDim } = this.spec;
    const [dq, dkv, dkRope, kv] = [run.at(this.query.dq), run.at(this.slots.dkv), run.at(this.slots.dkRope), run.at(this.slots.kv)];
    this.o.backward(run, dy, run.at(this.core.out), run.at(this.core.dout));
    const operands = { q: run.at(this.query.q), k: kv, v: kv, kShared: run.at(this.slots.kRope) };
    this.core.backward(run, operands, { q: dq, k: dkv, v: dkv, kShared: dkRope });
    this.queryFactor?.apply(run, dq);
    this.rotary.backward(run, dq, dq, heads, nopeDim);
    this.query.backward(run, xn, dxn);

    this.kvB.backward(run, dkv, run.at(this.slots.latent), run.at(this.slots.dLatent));
    this.kvNorm.backward(run, run.at(this.slots.dLatent), run.at(this.slots.compressed.latent), run.at(this.slots.dCompressed.latent));
    this.rotary.backward(run, dkRope, run.at(this.slots.dCompressed.key), 1);
    this.kvA.backward(run, run.at(this.slots.dCompressed.whole), xn, dxn, true);
  }
}

function slotsOf(plan: Planner, { heads, nopeDim, ropeDim, vDim, kvRank }: LatentAttentionSpec) {
  /** A matrix slot, and views of its two parts: the latent | the rotary key. */
  const split = (whole: Slot) => ({
    whole,
    latent: plan.columns(whole, 0, kvRank),
    key: plan.columns(whole, kvRank, kvRank + ropeDim),
  });
  return {
    /** Output of kvA: latent before its norm, key before rotation. */
    compressed: split(plan.kept(act(kvRank + ropeDim), "compressed")),
    latent: plan.kept(act(kvRank), "latent"),
    kRope: plan.kept(act(ropeDim), "kRope"),
    kv: plan.kept(act(heads * (nopeDim + vDim)), "kv"),
    dCompressed: split(plan.backward(act(kvRank + ropeDim), "dCompressed")),
    dLatent: plan.backward(act(kvRank), "dLatent"),
    dkRope: plan.backward(act(ropeDim), "dkRope"),
    dkv: plan.backward(act(heads * (nopeDim + vDim)), "dkv"),
  };
}

class DirectQuery {
  readonly q: Slot;
  readonly dq: Slot;
  private readonly linear: Linear;

  constructor(linear: Linear, out: number, c: Composer) {
    this.linear = linear;
    this.q = c.plan.kept(act(out), "q");
    this.dq = c.plan.backward(act(out), "dq");
  }

  get trains(): boolean {
    return this.linear.trains;
  }
  forward(run: Run, x: Tensor): Tensor {
    this.linear.forward(run, x, run.at(this.q));
    return run.at(this.q);
  }
  /** From `dq`; dx is overwritten where wanted. */
  backward(run: Run, x: Tensor, dx: Tensor | null): void {
    this.linear.backward(run, run.at(this.dq), x, dx);
  }
}

/** q = b·norm(a·x). */
class LowRankQuery {
  readonly q: Slot;
  readonly dq: Slot;
  private readonly a: Linear;
  private readonly norm: Norm;
  private readonly b: Linear;
  private readonly low: Slot;
  private readonly normed: Slot;
  private readonly dLow: Slot;

  constructor(spec: Extract<LatentAttentionSpec["q"], { a: unknown }>, c: Composer) {
    this.a = new Linear(spec.a, c.named("a"));
    this.norm = new Norm(spec.norm, c.named("norm"));
    this.b = new Linear(spec.b, c.named("b"));
    this.q = c.plan.kept(act(spec.b.out), "q");
    this.low = c.plan.kept(act(spec.a.out), "low");
    this.normed = c.plan.kept(act(spec.a.out), "normed");
    this.dq = c.plan.backward(act(spec.b.out), "dq");
    this.dLow = c.plan.backward(act(spec.a.out), "dLow");
  }

  get trains(): boolean {
    return this.a.trains || this.norm.trains || this.b.trains;
  }
  forward(run: Run, x: Tensor): Tensor {
    const [low, normed, q] = [run.at(this.low), run.at(this.normed), run.at(this.q)];
    this.a.forward(run, x, low);
    this.norm.forward(run, low, normed);
    this.b.forward(run, normed, q);
    return q;
  }
  backward(run: Run, x: Tensor, dx: Tensor | null): void {
    const [low, dLow] = [run.at(this.low), run.at(this.dLow)];
    this.b.backward(run, run.at(this.dq), run.at(this.normed), dLow);
    this.norm.backward(run, dLow, low, dLow);
    this.a.backward(run, dLow, x, dx);
  }
}
