// What a run keeps and tells of re-allocated ranks: in its checkpoints, in its events, in its adapter.

import { z } from "zod";
import type { ReallocationPlan } from "../methods/reallocation.ts";

const ByLayer = z.record(z.string(), z.array(z.number()));

/** As checkpoints keep it. Averages stand by place in the plan's lists. The ranks of every re-allocation are in events.jsonl. */
export const reallocationSchema = z.strictObject({
  gate: ByLayer,
  gradient: ByLayer,
  /** Of all experts, by layer. */
  ranks: z.record(z.string(), z.array(z.int().min(0))),
  /** Updates that were done before each, and the columns that moved. */
  history: z.array(z.strictObject({ step: z.int(), columns: z.int().min(0) })),
});
export type ReallocationState = z.output<typeof reallocationSchema>;

/** Ranks of all experts of a layer, 0 where one has no term, by layer. */
export type ExpertRanks = Readonly<Record<string, readonly number[]>>;

/** What is told of one. */
export interface Reallocated {
  readonly type: "reallocate";
  /** The update that begins with it. */
  readonly step: number;
  readonly kind: ReallocationPlan["kind"];
  /** Columns that went from one expert to another. */
  readonly columns: number;
  readonly ranks: ExpertRanks;
  /** What it was decided by, likewise. */
  readonly importance: ExpertRanks;
}

export interface RankSummary {
  readonly ranks: ExpertRanks;
  readonly history: ReallocationState["history"];
}
