// What a run tells over its steps: losses, speed, gradient norm, learning rate, accuracy and what else its method has.

import type { Cell } from "./charts/chart.ts";
import { lines } from "./charts/lines.ts";
import type { Column, Figure, Row } from "./content.ts";
import type { LoggedOf } from "./run_log.ts";

/** Points of a line over the steps; a longer run is shown by means of as many stretches. */
const MOST_POINTS = 600;

type StepEvent = LoggedOf<"step">;

/** What stands for a stretch of steps: a mean, or the value of the last. */
interface Series {
  readonly key: "loss" | "accuracy" | "gradNorm" | "lr" | "tokensPerSecond" | "coverage" | "balanceLoss";
  readonly of: "mean" | "last";
}

/** A row per step; of more than MOST_POINTS, a row per stretch, under its last step. */
function stretches(steps: readonly StepEvent[], { key, of }: Series): Row[] {
  const length = Math.ceil(steps.length / MOST_POINTS);
  const rows: Row[] = [];
  for (let i = 0; i < steps.length; i += length) {
    const part = steps.slice(i, i + length);
    const values = part.map((e) => e[key] ?? null);
    const finite = values.filter((v) => v !== null);
    const mean = finite.length < values.length ? null : finite.reduce((a, b) => a + b, 0) / finite.length;
    rows.push({ step: part.at(-1)!.step, [key]: of === "mean" ? mean : (values.at(-1) ?? null) });
  }
  return rows;
}

export const STEP: Column = { key: "step", label: "step", digits: 0 };

export function trainingFigures(steps: readonly StepEvent[], evals: readonly LoggedOf<"eval">[]): Figure[] {
  const length = Math.ceil(steps.length / MOST_POINTS);
  const of = length > 1 ? `; each point is the mean of ${length} steps` : "";
  const has = (key: Series["key"]): boolean => steps.some((e) => e[key] !== undefined && e[key] !== null);
  const simple = (
    series: Series,
    title: string,
    about: string,
    y: { title: string; column: Column; zero?: boolean; log?: boolean; labels?: "share" | "large" | "small" | "plain" },
  ): Figure => {
    const rows = stretches(steps, series);
    const gaps = rows.filter((r) => r[series.key] === null).length;
    const chart = lines(rows, { x: { key: "step", title: "step" }, y: { ...y, key: series.key }, half: true });
    return {
      id: series.key,
      title,
      about: `${about}${series.of === "mean" ? of : ""}.`,
      chart: has(series.key) ? chart : null,
      table: { columns: [STEP, y.column], rows },
      half: true,
      ...(gaps > 0 ? { note: `${gaps} of ${rows.length} values were not finite: the line has gaps there.` } : {}),
    };
  };
  const figures = [lossFigure(steps, evals, of)];
  if (steps.length === 0) return figures;
  const norms = steps.flatMap((e) => e.gradNorm ?? []).filter((n) => n > 0);
  const wide = Math.max(...norms) > 30 * Math.min(...norms) && steps.every((e) => e.gradNorm === null || e.gradNorm > 0);
  figures.push(
    simple({ key: "tokensPerSecond", of: "mean" }, "Speed", "Tokens per second of each update", {
      title: "tokens per second",
      column: { key: "tokensPerSecond", label: "tokens per second", digits: 0 },
      zero: true,
      labels: "large",
    }),
    simple({ key: "gradNorm", of: "mean" }, "Gradient norm", `Global norm before clipping${wide ? ", on a logarithmic scale" : ""}`, {
      title: "norm",
      column: { key: "gradNorm", label: "gradient norm", significant: 5 },
      log: wide,
      zero: !wide,
      ...(wide ? { labels: "plain" } : {}),
    }),
    simple({ key: "lr", of: "last" }, "Learning rate", "Of each update", {
      title: "learning rate",
      column: { key: "lr", label: "learning rate", significant: 5 },
      zero: true,
      labels: "small",
    }),
    simple(
      { key: "accuracy", of: "mean" },
      "Accuracy",
      "Share of supervised tokens whose most likely prediction is right, before the update",
      { title: "share of tokens", column: { key: "accuracy", label: "accuracy", digits: 4 }, labels: "share" },
    ),
  );
  if (has("coverage"))
    figures.push(
      simple({ key: "coverage", of: "mean" }, "Coverage", "Share of routed slots that met a trained expert", {
        title: "share of slots",
        column: { key: "coverage", label: "coverage", digits: 4 },
        labels: "share",
      }),
    );
  if (has("balanceLoss"))
    figures.push(
      simple({ key: "balanceLoss", of: "mean" }, "Balance loss", "Load-balancing losses that the method weighs, with their weights", {
        title: "loss",
        column: { key: "balanceLoss", label: "balance loss", significant: 5 },
      }),
    );
  return figures;
}

function lossFigure(steps: readonly StepEvent[], evals: readonly LoggedOf<"eval">[], of: string): Figure {
  const train = stretches(steps, { key: "loss", of: "mean" });
  const held = evals.map((e): Row => ({ step: e.step, heldOut: e.loss, accuracy: e.accuracy, best: e.best ? "best so far" : null }));
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
  return {
    id: "loss",
    title: "Loss",
    about: `Mean negative log-likelihood of a supervised token, in nats: of the rows of each update before it${held.length > 0 ? ", and of rows that are never trained on" : ""}${of}.`,
    chart: values.some((v) => v.loss !== null)
      ? lines(values, { x: { key: "step", title: "step" }, y: { key: "loss", title: "nats per token" }, names, dots: ["held out"] })
      : null,
    table: { columns: [STEP, ...loss], rows },
  };
}
