// What a run keeps and tells of re-allocated ranks: in its checkpoints, in its events, in its adapter.

import { z } from "zod";
import type { ReallocationPlan } from "../methods/reallocation.ts";

const ByLayer = z.record(z.string(), z.array(z.number()));

/** As checkpoints keep it. Ranks are those of the last entry of the history; averages stand by place in the plan's lists. */
export const reallocationSchema = z.strictObject({
  gate: ByLayer,
  gradient: ByLayer,
  history: z.array(z.strictObject({ step: z.int(), ranks: z.record(z.string(), z.array(z.int().min(0))) })),
});
export type ReallocationState = z.output<typeof reallocationSchema>;

/** Ranks of all experts of a layer, 0 where one has no term, by layer. */
export type ExpertRanks = Readonly<Record<string, readonly number[]>>;

/** What is told of one. */
export interface Reallocated {
  readonly type: "reallocate";
  /** Updates done. */
  readonly step: number;
  readonly kind: ReallocationPlan["kind"];
  /** Columns that went from one expert to another. */
  readonly columns: number;
  readonly ranks: ExpertRanks;
  /** What it was decided by, likewise. */
  readonly importance: ExpertRanks;
}

export interface RankSummary {
  /** Null: as at the beginning. */
  readonly ranks: ExpertRanks | null;
  readonly history: ReallocationState["history"];
}
