// The runs that methods have at their chosen rates, told side by side on the tasks that all of them have.

import type { Group } from "../compare/method_tasks.ts";
import type { CompareCell, Comparison } from "../compare/result.ts";

export type Result = Comparison["result"];

/** Runs of a method at its chosen rates, which have all figures; on some tasks, or all. */
export const chosenOf = (result: Result, method: string, tasks?: readonly string[]): CompareCell[] =>
  result.cells.filter((c) => c.method === method && c.chosen && c.diverged === null && (tasks?.includes(c.task) ?? true));

/** ": law, code" of a group that has not all tasks. */
export const suffix = ({ tasks }: Result, group: Group): string =>
  group.tasks.length === tasks.length ? "" : `: ${group.tasks.join(", ")}`;
