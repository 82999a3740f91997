// What tables and verdicts of the miniature are made of: means of cells at their chosen rates, and paired differences of two methods.
import type { CompareCell, Comparison } from "../../lib/index.ts";
import { estimate, pairedDifference } from "../../lib/compare/statistics.ts";
import type { PairedDifference } from "../../lib/compare/statistics.ts";

/** What is measured of a cell: scores in percent, losses in nats. */
export type Key = "exact" | "accuracy" | "loss" | "others" | "share" | "coverage" | "adapter" | "state" | "step";

export interface Of {
  readonly mean: number;
  readonly sd: number | null;
  readonly n: number;
}

export class Figures {
  readonly all: Comparison;
  /** [task][task]: most used experts that both have. */
  readonly shared: readonly (readonly number[])[];
  constructor(all: Comparison, shared: readonly (readonly number[])[]) {
    this.all = all;
    this.shared = shared;
  }

  get tasks(): string[] {
    return this.all.result.tasks.map(({ name }) => name);
  }

  cells(method: string, tasks?: readonly string[]): CompareCell[] {
    return this.all.result.cells.filter((c) => c.chosen && c.method === method && (tasks === undefined || tasks.includes(c.task)));
  }

  /** The tasks that a method was trained on. */
  tasksOf(method: string): string[] {
    return this.tasks.filter((task) => this.cells(method, [task]).length > 0);
  }

  /** Of one cell. */
  value(cell: CompareCell, key: Key): number {
    const { test, answers, others } = cell;
    const found: Record<Key, () => number | undefined> = {
      exact: () => 100 * answers!["exact"]!,
      accuracy: () => 100 * test!.accuracy,
      loss: () => test!.loss,
      others: () => mean(Object.values(others!).map((f) => f.loss)) - this.baseOthers,
      share: () => 100 * cell.trainedShare!,
      coverage: () => 100 * (cell.coverage ?? NaN),
      adapter: () => cell.adapterBytes! / 1e6,
      state: () => cell.stateBytes! / 1e6,
      step: () => 1000 * this.all.times.cells[cell.id]!.secondsPerStep,
    };
    return found[key]() ?? NaN;
  }

  /** Of the model as it is; `others` is 0 by definition, the rise of the mean loss over it is what is told. */
  base(task: string, key: "exact" | "accuracy" | "loss"): number {
    const { test, answers } = this.all.result.base.tasks[task]!;
    return key === "loss" ? test.loss : key === "accuracy" ? 100 * test.accuracy : 100 * answers!["exact"]!;
  }

  get baseOthers(): number {
    return mean(Object.values(this.all.result.base.others).map((f) => f.loss));
  }

  of(method: string, key: Key, tasks?: readonly string[]): Of {
    return estimate(this.cells(method, tasks).map((cell) => this.value(cell, key)))!;
  }

  /** What a method gains over the base, mean over tasks and seeds. */
  gain(method: string, key: "exact" | "accuracy" | "loss", tasks?: readonly string[]): Of {
    return estimate(this.cells(method, tasks).map((cell) => this.value(cell, key) - this.base(cell.task, key)))!;
  }

  /** a − b over the tasks and seeds that both have. */
  difference(a: string, b: string, key: Key): PairedDifference {
    const pairs = this.cells(a).flatMap((x) => {
      const y = this.cells(b, [x.task]).find((c) => c.seed === x.seed);
      return y === undefined ? [] : [[this.value(x, key), this.value(y, key)] as const];
    });
    return pairedDifference(
      pairs.map(([x]) => x),
      pairs.map(([, y]) => y),
    )!;
  }
}

export const mean = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;
