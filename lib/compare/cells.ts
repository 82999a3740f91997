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

/** Those that a method is repeated with. */
export const seedsOf = ({ seeds }: Pick<Plan, "seeds">, method: PlanMethod): readonly number[] => method.seeds ?? seeds;

/** Of those, the ones whose runs choose its rate: with the others only the rate that was chosen is run. */
export const searchSeedsOf = (plan: Pick<Plan, "seeds" | "rateSeeds">, method: PlanMethod): readonly number[] =>
  method.lr.length === 1 ? seedsOf(plan, method) : seedsOf(plan, method).slice(0, plan.rateSeeds);

type OfCells = Pick<Plan, "tasks" | "methods" | "seeds" | "rateSeeds">;

/** Every cell that there may be. Of seeds beyond those that choose (`searched`) one rate each is run. */
export function cellsOf(plan: OfCells): Cell[] {
  return plan.tasks.flatMap((task) =>
    methodsOn(plan, task.name).flatMap((method) =>
      method.lr.flatMap((lr) =>
        seedsOf(plan, method).map((seed) => ({
          id: `${task.name}/${method.name}/lr-${lr.toExponential()}/seed-${seed}`,
          task,
          method,
          lr,
          seed,
        })),
      ),
    ),
  );
}

/** Whether a cell is run before rates are chosen. */
export const searched = (plan: OfCells, { method, seed }: Cell): boolean => searchSeedsOf(plan, method).includes(seed);

/** How many cells are run: all that choose, and of each further seed one. */
export const cellCount = (plan: OfCells): number =>
  plan.tasks
    .flatMap(({ name }) => methodsOn(plan, name))
    .reduce((n, method) => {
      const search = searchSeedsOf(plan, method).length;
      return n + method.lr.length * search + seedsOf(plan, method).length - search;
    }, 0);

/** The run directory of a cell. */
export const cellDir = (out: string, { id }: Pick<Cell, "id">): string => join(out, "cells", ...id.split("/"));
