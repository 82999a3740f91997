// Which tasks the methods of a comparison were trained on: all of the plan, unless a method names its own.

import type { CompareResult } from "./result.ts";

type Chosen = Pick<CompareResult, "tasks" | "choices">;
type Compared = Pick<CompareResult, "tasks" | "methods" | "choices">;

/** In the plan's order. */
export function tasksOf({ tasks, choices }: Chosen, method: string): string[] {
  const on = new Set(choices.filter((c) => c.method === method).map((c) => c.task));
  return tasks.map(({ name }) => name).filter((name) => on.has(name));
}

/** Methods that can be told side by side, and the tasks that all of them have. */
export interface Group {
  readonly tasks: readonly string[];
  readonly methods: readonly string[];
}

/** A group for every set of tasks that a method has, the largest first: every method is in one at least. */
export function groupsOf(result: Compared): Group[] {
  const all = result.methods.map(({ name }) => ({ name, tasks: tasksOf(result, name) }));
  const sets = new Map(all.map(({ tasks }) => [JSON.stringify(tasks), tasks]));
  return [...sets.values()]
    .filter((tasks) => tasks.length > 0)
    .toSorted((a, b) => b.length - a.length)
    .map((tasks) => ({
      tasks,
      methods: all.filter((m) => tasks.every((task) => m.tasks.includes(task))).map(({ name }) => name),
    }));
}

/** Of methods that lack tasks, which they have: "lora has law alone, full has law and code alone"; null where all have all. */
export function partialWords(result: Compared): string | null {
  const words = result.methods.flatMap(({ name }) => {
    const on = tasksOf(result, name);
    return on.length === result.tasks.length ? [] : [`${name} has ${on.join(" and ")} alone`];
  });
  return words.length === 0 ? null : words.join(", ");
}
