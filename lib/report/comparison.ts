// A comparison of methods as a report: what each gains on its task and forgets elsewhere, by how much two differ, the learning rates that
// were tried, what each costs.

import { groupsOf, partialWords } from "../compare/method_tasks.ts";
import type { Group } from "../compare/method_tasks.ts";
import type { CompareCell, Comparison, Measure } from "../compare/result.ts";
import { bytes, count, duration, percent } from "../format.ts";
import type { Cell } from "./charts/chart.ts";
import { bars, intervals, points } from "./charts/marks.ts";
import { meanOf } from "./estimate.ts";
import type { Mean } from "./estimate.ts";
import type { Column, Fact, Figure, Report, Row, Section } from "./content.ts";
import { leaves } from "./leaves.ts";
import { ratesFigures } from "./comparison_rates.ts";

export function comparisonReport({ result, times }: Comparison): Report {
  const { model, device, seeds, tasks, methods } = result;
  const sections: Section[] = [
    {
      title: "Gain and forgetting",
      figures: [...groupsOf(result).flatMap((group, i) => tradeOff(result, group, i)), summaryFigure(result), ...answersFigures(result)],
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

type Result = Comparison["result"];

/** Runs of a method at its chosen rates, which have all figures; on some tasks, or all. */
export const chosenOf = (result: Result, method: string, tasks?: readonly string[]): CompareCell[] =>
  result.cells.filter((c) => c.method === method && c.chosen && c.diverged === null && (tasks?.includes(c.task) ?? true));

/** ": law, code" of a group that has not all tasks. */
const suffix = ({ tasks }: Result, group: Group): string => (group.tasks.length === tasks.length ? "" : `: ${group.tasks.join(", ")}`);

// ── Gain and forgetting ──

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
  const there = rises.filter((r) => r !== null);
  return there.length < rises.length ? null : there.reduce((a, b) => a + b, 0) / there.length;
}

interface Standing {
  readonly method: string;
  readonly gain: Mean;
  readonly forgetting: Mean;
}

function standings(result: Result, { tasks, methods }: Group): Standing[] {
  return methods.flatMap((method) => {
    const cells = chosenOf(result, method, tasks);
    const gain = meanOf(cells.map((c) => gainOf(result, c)));
    const forgetting = meanOf(cells.map((c) => forgettingOf(result, c)));
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

function tradeOff(result: Result, group: Group, i: number): Figure[] {
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
  const ends = ({ mean, sd }: Mean): [Cell, Cell] => (sd === null ? [null, null] : [mean - sd, mean + sd]);
  const values = all.map((s) => {
    const [[left, right], [low, high]] = [ends(s.forgetting), ends(s.gain)];
    return { method: s.method, gain: s.gain.mean, forgetting: s.forgetting.mean, front: onFront(s, all) ? 1 : 0, left, right, low, high };
  });
  return [
    {
      id: i === 0 ? "trade-off" : `trade-off-${i + 1}`,
      title: `What a method gains and what it forgets${suffix(result, group)}`,
      about:
        "Up: by how much the loss on the task's test rows fell. To the right: by how much the loss on rows of other domains rose. The best stand at the top left; the dotted line joins those that no other beats in both. Means over tasks and seeds at the chosen learning rates, with a cross of one standard deviation.",
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
          { key: "gain", label: "gain", digits: 4 },
          { key: "gainSd", label: "± sd", digits: 4 },
          { key: "forgetting", label: "forgetting", digits: 4 },
          { key: "forgettingSd", label: "± sd", digits: 4 },
          { key: "n", label: "runs", digits: 0 },
          { key: "front", label: "beaten by none" },
        ],
        rows,
      },
    },
  ];
}

/** Decimals of a measure: losses are told to four, scores of answers to three. */
const digitsOf = (m: Measure): number => (m.key.startsWith("answers.") ? 3 : 4);

function summaryFigure(result: Result): Figure {
  const told = result.measures.filter((m) => result.summary.some((s) => s.values[m.key] !== undefined));
  const columns: Column[] = [
    { key: "task", label: "task" },
    { key: "method", label: "method" },
    { key: "lr", label: "learning rate", significant: 4 },
    { key: "n", label: "n", digits: 0 },
    ...told.flatMap((m, i): Column[] => [
      { key: `m${i}`, label: m.label, digits: digitsOf(m) },
      { key: `s${i}`, label: "± sd", digits: digitsOf(m) },
    ]),
  ];
  const rows = result.summary.map((s): Row => {
    const estimates = told.map((m) => s.values[m.key] ?? null);
    const cells: Record<string, Cell> = {
      task: s.task ?? "all tasks",
      method: s.method,
      lr: s.lr,
      n: Math.max(...estimates.map((e) => e?.n ?? 0)),
    };
    estimates.forEach((e, i) => {
      cells[`m${i}`] = e?.mean ?? null;
      cells[`s${i}`] = e?.sd ?? null;
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

/** Bars of each metric of answers, with those of the model as it is. */
function answersFigures(result: Result): Figure[] {
  const metrics = result.measures.filter((m) => m.key.startsWith("answers."));
  const drawn = metrics.flatMap((m) => groupsOf(result).map((group) => ({ m, group })));
  return drawn.map(({ m, group }, i): Figure => {
    const metric = m.key.slice("answers.".length);
    const base = meanOf(group.tasks.map((task) => result.base.tasks[task]?.answers?.[metric] ?? null));
    const rows = [
      ...(base ? [amount("base", { ...base, sd: null })] : []),
      ...group.methods.flatMap((name) => {
        const mean = meanOf(chosenOf(result, name, group.tasks).map((c) => c.answers?.[metric] ?? null));
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
          { key: "mean", label: "a − b", digits: 4 },
          { key: "sd", label: "± sd", digits: 4 },
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

// ── Cost ──

interface Amount extends Mean {
  readonly name: string;
}
const amount = (name: string, mean: Mean): Amount => ({ name, ...mean });

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
    about,
    half: true,
    chart: all.length === 0 ? null : bars(values, { name: "name", names: all.map((a) => a.name), x: { key: "mean", title: value.label, labels: value.labels }, text: "words", low: "low", high: "high" }), // prettier-ignore
    table: {
      columns: [
        { key: "name", label: "method" },
        { key: "mean", label: value.label, digits: value.digits },
        { key: "sd", label: "± sd", digits: value.digits },
        { key: "n", label: "runs", digits: 0 },
      ],
      rows: all.map(({ name, mean, sd, n }): Row => ({ name, mean, sd, n })),
    },
  };
}

function costFigures(result: Result, times: Comparison["times"]): Figure[] {
  const of = (value: (cell: CompareCell) => number | null | undefined): Amount[] =>
    result.methods.flatMap(({ name }) => {
      const mean = meanOf(chosenOf(result, name).map((c) => value(c) ?? null));
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
      const mean = meanOf(chosenOf(result, name).map((c) => c.adapterBytes));
      const share = meanOf(chosenOf(result, name).map((c) => c.trainedShare));
      return mean ? [{ name, bytes: mean.mean, share: share?.mean }] : [];
    })
    .sort((a, b) => a.bytes - b.bytes)[0];
  const facts: (Fact | null)[] = [
    most ? { label: "Largest gain", value: most.method, note: `test loss falls by ${most.gain.mean.toFixed(4)}${on}` } : null,
    least
      ? { label: "Least forgotten", value: least.method, note: `loss elsewhere changes by ${signed(least.forgetting.mean)}${on}` }
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

const signed = (x: number): string => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(4)}`;

function remarksOf({ choices, cells }: Result): string[] {
  const without = choices
    .filter((c) => c.lr === null)
    .map((c) => `${c.method} on ${c.task}: every learning rate diverged; it has no figures.`);
  const diverged = cells.filter((c) => c.diverged !== null).length;
  return diverged === 0 ? without : [...without, `${diverged} of ${cells.length} runs diverged; the table of all runs says why.`];
}
