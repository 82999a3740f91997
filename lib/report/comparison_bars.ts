// What methods of a comparison come to in one figure, as bars: scores of answers, costs.

import { groupsOf, partialWords } from "../compare/method_tasks.ts";
import type { CompareCell, Comparison, Estimate } from "../compare/result.ts";
import { estimate } from "../compare/statistics.ts";
import { bytes, count, duration } from "../format.ts";
import { bars } from "./charts/marks.ts";
import { chosenOf, suffix } from "./comparison_runs.ts";
import type { Result } from "./comparison_runs.ts";
import { withSd } from "./content.ts";
import type { Figure, Row } from "./content.ts";

/** The model as it is has one value, of no runs. */
interface Amount {
  readonly name: string;
  readonly mean: number;
  readonly sd: number | null;
  readonly n: number | null;
}
const amount = (name: string, { mean, sd, n }: Estimate): Amount => ({ name, mean, sd, n });

/** With lines of one standard deviation where there are several runs. */
function barFigure(
  id: string,
  title: string,
  about: string,
  all: readonly Amount[],
  value: { readonly label: string; readonly digits: number; readonly words: (x: number) => string; readonly labels: "large" | "plain" },
): Figure {
  const values = all.map(({ name, mean, sd }) => ({ name, mean, low: sd === null ? null : Math.max(0, mean - sd), high: sd === null ? null : mean + sd, words: value.words(mean) })); // prettier-ignore
  return {
    id,
    title,
    about: all.some((a) => a.sd !== null) ? `${about} Lines: ± one standard deviation.` : about,
    half: true,
    chart: all.length === 0 ? null : bars(values, { name: "name", names: all.map((a) => a.name), x: { key: "mean", title: value.label, labels: value.labels }, text: "words", low: "low", high: "high" }), // prettier-ignore
    table: {
      columns: [
        { key: "name", label: "method" },
        ...withSd({ key: "mean", label: value.label, digits: value.digits }, "sd"),
        { key: "n", label: "runs", digits: 0 },
      ],
      rows: all.map(({ name, mean, sd, n }): Row => ({ name, mean, sd, n })),
    },
  };
}

/** Bars of each metric of answers, with those of the model as it is. */
export function answersFigures(result: Result): Figure[] {
  const metrics = result.measures.filter((m) => m.key.startsWith("answers."));
  const drawn = metrics.flatMap((m) => groupsOf(result).map((group) => ({ m, group })));
  return drawn.map(({ m, group }, i): Figure => {
    const metric = m.key.slice("answers.".length);
    const base = estimate(group.tasks.map((task) => result.base.tasks[task]?.answers?.[metric]));
    const rows = [
      ...(base ? [{ name: "base", mean: base.mean, sd: null, n: null }] : []),
      ...group.methods.flatMap((name) => {
        const mean = estimate(chosenOf(result, name, group.tasks).map((c) => c.answers?.[metric]));
        return mean ? [amount(name, mean)] : [];
      }),
    ];
    return barFigure(
      `answers-${i}`,
      `Answers: ${m.label}${suffix(result, group)}`,
      `Mean of the runs at the chosen rates; ${m.better} is better.`,
      rows,
      {
        label: m.label,
        digits: 3,
        words: (x) => x.toFixed(3),
        labels: "plain",
      },
    );
  });
}

/** A figure for each cost that was measured. */
export function costFigures(result: Result, times: Comparison["times"]): Figure[] {
  const of = (value: (cell: CompareCell) => number | null | undefined): Amount[] =>
    result.methods.flatMap(({ name }) => {
      const mean = estimate(chosenOf(result, name).map(value));
      return mean ? [amount(name, mean)] : [];
    });
  const partial = partialWords(result);
  const at = `Mean of the runs at the chosen rates${partial === null ? "" : `; of the tasks ${partial}`}`;
  const { instructionSet, threads } = times.device;
  const seconds = { label: "seconds", digits: 3, words: secondsOf, labels: "plain" } as const;
  const size = { label: "bytes", digits: 0, words: bytes, labels: "large" } as const;
  return [
    barFigure(
      "adapter-bytes",
      "Adapter",
      `On disk. ${at}.`,
      of((c) => c.adapterBytes),
      size,
    ),
    barFigure("parameters", "Parameters trained", `${at}.`, of((c) => c.trainedParameters), { label: "parameters", digits: 0, words: count, labels: "large" }), // prettier-ignore
    barFigure("step-seconds", "Time of an update", `Without evaluation and checkpoints, on ${threads} thread${threads === 1 ? "" : "s"} of ${instructionSet}. ${at}.`, of((c) => times.cells[c.id]?.secondsPerStep), { ...seconds, digits: 4 }), // prettier-ignore
    barFigure("train-seconds", "Time of a run", `From the first update to the adapter, all that is written included. ${at}.`, of((c) => times.cells[c.id]?.trainSeconds), seconds), // prettier-ignore
    barFigure("state-bytes", "Training state", `Masters, gradients and moments. ${at}.`, of((c) => c.stateBytes), size), // prettier-ignore
    barFigure(
      "activation-bytes",
      "Activations",
      `Of a step. ${at}.`,
      of((c) => c.activationBytes),
      size,
    ),
  ].filter((f) => f.table.rows.length > 0);
}

/** Short times to three digits: methods differ in them. */
const secondsOf = (x: number): string => (x < 60 ? `${Number(x.toPrecision(3))} s` : duration(x));
