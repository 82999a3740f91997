// The cells of a plan: methods × learning rates × seeds × tasks, in the order that they are computed and told in.

import { join } from "node:path";
import type { Plan, PlanMethod, PlanTask } from "./plan.ts";

export interface Cell {
  /** TASK/METHOD/lr-RATE/seed-N: where it lies below cells/. */
  readonly id: string;
  readonly task: PlanTask;
  readonly method: PlanMethod;
  readonly lr: number;
  readonly seed: number;
}

export function cellsOf({ tasks, methods, seeds }: Plan): Cell[] {
  return tasks.flatMap((task) =>
    methods.flatMap((method) =>
      method.lr.flatMap((lr) =>
        seeds.map((seed) => ({ id: `${task.name}/${method.name}/lr-${lr.toExponential()}/seed-${seed}`, task, method, lr, seed })),
      ),
    ),
  );
}

/** The run directory of a cell. */
export const cellDir = (out: string, { id }: Pick<Cell, "id">): string => join(out, "cells", ...id.split("/"));
