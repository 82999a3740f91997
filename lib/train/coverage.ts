// Share of routed slots that meet a trained expert, counted where routing happens.

import { ExpertCounts } from "../experts/counting.ts";
import type { ExpertSums } from "../experts/counting.ts";
import { expertLayout } from "../experts/expert_set.ts";
import type { RouteObserver } from "../model/layers/moe.ts";
import { moeOf } from "../model/spec.ts";
import type { Transformer } from "../model/transformer.ts";

export class Coverage {
  readonly observe: RouteObserver;
  private readonly sums: ExpertCounts;
  /** By layer, by expert. */
  private readonly trained: ReadonlyMap<number, readonly boolean[]>;

  /** Null when all routed experts train, or none: coverage would always be 1, or 0. */
  static of({ spec, params, device }: Transformer): Coverage | null {
    const layout = expertLayout(spec);
    const trained = new Map([...layout.keys()].map((l) => [l, moeOf(spec, l)!.experts.map((e) => params.get(e.down).trains)]));
    const all = [...trained.values()].flat();
    return all.includes(true) && all.includes(false) ? new Coverage(new ExpertCounts(device, layout), trained) : null;
  }

  private constructor(sums: ExpertCounts, trained: ReadonlyMap<number, readonly boolean[]>) {
    this.sums = sums;
    this.trained = trained;
    this.observe = sums.observe;
  }

  reset(): void {
    this.sums.reset();
  }

  /** The share, and the sums that it was taken from. */
  async read(): Promise<{ readonly share: number; readonly sums: ReadonlyMap<number, ExpertSums> }> {
    let [hit, all] = [0, 0];
    const sums = await this.sums.read();
    for (const [layer, { counts }] of sums)
      counts.forEach((n, e) => {
        all += n;
        if (this.trained.get(layer)![e]) hit += n;
      });
    return { share: all === 0 ? 0 : hit / all, sums };
  }

  dispose(): void {
    this.sums.dispose();
  }
}
