// A run of esft train as a report: what its events tell over the steps, its configuration, what happened.

import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { ConfigError } from "../errors.ts";
import { readSealedJson } from "../files/sealed.ts";
import { isPlain } from "../options.ts";
import type { Plain } from "../options.ts";
import type { Cell } from "./charts/chart.ts";
import { lines } from "./charts/lines.ts";
import type { Column, Fact, Figure, Report, Row } from "./content.ts";
import { leaves } from "./leaves.ts";
import { eventsOf, readRunLog } from "./run_log.ts";
import type { LoggedOf, RunLog } from "./run_log.ts";
import { bytes, count, duration, percent } from "../format.ts";

export const EVENTS = "events.jsonl";
export const REQUEST = "request.json";
/** Points of a line over the steps; a longer run is shown by means of as many stretches. */
const MOST_POINTS = 600;

export interface RunFiles {
  readonly dir: string;
  readonly log: RunLog;
  readonly request: Plain | null;
}

/** Is this the directory of a run? */
export const isRunDir = (dir: string): boolean => existsSync(join(dir, EVENTS)) || existsSync(join(dir, REQUEST));

/** @throws ConfigError it is none · LayoutError a file is damaged · IoError */
export async function readRun(dir: string): Promise<RunFiles> {
  if (!isRunDir(dir))
    throw new ConfigError(
      `${dir}: expected the run directory of esft train, with ${EVENTS} and ${REQUEST}, found neither; name the directory that --out named`,
      { where: { file: dir } },
    );
  const request = existsSync(join(dir, REQUEST)) ? (await readSealedJson(join(dir, REQUEST))).value : null;
  const log = existsSync(join(dir, EVENTS)) ? await readRunLog(join(dir, EVENTS)) : { events: [], cut: false };
  return { dir, log, request: isPlain(request) ? request : null };
}

export function runReport({ dir, log, request }: RunFiles): Report {
  const steps = eventsOf(log, "step");
  const evals = eventsOf(log, "eval");
  const sections = [
    { title: "Training", figures: steps.length + evals.length === 0 ? [] : trainingFigures(steps, evals) },
    { title: "Answers", figures: samplesTable(log) },
    { title: "Configuration", figures: request === null ? [] : [configuration(request)] },
    { title: "Events", figures: eventTable(log) },
  ];
  return {
    title: basename(resolve(dir)),
    about: aboutRun(log, request),
    facts: factsOf(log),
    remarks: remarksOf(log),
    sections: sections.filter((s) => s.figures.length > 0),
  };
}

// ── What stands on top ──

function aboutRun(log: RunLog, request: Plain | null): string {
  const start = eventsOf(log, "start").at(-1);
  if (!start) return "The run has not begun its first step.";
  const model = typeof request?.["model"] === "string" ? ` of ${basename(request["model"])}` : "";
  const { method, device, precision, examples, heldOut } = start;
  return `Fine-tuning${model} by ${method} on ${device} in ${precision}: ${count(examples)} examples, ${heldOut === 0 ? "none" : count(heldOut)} held out.`;
}

const STATES: Readonly<Record<string, string>> = { finished: "finished", interrupted: "interrupted" };

function stateOf(log: RunLog): string {
  const last = log.events.findLast((e) => e.type === "done" || e.type === "start" || e.type === "step");
  return last?.type === "done" ? (STATES[last.reason] ?? last.reason) : "not ended";
}

function factsOf(log: RunLog): Fact[] {
  const [start, step] = [eventsOf(log, "start").at(-1), eventsOf(log, "step").at(-1)];
  const evals = eventsOf(log, "eval");
  const best = evals.filter((e) => e.loss !== null).sort((a, b) => a.loss! - b.loss!)[0];
  const first = evals[0];
  const speeds = eventsOf(log, "step").flatMap((e) => e.tokensPerSecond ?? []).sort((a, b) => a - b); // prettier-ignore
  const facts: (Fact | null)[] = [
    step ? { label: "Steps", value: String(step.step), note: `of ${step.steps}, ${stateOf(log)}` } : null,
    step?.loss != null ? { label: "Training loss", value: step.loss.toFixed(4), note: "of the last step" } : null,
    best
      ? {
          label: "Best held-out loss",
          value: best.loss!.toFixed(4),
          note: `at step ${best.step}${first?.loss != null && first !== best ? `, from ${first.loss.toFixed(4)}` : ""}`,
        }
      : null,
    best?.accuracy != null ? { label: "Held-out accuracy", value: percent(best.accuracy), note: "of tokens, at that step" } : null,
    start
      ? {
          label: "Parameters trained",
          value: count(start.trainedParameters),
          note: `${percent(start.trainedParameters / start.totalParameters)} of ${count(start.totalParameters)}`,
        }
      : null,
    speeds.length > 0 ? { label: "Tokens per second", value: count(speeds[speeds.length >> 1]!), note: "median of the steps" } : null,
    step
      ? {
          label: "Time of the steps",
          value: duration(secondsOf(log)),
          note: step.etaSeconds !== null && stateOf(log) === "not ended" ? `about ${duration(step.etaSeconds)} to go` : "",
        }
      : null,
    start ? { label: "Training state", value: bytes(start.stateBytes), note: `and ${bytes(start.activationBytes)} of activations` } : null,
  ];
  return facts.filter((f) => f !== null).map(({ note, ...f }) => (note === "" || note === undefined ? f : { ...f, note }));
}

