// What a run tells over its steps: losses, speed, gradient norm, learning rate, accuracy and what else its method has.

import { meanOf } from "../compare/statistics.ts";
import type { Cell } from "./charts/chart.ts";
import { lines } from "./charts/lines.ts";
import type { Column, Figure, Row } from "./content.ts";
import type { LoggedOf } from "../train/run_log.ts";

/** Points of a line over the steps; a longer run is shown by means of as many stretches. */
const MOST_POINTS = 600;

type StepEvent = LoggedOf<"step">;
type EvalEvent = LoggedOf<"eval">;

interface Series {
  readonly key: "loss" | "accuracy" | "gradNorm" | "lr" | "tokensPerSecond" | "coverage" | "balanceLoss";
  /** What stands for a stretch of steps: a mean, or the value of the last. */
  readonly of: "mean" | "last";
}

interface Stretches<E> {
  /** Events in each; the last may have fewer. */
  readonly length: number;
  readonly parts: readonly (readonly E[])[];
}

/** One event each; of more than MOST_POINTS events so many that they are at most as many. */
function stretchesOf<E>(events: readonly E[]): Stretches<E> {
  const length = Math.max(1, Math.ceil(events.length / MOST_POINTS));
  const parts = Array.from({ length: Math.ceil(events.length / length) }, (_, i) => events.slice(i * length, (i + 1) * length));
  return { length, parts };
}

/** Null where one of the values is not finite. */
const finiteMean = (values: readonly (number | null)[]): number | null => (values.includes(null) ? null : meanOf(values));

const eachMean = (length: number, what: string): string => (length > 1 ? `; each point is the mean of ${length} ${what}` : "");

/** Of values that stand in the log as null. */
function gapsNote(values: readonly (number | null)[]): Pick<Figure, "note"> {
  const gaps = values.filter((v) => v === null).length;
  return gaps === 0 ? {} : { note: `${gaps} of ${values.length} values were not finite: the line has gaps there.` };
}

export const STEP: Column = { key: "step", label: "step", digits: 0 };

interface Scale {
  readonly title: string;
  readonly column: Column;
  readonly zero?: boolean;
  /** A logarithmic scale where the values are far apart and above 0. */
  readonly wide?: boolean;
  readonly labels?: "share" | "large" | "small" | "plain";
}

/** Of the steps that have the value: what a method has in one stage it may not have in another. */
function overSteps(steps: readonly StepEvent[], { key, of }: Series, title: string, about: string, scale: Scale): Figure {
  const having = steps.filter((e) => e[key] !== undefined);
  const values = having.map((e) => e[key] ?? null);
  const { length, parts } = stretchesOf(having);
  const rows = parts.map((part): Row => {
    const own = part.map((e) => e[key] ?? null);
    return { step: part.at(-1)!.step, [key]: of === "mean" ? finiteMean(own) : own.at(-1)! };
  });
  const drawn = rows.map((r) => r[key] as number | null).filter((v) => v !== null);
  const { title: unit, column, wide, ...more } = scale;
  const log = wide === true && Math.min(...drawn) > 0 && Math.max(...drawn) > 30 * Math.min(...drawn);
  const y = { key, title: unit, ...more, ...(wide ? { log, zero: !log } : {}), ...(log ? { labels: "plain" as const } : {}) };
  return {
    id: key,
    title,
    about: `${about}${log ? ", on a logarithmic scale" : ""}${of === "mean" ? eachMean(length, "steps") : ""}.`,
    chart: drawn.length > 0 ? lines(rows, { x: { key: "step", title: "step" }, y, half: true }) : null,
    table: { columns: [STEP, column], rows },
    half: true,
    ...gapsNote(values),
  };
}

