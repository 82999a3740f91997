// The cells of a plan: methods × learning rates × seeds × the tasks of each method, in the order that they are computed and told in.

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

/** The methods that are trained on a task. */
export const methodsOn = ({ methods }: Pick<Plan, "methods">, task: string): PlanMethod[] =>
  methods.filter(({ tasks }) => tasks === undefined || tasks.includes(task));

export function cellsOf({ tasks, methods, seeds }: Pick<Plan, "tasks" | "methods" | "seeds">): Cell[] {
  return tasks.flatMap((task) =>
    methodsOn({ methods }, task.name).flatMap((method) =>
      method.lr.flatMap((lr) =>
        seeds.map((seed) => ({ id: `${task.name}/${method.name}/lr-${lr.toExponential()}/seed-${seed}`, task, method, lr, seed })),
      ),
    ),
  );
}

/** The run directory of a cell. */
export const cellDir = (out: string, { id }: Pick<Cell, "id">): string => join(out, "cells", ...id.split("/"));
