// A run of esft train as a report: what its events tell over the steps, its configuration, what happened.

import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { ConfigError, LayoutError } from "../errors.ts";
import { readSealedJson } from "../files/sealed.ts";
import { bytes, count, duration, percent } from "../format.ts";
import { hubReference } from "../hub/reference.ts";
import { isPlain } from "../options.ts";
import type { Plain } from "../options.ts";
import { EVENTS } from "../train/events.ts";
import { REQUEST } from "../train/request.ts";
import type { Column, Fact, Figure, Report, Row } from "./content.ts";
import { leaves } from "./leaves.ts";
import { eventsOf, readRunLog } from "../train/run_log.ts";
import type { RunLog } from "../train/run_log.ts";
import { driftFigure } from "./run_drift.ts";
import { guardFigure } from "./run_guard.ts";
import { STEP, trainingFigures } from "./run_steps.ts";

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
  const request = existsSync(join(dir, REQUEST)) ? await readRequest(join(dir, REQUEST)) : null;
  const log = existsSync(join(dir, EVENTS)) ? await readRunLog(join(dir, EVENTS)) : { events: [], cut: false };
  return { dir, log, request };
}

async function readRequest(file: string): Promise<Plain> {
  const { value } = await readSealedJson(file);
  if (isPlain(value)) return value;
  const found = value === null ? "null" : Array.isArray(value) ? "a list" : `a ${typeof value}`;
  throw new LayoutError(`${file}: expected keys and values, found ${found}; the file is damaged`, { where: { file } });
}

export function runReport({ dir, log, request }: RunFiles): Report {
  const steps = eventsOf(log, "step");
  const evals = eventsOf(log, "eval");
  const sections = [
    { title: "Training", figures: steps.length + evals.length === 0 ? [] : trainingFigures(steps, evals) },
    { title: "What is not to be forgotten", figures: guardFigure(eventsOf(log, "guard")) },
    { title: "Routing", figures: driftFigure(eventsOf(log, "drift")) },
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
  const model = typeof request?.["model"] === "string" ? ` of ${hubReference(request["model"])?.id ?? basename(request["model"])}` : "";
  const { method, device, precision, examples, heldOut } = start;
  return `Fine-tuning${model} by ${method} on ${device} in ${precision}: ${count(examples)} examples, ${heldOut === 0 ? "none" : count(heldOut)} held out.`;
}

const ENDS: Readonly<Record<string, string>> = { earlyStop: "stopped early", time: "out of time", guard: "stopped by the guard" };
const endWords = (reason: string): string => ENDS[reason] ?? reason;

function stateOf(log: RunLog): string {
  const last = log.events.findLast((e) => e.type === "done" || e.type === "start" || e.type === "step");
  return last?.type === "done" ? endWords(last.reason) : "not ended";
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

const secondsOf = (log: RunLog): number => eventsOf(log, "step").reduce((sum, e) => sum + e.seconds, 0);

function remarksOf(log: RunLog): string[] {
  const remarks = eventsOf(log, "warning").map((w) => `Step ${w.step}: ${w.message}`);
  const most = 6;
  const shown = remarks.length > most ? [...remarks.slice(0, most), `… and ${remarks.length - most} more warnings in ${EVENTS}.`] : remarks;
  return log.cut
    ? [...shown, `The last line of ${EVENTS} is not whole and is left out: it is being written, or the run was killed.`]
    : shown;
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

/** Rows of the tables of answers and of events: the last ones of a longer run. */
const [MOST_SAMPLES, MOST_EVENTS] = [60, 200];

const lastOf = (rows: readonly Row[], all: readonly unknown[]): Pick<Figure, "note"> =>
  all.length > rows.length ? { note: `The last ${rows.length} of ${all.length}.` } : {};

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
  return [
    {
      id: "answers",
      title: "Answers while it trained",
      about: "To questions that are never trained on, the most likely token each time.",
      chart: null,
      table: { columns, rows },
      ...lastOf(rows, all),
    },
  ];
}

function eventTable(log: RunLog): Figure[] {
  const all = log.events.flatMap((e): Row[] => {
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
  if (all.length === 0) return [];
  const rows = all.slice(-MOST_EVENTS);
  const columns: Column[] = [STEP, { key: "event", label: "event" }, { key: "what", label: "what" }, { key: "time", label: "time (UTC)" }];
  return [
    {
      id: "events",
      title: "What happened",
      about: "Beside steps, evaluations, answers and checkpoints.",
      chart: null,
      table: { columns, rows },
      ...lastOf(rows, all),
    },
  ];
}

function describe(e: RunLog["events"][number]): string | null {
  switch (e.type) {
    case "start":
      return e.step === 0
        ? `begins, ${e.steps} steps${e.epochs === undefined ? "" : ` (${e.epochs} epochs)`}`
        : `goes on from step ${e.step}, of ${e.steps}`;
    case "stage":
      return `stage ${e.stage} of ${e.of} begins`;
    case "reallocate":
      return `${e.columns} columns of rank move between experts`;
    case "warning":
      return e.message;
    case "extend":
      return `the schedule is lengthened from ${e.from} to ${e.to} steps`;
    case "done":
      return `${endWords(e.reason)} after ${duration(e.seconds)}${e.message === undefined ? "" : `: ${e.message}`}`;
    default:
      return null;
  }
}