export function trainingFigures(steps: readonly StepEvent[], evals: readonly EvalEvent[]): Figure[] {
  const has = (key: Series["key"]): boolean => steps.some((e) => e[key] !== undefined && e[key] !== null);
  const figures = [lossFigure(steps, evals)];
  if (steps.length === 0) return figures;
  figures.push(
    overSteps(steps, { key: "tokensPerSecond", of: "mean" }, "Speed", "Tokens per second of each update", {
      title: "tokens per second",
      column: { key: "tokensPerSecond", label: "tokens per second", digits: 0 },
      zero: true,
      labels: "large",
    }),
    overSteps(steps, { key: "gradNorm", of: "mean" }, "Gradient norm", "Global norm before clipping", {
      title: "norm",
      column: { key: "gradNorm", label: "gradient norm", significant: 5 },
      wide: true,
    }),
    overSteps(steps, { key: "lr", of: "last" }, "Learning rate", "Of each update", {
      title: "learning rate",
      column: { key: "lr", label: "learning rate", significant: 5 },
      zero: true,
      labels: "small",
    }),
    overSteps(
      steps,
      { key: "accuracy", of: "mean" },
      "Accuracy",
      "Share of supervised tokens whose most likely prediction is right, before the update",
      { title: "share of tokens", column: { key: "accuracy", label: "accuracy", digits: 4 }, labels: "share" },
    ),
  );
  if (has("coverage"))
    figures.push(
      overSteps(steps, { key: "coverage", of: "mean" }, "Coverage", "Share of routed slots that met a trained expert", {
        title: "share of slots",
        column: { key: "coverage", label: "coverage", digits: 4 },
        labels: "share",
      }),
    );
  if (has("balanceLoss"))
    figures.push(
      overSteps(
        steps,
        { key: "balanceLoss", of: "mean" },
        "Balance loss",
        "Load-balancing losses that the method weighs, with their weights",
        { title: "loss", column: { key: "balanceLoss", label: "balance loss", significant: 5 } },
      ),
    );
  return figures;
}

function lossFigure(steps: readonly StepEvent[], evals: readonly EvalEvent[]): Figure {
  const [stepStretches, evalStretches] = [stretchesOf(steps), stretchesOf(evals)];
  const train = stepStretches.parts.map((part): Row => ({ step: part.at(-1)!.step, loss: finiteMean(part.map((e) => e.loss)) }));
  const held = evalStretches.parts.map((part): Row => ({
    step: part.at(-1)!.step,
    heldOut: finiteMean(part.map((e) => e.loss)),
    accuracy: finiteMean(part.map((e) => e.accuracy)),
    best: part.some((e) => e.best) ? "best so far" : null,
  }));
  const [names, values] = [
    [...(train.length > 0 ? ["training"] : []), ...(held.length > 0 ? ["held out"] : [])],
    [
      ...train.map((r) => ({ step: r["step"]!, loss: r["loss"] ?? null, series: "training" })),
      ...held.map((r) => ({ step: r["step"]!, loss: r["heldOut"] ?? null, series: "held out" })),
    ],
  ];
  const at = new Map<Cell, Record<string, Cell>>(train.map((r) => [r["step"]!, { ...r }]));
  for (const r of held) at.set(r["step"]!, { ...at.get(r["step"]!), ...r });
  const rows = [...at.values()].sort((a, b) => Number(a["step"]) - Number(b["step"]));
  const loss: Column[] = [
    ...(train.length > 0 ? [{ key: "loss", label: "training loss", digits: 4 }] : []),
    ...(held.length > 0
      ? [
          { key: "heldOut", label: "held-out loss", digits: 4 },
          { key: "accuracy", label: "held-out accuracy", digits: 4 },
          { key: "best", label: "" },
        ]
      : []),
  ];
  const heldOut = held.length > 0 ? `, and of rows that are never trained on${eachMean(evalStretches.length, "evaluations")}` : "";
  return {
    id: "loss",
    title: "Loss",
    about: `Mean negative log-likelihood of a supervised token, in nats: of the rows of each update before it${eachMean(stepStretches.length, "steps")}${heldOut}.`,
    chart: values.some((v) => v.loss !== null)
      ? lines(values, { x: { key: "step", title: "step" }, y: { key: "loss", title: "nats per token" }, names, dots: ["held out"] })
      : null,
    table: { columns: [STEP, ...loss], rows },
    ...gapsNote([...steps, ...evals].map((e) => e.loss)),
  };
}
