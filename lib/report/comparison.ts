// A comparison of methods as a report: what each gains on its task and forgets elsewhere, by how much two differ, the learning rates that
// were tried, what each costs.

import { groupsOf, partialWords } from "../compare/method_tasks.ts";
import type { Comparison, Measure } from "../compare/result.ts";
import { estimate } from "../compare/statistics.ts";
import { bytes, change, count, percent } from "../format.ts";
import type { Cell } from "./charts/chart.ts";
import { intervals } from "./charts/marks.ts";
import { answersFigures, costFigures } from "./comparison_bars.ts";
import { standings, tradeOffFigures } from "./comparison_gain.ts";
import { chosenOf, suffix } from "./comparison_runs.ts";
import type { Result } from "./comparison_runs.ts";
import { ratesFigures } from "./comparison_rates.ts";
import { withSd } from "./content.ts";
import type { Column, Fact, Figure, Report, Row, Section } from "./content.ts";
import { leaves } from "./leaves.ts";

export function comparisonReport({ result, times }: Comparison): Report {
  const { model, device, seeds, tasks, methods } = result;
  const sections: Section[] = [
    {
      title: "Gain and forgetting",
      figures: [
        ...groupsOf(result).flatMap((group, i) => tradeOffFigures(result, group, i)),
        summaryFigure(result),
        ...answersFigures(result),
      ],
    },
    { title: "Differences", figures: differencesFigures(result) },
    { title: "Learning rates", figures: ratesFigures(result) },
    { title: "Cost", figures: costFigures(result, times) },
    { title: "What was compared", figures: [filesFigure(result), planFigure(result)] },
    { title: "All runs", figures: [runsFigure(result, times)] },
  ];
  const many = (n: number, word: string): string => `${n} ${word}${n === 1 ? "" : "s"}`;
  return {
    title: `${many(methods.length, "method")} on ${tasks.length === 1 ? tasks[0]!.name : many(tasks.length, "task")}`,
    about: `${model.name} (${model.type}, ${count(model.parameters)} parameters) on ${device.backend} in ${device.precision}: ${many(tasks.length, "task")}, ${many(seeds.length, "seed")}, ${many(result.cells.length, "run")}.`,
    facts: factsOf(result),
    remarks: remarksOf(result),
    sections: sections.filter((s) => s.figures.length > 0),
  };
}

// ── All measures ──

/** Decimals of a measure: losses are told to four, scores of answers to three. */
const digitsOf = (m: Measure): number => (m.key.startsWith("answers.") ? 3 : 4);

function summaryFigure(result: Result): Figure {
  const told = result.measures.filter((m) => result.summary.some((s) => s.values[m.key] !== undefined));
  const columns: Column[] = [
    { key: "task", label: "task" },
    { key: "method", label: "method" },
    { key: "lr", label: "learning rate", significant: 4 },
    { key: "n", label: "runs", digits: 0 },
    ...told.flatMap((m, i) => withSd({ key: `m${i}`, label: m.label, digits: digitsOf(m) }, `s${i}`)),
  ];
  const rows = result.summary.map((s): Row => {
    const estimates = told.map((m) => s.values[m.key] ?? null);
    const runs = s.method === "base" ? null : Math.max(...estimates.map((e) => e?.n ?? 0));
    const cells: Record<string, Cell> = {
      task: s.task ?? "all tasks",
      method: s.method,
      lr: s.lr,
      n: runs,
    };
    estimates.forEach((e, i) => {
      cells[`m${i}`] = e?.mean ?? null;
      cells[`s${i}`] = runs === null ? null : (e?.sd ?? null);
    });
    return cells;
  });
  return {
    id: "summary",
    title: "All measures",
    about: `Means and standard deviations at the chosen learning rates. "base" is the model as it is.${partialOf(result)}`,
    chart: null,
    table: { columns, rows },
  };
}

/** A sentence on methods that lack tasks, after a space. */
function partialOf(result: Result): string {
  const partial = partialWords(result);
  return partial === null ? "" : ` Of the tasks ${partial}.`;
}

// ── Differences ──

function differencesFigures(result: Result): Figure[] {
  const { differences, measures } = result;
  if (differences.length === 0) return [];
  const label = (key: string): string => measures.find((m) => m.key === key)?.label ?? key;
  const better = (key: string): "lower" | "higher" => measures.find((m) => m.key === key)?.better ?? "lower";
  const verdict = (d: (typeof differences)[number]): string => {
    if (d.low === null || d.high === null) return "one pair";
    if (d.low <= 0 && d.high >= 0) return "not told apart";
    return d.mean < 0 === (better(d.measure) === "lower") ? `${d.a} is better` : `${d.b} is better`;
  };
  const rows = differences.map((d): Row => ({ measure: label(d.measure), a: d.a, b: d.b, mean: d.mean, sd: d.sd, low: d.low, high: d.high, n: d.n, verdict: verdict(d) })); // prettier-ignore
  const key = ["test.loss", "validation.loss"].find((k) => differences.some((d) => d.measure === k)) ?? differences[0]!.measure;
  const drawn = differences.filter((d) => d.measure === key && d.a !== "base" && d.b !== "base");
  const values = drawn.map((d) => ({ pair: `${d.a} − ${d.b}`, mean: d.mean, low: d.low, high: d.high }));
  return [
    {
      id: "differences",
      title: "By how much methods differ",
      about: `a − b of the same task and seed, mean over the pairs with the 95 % interval of Student's t.${values.length === 0 ? "" : ` The chart shows ${label(key)}, of which ${better(key)} is better: an interval that holds 0 does not tell the two apart.`}`,
      chart: values.length === 0 ? null : intervals(values, { name: "pair", names: values.map((v) => v.pair), x: { key: "mean", title: label(key) }, low: "low", high: "high" }), // prettier-ignore
      table: {
        columns: [
          { key: "measure", label: "measure" },
          { key: "a", label: "a" },
          { key: "b", label: "b" },
          ...withSd({ key: "mean", label: "a − b", digits: 4 }, "sd"),
          { key: "low", label: "95 % from", digits: 4 },
          { key: "high", label: "to", digits: 4 },
          { key: "n", label: "pairs", digits: 0 },
          { key: "verdict", label: "so" },
        ],
        rows,
      },
    },
  ];
}

