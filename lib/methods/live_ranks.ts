// The live columns of terms whose ranks were re-allocated: what an adapter holds of tensors that are allocated at the highest rank.

import { moeOf } from "../model/spec.ts";
import type { ModelSpec } from "../model/spec.ts";
import { liveA, liveB } from "./rank_columns.ts";
import type { ReallocationPlan } from "./reallocation.ts";

/** A tensor's part that is live. */
export interface LivePart {
  readonly rank: number;
  readonly shape: readonly [number, number];
  values(all: Float32Array): Float32Array;
}

export class LiveRanks {
  private readonly plan: ReallocationPlan;
  private readonly parts = new Map<string, LivePart>();
  private readonly rankOf: (layer: number, expert: number) => number;

  /** @param ranks of all experts, by layer */
  constructor(plan: ReallocationPlan, ranks: Readonly<Record<string, readonly number[]>>) {
    this.plan = plan;
    this.rankOf = (layer, expert) => ranks[layer]?.[expert] ?? 0;
    for (const [layer, experts] of plan.layers)
      for (const { expert, matrices } of experts) {
        const rank = this.rankOf(layer, expert);
        for (const { a, b, in: input, out } of matrices) {
          this.parts.set(a, { rank, shape: [rank, input], values: (all) => liveA(all, rank, input) });
          this.parts.set(b, { rank, shape: [out, rank], values: (all) => liveB(all, rank, plan.maxRank) });
        }
      }
  }

  /** Undefined: no tensor of these experts. */
  of(key: string): LivePart | undefined {
    return this.parts.get(key);
  }

  /** Ranks of all experts, 0 where one has no term, by layer. */
  words(spec: ModelSpec): Record<string, number[]> {
    return Object.fromEntries(
      [...this.plan.layers].map(([layer, experts]) => {
        const adapted = new Set(experts.map(({ expert }) => expert));
        return [String(layer), moeOf(spec, layer)!.experts.map((_, e) => (adapted.has(e) ? this.rankOf(layer, e) : 0))];
      }),
    );
  }
}
