// Queries that grow with their position (Llama 4, Mistral 4): q_t · (1 + beta · ln(1 + ⌊(t + offset) / length⌋)).

import * as ops from "../../ops.ts";
import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import type { RopeHandle } from "../rope_table.ts";
import type { QueryFactorSpec } from "../spec.ts";
import type { Composer } from "./composer.ts";

export class QueryFactor {
  private readonly table: RopeHandle;

  constructor(spec: QueryFactorSpec, c: Composer) {
    this.table = c.queryFactor(spec);
  }

  /** In place: the queries, or on the way back their gradient. */
  apply(run: Run, q: Tensor): void {
    ops.scaleRows(run.device, { x: q, positions: run.batch.positions, factors: run.queryFactors(this.table), y: q });
  }
}
