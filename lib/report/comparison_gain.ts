// What methods of a comparison gain on their tasks and what they forget elsewhere, against each other.

import type { Group } from "../compare/method_tasks.ts";
import type { CompareCell, Estimate } from "../compare/result.ts";
import { estimateWithin, meanOf } from "../compare/statistics.ts";
import type { Cell } from "./charts/chart.ts";
import { points } from "./charts/marks.ts";
import { chosenOf, suffix } from "./comparison_runs.ts";
import type { Result } from "./comparison_runs.ts";
import { withSd } from "./content.ts";
import type { Figure, Row } from "./content.ts";

/** By how much the loss on the task's test rows fell. */
function gainOf({ base }: Result, cell: CompareCell): number | null {
  const before = base.tasks[cell.task];
  return cell.test && before ? before.test.loss - cell.test.loss : null;
}

/** By how much the loss on rows of other domains rose, mean over the domains. */
function forgettingOf({ base, others }: Result, cell: CompareCell): number | null {
  if (cell.others === null || others.length === 0) return null;
  const rises = others.map(({ name }) => {
    const [after, before] = [cell.others?.[name], base.others[name]];
    return after && before ? after.loss - before.loss : null;
  });
  return rises.includes(null) ? null : meanOf(rises);
}

export interface Standing {
  readonly method: string;
  readonly gain: Estimate;
  readonly forgetting: Estimate;
}

/** Of the methods of a group that have both. */
export function standings(result: Result, { tasks, methods }: Group): Standing[] {
  return methods.flatMap((method) => {
    // Tasks differ by far more than repetitions do: deviations are those between the seeds of a task.
    const byTask = tasks.map((task) => chosenOf(result, method, [task]));
    const gain = estimateWithin(byTask.map((cells) => cells.map((c) => gainOf(result, c))));
    const forgetting = estimateWithin(byTask.map((cells) => cells.map((c) => forgettingOf(result, c))));
    return gain && forgetting ? [{ method, gain, forgetting }] : [];
  });
}

/** Is none of the others at least as good in both and better in one? */
const onFront = (s: Standing, all: readonly Standing[]): boolean =>
  !all.some(
    (o) =>
      o.gain.mean >= s.gain.mean &&
      o.forgetting.mean <= s.forgetting.mean &&
      (o.gain.mean > s.gain.mean || o.forgetting.mean < s.forgetting.mean),
  );

/** A figure of a group, where other domains were measured. */
export function tradeOffFigures(result: Result, group: Group, i: number): Figure[] {
  const all = standings(result, group);
  if (all.length === 0) return [];
  const rows = all.map((s): Row => ({
    method: s.method,
    gain: s.gain.mean,
    gainSd: s.gain.sd,
    forgetting: s.forgetting.mean,
    forgettingSd: s.forgetting.sd,
    n: s.gain.n,
    front: onFront(s, all) ? "yes" : "no",
  }));
  const ends = ({ mean, sd }: Estimate): [Cell, Cell] => (sd === null ? [null, null] : [mean - sd, mean + sd]);
  const values = all.map((s) => {
    const [[left, right], [low, high]] = [ends(s.forgetting), ends(s.gain)];
    return { method: s.method, gain: s.gain.mean, forgetting: s.forgetting.mean, front: onFront(s, all) ? 1 : 0, left, right, low, high };
  });
  const spread = all.some((s) => s.gain.sd !== null);
  return [
    {
      id: i === 0 ? "trade-off" : `trade-off-${i + 1}`,
      title: `What a method gains and what it forgets${suffix(result, group)}`,
      about: `Up: by how much the loss on the task's test rows fell. To the right: by how much the loss on rows of other domains rose. The best stand at the top left; the dotted line joins those that no other beats in both. Means over tasks and seeds at the chosen learning rates${spread ? ", with a cross of one standard deviation between the seeds of a task" : ""}.`,
      chart: points(values, {
        x: { key: "forgetting", title: "forgetting: rise of the loss on other domains, nats per token" },
        y: { key: "gain", title: "gain: fall of the test loss, nats per token" },
        name: "method",
        names: all.map((s) => s.method),
        front: "front",
        spread: { x: ["left", "right"], y: ["low", "high"] },
      }),
      table: {
        columns: [
          { key: "method", label: "method" },
          ...withSd({ key: "gain", label: "gain", digits: 4 }, "gainSd"),
          ...withSd({ key: "forgetting", label: "forgetting", digits: 4 }, "forgettingSd"),
          { key: "n", label: "runs", digits: 0 },
          { key: "front", label: "beaten by none" },
        ],
        rows,
      },
    },
  ];
}