// ── What was compared ──

function filesFigure({ tasks, others }: Result): Figure {
  const of = (use: string, name: string, file: { readonly file: string; readonly sha256: string } | null): Row[] =>
    file === null ? [] : [{ name, use, file: file.file, sha256: file.sha256 }];
  const rows = [
    ...tasks.flatMap((t) => (["train", "validation", "test", "answers"] as const).flatMap((use) => of(use, t.name, t[use]))),
    ...others.flatMap((o) => of("forgetting", o.name, o)),
  ];
  const columns: Column[] = [{ key: "name", label: "name" }, { key: "use", label: "use" }, { key: "file", label: "file" }, { key: "sha256", label: "sha256" }]; // prettier-ignore
  return { id: "files", title: "Data", about: "Rows, and the hashes of their files.", chart: null, table: { columns, rows } };
}

function planFigure({ plan, model }: Result): Figure {
  const columns: Column[] = [{ key: "key", label: "key" }, { key: "value", label: "value" }]; // prettier-ignore
  const rows = [{ key: "model", value: `${model.name}, ${model.fingerprint}` }, ...leaves(plan, "")];
  return { id: "plan", title: "Plan", about: "As it was understood, with every default.", chart: null, table: { columns, rows } };
}

// ── All runs ──

function runsFigure({ cells }: Result, times: Comparison["times"]): Figure {
  const rows = cells.map((c): Row => ({
    id: c.id,
    result: c.diverged ?? (c.chosen ? "chosen" : ""),
    validation: c.validation?.loss ?? null,
    test: c.test?.loss ?? null,
    steps: c.steps,
    tokens: c.tokens,
    share: c.trainedShare === null ? null : 100 * c.trainedShare,
    experts: c.experts,
    coverage: c.coverage,
    counted: c.coverageFrom === null ? null : `in ${c.coverageFrom === "profile" ? "the profile" : "training"}`,
    seconds: times.cells[c.id]?.trainSeconds ?? null,
  }));
  return {
    id: "runs",
    title: "Every run",
    about: "Runs at rates that were not chosen have validation figures alone.",
    chart: null,
    table: {
      columns: [
        { key: "id", label: "run" },
        { key: "result", label: "result" },
        { key: "validation", label: "validation loss", digits: 4 },
        { key: "test", label: "test loss", digits: 4 },
        { key: "steps", label: "updates", digits: 0 },
        { key: "tokens", label: "tokens", digits: 0 },
        { key: "share", label: "trained, %", digits: 2 },
        { key: "experts", label: "experts", digits: 0 },
        { key: "coverage", label: "coverage", digits: 3 },
        { key: "counted", label: "counted" },
        { key: "seconds", label: "seconds", digits: 2 },
      ],
      rows,
    },
  };
}

// ── What stands on top ──

function factsOf(result: Result): Fact[] {
  const [widest] = groupsOf(result).toSorted((a, b) => b.methods.length - a.methods.length); // on what most methods have
  const all = widest ? standings(result, widest) : [];
  const on = widest ? suffix(result, widest).replace(": ", " on ") : "";
  const most = all.toSorted((a, b) => b.gain.mean - a.gain.mean)[0];
  const least = all.toSorted((a, b) => a.forgetting.mean - b.forgetting.mean)[0];
  const smallest = result.methods
    .flatMap(({ name }) => {
      const mean = estimate(chosenOf(result, name).map((c) => c.adapterBytes));
      const share = estimate(chosenOf(result, name).map((c) => c.trainedShare));
      return mean ? [{ name, bytes: mean.mean, share: share?.mean }] : [];
    })
    .sort((a, b) => a.bytes - b.bytes)[0];
  const facts: (Fact | null)[] = [
    most ? { label: "Largest gain", value: most.method, note: `test loss falls by ${most.gain.mean.toFixed(4)}${on}` } : null,
    least
      ? { label: "Least forgotten", value: least.method, note: `loss elsewhere changes by ${change(least.forgetting.mean, 4)}${on}` }
      : null,
    smallest
      ? {
          label: "Smallest adapter",
          value: smallest.name,
          note: `${bytes(Math.round(smallest.bytes))}${smallest.share === undefined ? "" : `, ${percent(smallest.share)} of the parameters`}`,
        }
      : null,
  ];
  return facts.filter((f) => f !== null);
}

function remarksOf({ choices, cells }: Result): string[] {
  const without = choices
    .filter((c) => c.lr === null)
    .map((c) => `${c.method} on ${c.task}: every learning rate diverged; it has no figures.`);
  const diverged = cells.filter((c) => c.diverged !== null).length;
  return diverged === 0 ? without : [...without, `${diverged} of ${cells.length} runs diverged; the table of all runs says why.`];
}
