// Condensers in a run: counts what experts are chosen for over a step, and moves the biases on the choice after the update
// (methods/condenser.ts). The biases are attached parameters whose gradient is 0: checkpoints and adapters hold them as any
// trained tensor, and what the optimizer's decay does to them is overwritten.

import { ExpertCounts } from "../experts/counting.ts";
import { expertLayout } from "../experts/expert_set.ts";
import { condense, condenserLimit } from "../methods/condenser.ts";
import type { CondenserRule } from "../methods/method.ts";
import type { RouteObserver } from "../model/layers/moe.ts";
import { moeOf } from "../model/spec.ts";
import type { Transformer } from "../model/transformer.ts";

interface Bias {
  readonly layer: number;
  readonly key: string;
  readonly delta: Float32Array;
  readonly limit: number;
}

export class Condensing {
  readonly observe: RouteObserver;
  private readonly model: Transformer;
  private readonly rule: CondenserRule;
  private readonly counts: ExpertCounts;
  /** As the state has them; read before the first update, after a checkpoint was restored. */
  private biases: readonly Bias[] | null = null;

  constructor(model: Transformer, rule: CondenserRule) {
    this.model = model;
    this.rule = rule;
    this.counts = new ExpertCounts(model.device, expertLayout(model.spec));
    this.observe = this.counts.observe;
  }

  /** Before the passes of a step, and what the optimizer's decay does. */
  async reset(): Promise<void> {
    this.biases ??= await this.read();
    this.counts.reset();
  }

  /** After an update: moves the biases, where the update was `applied`. @returns experts that are always active */
  async move(applied: boolean): Promise<number> {
    const counts = await this.counts.read();
    let active = 0;
    for (const { layer, key, delta, limit } of this.biases ?? []) {
      if (applied) {
        condense(delta, counts.get(layer)!.counts, limit, this.rule);
        this.model.params.attached(key).master!.write(delta.slice());
      }
      active += delta.filter((d) => d >= Math.fround(limit)).length;
    }
    return active;
  }

  private async read(): Promise<Bias[]> {
    const { spec, params } = this.model;
    const biases: Bias[] = [];
    for (const { layer, key } of this.rule.layers) {
      const moe = moeOf(spec, layer)!;
      const base = moe.selectionBias ? await params.get(moe.selectionBias).value.readF32() : null;
      biases.push({ layer, key, delta: await params.attached(key).master!.readF32(), limit: condenserLimit(moe, base) });
    }
    return biases;
  }

  dispose(): void {
    this.counts.dispose();
  }
}