const secondsOf = (log: RunLog): number =>
  eventsOf(log, "step").reduce((s, e) => s + (e.tokensPerSecond ? e.tokens / e.tokensPerSecond : 0), 0);

function remarksOf(log: RunLog): string[] {
  const remarks = eventsOf(log, "warning").map((w) => `Step ${w.step}: ${w.message}`);
  const most = 6;
  const shown =
    remarks.length > most ? [...remarks.slice(0, most), `… and ${remarks.length - most} more warnings, in the table of events.`] : remarks;
  return log.cut
    ? [...shown, `The last line of ${EVENTS} is not whole and is left out: it is being written, or the run was killed.`]
    : shown;
}

// ── Over the steps ──

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

const STEP: Column = { key: "step", label: "step", digits: 0 };

function trainingFigures(steps: readonly StepEvent[], evals: readonly LoggedOf<"eval">[]): Figure[] {
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

// ── Configuration and events ──

function configuration(request: Plain): Figure {
  const { expertsSha256: _, ...asked } = request;
  return {
    id: "configuration",
    title: "What was asked for",
    about: `The request as ${REQUEST} keeps it, with every default.`,
    chart: null,
    table: { columns: [{ key: "key", label: "option" }, { key: "value", label: "value" }], rows: leaves(asked, "") }, // prettier-ignore
  };
}

/** Rows of the table of answers; earlier ones are left out. */
const MOST_SAMPLES = 60;

function samplesTable(log: RunLog): Figure[] {
  const all = eventsOf(log, "sample");
  if (all.length === 0) return [];
  const rows = all
    .slice(-MOST_SAMPLES)
    .map(({ step: at, place, prompt, answer, reference }): Row => ({ step: at, place, prompt, answer, reference }));
  const columns: Column[] = [
    STEP,
    { key: "place", label: "row" },
    { key: "prompt", label: "question" },
    { key: "answer", label: "answer" },
    { key: "reference", label: "reference" },
  ];
  const note = all.length > rows.length ? { note: `The last ${rows.length} of ${all.length}.` } : {};
  return [
    {
      id: "answers",
      title: "Answers while it trained",
      about: "To questions that are never trained on, the most likely token each time.",
      chart: null,
      table: { columns, rows },
      ...note,
    },
  ];
}

function eventTable(log: RunLog): Figure[] {
  const rows = log.events.flatMap((e): Row[] => {
    const what = describe(e);
    return what === null
      ? []
      : [
          {
            step: e.step,
            event: e.type,
            what,
            time: typeof e["time"] === "string" ? e["time"].replace("T", " ").replace(/\.\d+Z$/, "") : null,
          },
        ];
  });
  if (rows.length === 0) return [];
  const columns: Column[] = [STEP, { key: "event", label: "event" }, { key: "what", label: "what" }, { key: "time", label: "time (UTC)" }];
  return [
    {
      id: "events",
      title: "What happened",
      about: "Beside steps, evaluations, answers and checkpoints.",
      chart: null,
      table: { columns, rows },
    },
  ];
}

function describe(e: RunLog["events"][number]): string | null {
  switch (e.type) {
    case "start":
      return e.step === 0 ? `begins, ${e.steps} steps` : `goes on from step ${e.step}, of ${e.steps}`;
    case "stage":
      return `stage ${e.stage} of ${e.of} begins`;
    case "reallocate":
      return `${e.columns} columns of rank move between experts`;
    case "warning":
      return e.message;
    case "extend":
      return `the schedule is lengthened from ${e.from} to ${e.to} steps`;
    case "done":
      return `${e.reason} after ${duration(e.seconds)}`;
    default:
      return null;
  }
}
