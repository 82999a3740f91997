// compare.md: what a comparison found, as tables for people.

import { bytes, change, count, duration, percent } from "../format.ts";
import { partialWords } from "./method_tasks.ts";
import { meanOf } from "./statistics.ts";
import type { CompareCell, Comparison, Estimate } from "./result.ts";

type Row = readonly string[];

function markdown(header: Row, rows: readonly Row[]): string {
  const line = (cells: Row): string => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(header), line(header.map((_, i) => (i === 0 ? "---" : "---:"))), ...rows.map(line)].join("\n");
}

const NONE = "–";
const isShare = (key: string): boolean => key.endsWith(".accuracy");

function shown(key: string, of: Estimate | undefined): string {
  if (!of) return NONE;
  const one = (x: number): string => (isShare(key) ? (100 * x).toFixed(1) : x.toFixed(4));
  return `${one(of.mean)}${of.sd === null ? "" : ` ± ${one(of.sd)}`}${isShare(key) ? " %" : ""}`;
}

const rate = (lr: number | null): string => (lr === null ? NONE : lr.toExponential());
const or = (value: number | null, words: (x: number) => string): string => (value === null ? NONE : words(value));

export function markdownOf({ result, times }: Comparison): string {
  const { model, seeds, tasks, methods, measures, summary, choices, differences, cells, rule } = result;
  const { steps, rowsPerStep } = result.plan as { readonly steps?: number; readonly rowsPerStep?: number };
  const chosen = (task: string | null, method: string): CompareCell[] =>
    cells.filter((c) => c.chosen && c.method === method && (task === null || c.task === task));
  const names = ["base", ...methods.map(({ name }) => name)];
  const label = (key: string): string => measures.find((m) => m.key === key)?.label ?? key;

  const partial = partialWords(result);
  const quality = [...tasks.map(({ name }) => name), ...(tasks.length > 1 ? [null] : [])].flatMap((task) => [
    `## ${task === null ? "All tasks" : `Task ${task}`}`,
    markdown(
      ["method", "rate", ...measures.map((m) => m.label)],
      names.flatMap((name) => {
        const row = summary.find((r) => r.task === task && r.method === name);
        return row ? [[name, rate(row.lr), ...measures.map(({ key }) => shown(key, row.values[key]))]] : [];
      }),
    ),
  ]);

  const cost = markdown(
    [
      "method",
      "trained parameters",
      "share of model",
      "training state",
      "adapter",
      "experts",
      "coverage",
      "time per step",
      "tokens/s",
      "time in all",
    ],
    methods.map(({ name }) => {
      const of = chosen(null, name);
      const timed = of.map(({ id }) => times.cells[id]);
      return [
        name,
        or(meanOf(of.map((c) => c.trainedParameters)), count),
        or(meanOf(of.map((c) => c.trainedShare)), percent),
        or(meanOf(of.map((c) => c.stateBytes)), (n) => bytes(Math.round(n))),
        or(meanOf(of.map((c) => c.adapterBytes)), (n) => bytes(Math.round(n))),
        or(meanOf(of.map((c) => c.experts)), (n) => String(Math.round(n))),
        or(meanOf(of.map((c) => c.coverage)), percent),
        or(meanOf(timed.map((t) => t?.secondsPerStep)), (x) => `${x.toPrecision(3)} s`),
        or(meanOf(timed.map((t) => t?.tokensPerSecond)), count),
        or(meanOf(timed.map((t) => t?.trainSeconds)), duration),
      ];
    }),
  );

  const rates = markdown(
    ["task", "method", "rate", "validation loss", "chosen"],
    choices.flatMap(({ task, method, lr, candidates }) =>
      candidates.map((c) => [
        task,
        method,
        rate(c.lr),
        c.validationLoss ? shown("loss", c.validationLoss) : "diverged",
        c.lr === lr ? "yes" : "",
      ]),
    ),
  );

  const signed = (key: string, x: number): string => (isShare(key) ? `${change(100 * x, 2)} %` : change(x, 4));
  const pairs = markdown(
    ["methods", "figure", "difference", "95 % interval", "pairs"],
    differences.map(({ a, b, measure, mean: of, low, high, n }) => [
      `${a} − ${b}`,
      label(measure),
      signed(measure, of),
      low === null || high === null ? NONE : `${signed(measure, low)} to ${signed(measure, high)}`,
      String(n),
    ]),
  );

  return [
    `# Comparison on ${model.name}`,
    `${methods.length} methods, ${tasks.length} ${tasks.length === 1 ? "task" : "tasks"}, seeds ${seeds.join(", ")}: ${steps} updates of ${rowsPerStep} rows each, the same rows in the same order for all.`,
    `Loss: nats per supervised token; accuracy: share of supervised tokens predicted right; ± is the standard deviation over ${tasks.length > 1 ? "seeds, for all tasks over task and seed" : "seeds"}.`,
    ...(partial === null ? [] : [`Of the tasks ${partial}: "All tasks" tells the methods that have every one.`]),
    ...quality,
    "## Cost",
    "Means over a method's tasks and seeds at the chosen rates; a step's time has no evaluation in it.",
    cost,
    "## Learning rates",
    `Chosen: ${rule}.`,
    rates,
    "## Differences",
    "Paired over task and seed, where both methods have them, with the confidence interval of Student's t.",
    pairs,
    "",
  ].join("\n\n");
}
