// Held-out figures and scores of answers, of the base and of adapters: each is computed once and kept in the run's record.

import { join } from "node:path";
import { metricsByName } from "../answers/metrics.ts";
import { NonFiniteError } from "../errors.ts";
import { evaluateAnswers } from "../evaluate_answers.ts";
import { disk } from "../files/disk.ts";
import type { DataOptions } from "../options.ts";
import type { PlanTask } from "./plan.ts";
import type { Kind } from "./outlook.ts";
import { placed } from "./place.ts";
import type { Facts, Outcome, RunRecord } from "./record.ts";
import type { Figures } from "./result.ts";
import type { Session } from "./session.ts";

/** Rows to evaluate, and what they are called in a record. */
export interface HeldOut {
  readonly name: string;
  readonly file: string;
  readonly data: DataOptions;
}

const dataOf = ({ name: _, train: _t, validation: _v, test: _s, answers: _a, ...data }: PlanTask): DataOptions => data;

export const validationOf = (task: PlanTask): HeldOut => ({ name: `validation ${task.name}`, file: task.validation, data: dataOf(task) });
export const testOf = (task: PlanTask): HeldOut => ({ name: `test ${task.name}`, file: task.test, data: dataOf(task) });
export const othersOf = ({ plan }: Session): HeldOut[] =>
  plan.others.map(({ name, file, ...data }) => ({ name: `other ${name}`, file, data }));

const factsOf = (s: Session, { file, data }: HeldOut): Facts => {
  const { batchTokens, rows } = s.plan.evaluation;
  return { ...s.modelFacts, data: s.files.dataFacts(file, data), batchTokens, rows: rows ?? null };
};

/** Figures that a record has; null: they are not finite. @throws Error they were not taken: a defect */
export function figuresOf(s: Session, record: RunRecord, rows: HeldOut): Figures | null {
  return outcomeOf(record, rows.name, factsOf(s, rows)).values as Figures | null;
}

function outcomeOf(record: RunRecord, name: string, facts: Facts): Outcome {
  const outcome = record.evaluated(name, facts);
  if (outcome === null) throw new Error(`${record.dir}: "${name}" was not evaluated; this is a defect of esft`);
  return outcome;
}

/** What is evaluated, for errors and records. */
export interface Evaluated {
  /** A cell's id, or "base". */
  readonly id: string;
  readonly record: RunRecord;
  /** The adapter's directory; null: the base. */
  readonly adapter: string | null;
  /** Figures that are not finite are an outcome as others are: they decide nothing. */
  readonly lenient?: boolean;
}

/**
 * Takes the figures that a record has not yet, with the adapter applied.
 * @throws NonFiniteError unless `lenient` · DataError · AbortError; naming cell and file
 */
export async function evaluateAll(s: Session, of: Evaluated, all: readonly HeldOut[]): Promise<void> {
  const { id, record, adapter } = of;
  const due = all.filter((rows) => record.evaluated(rows.name, factsOf(s, rows)) === null);
  for (const rows of all) if (!due.includes(rows)) s.outlook.skip(`evaluate ${rows.name}`, 1);
  if (due.length === 0) return;
  if (adapter !== null)
    await s.model.applyAdapter(adapter, { signal: s.signal }).catch((error: unknown) => {
      throw placed(error, id);
    });
  try {
    for (const rows of due) await evaluate(s, of, rows);
  } finally {
    if (adapter !== null) s.model.removeAdapter();
  }
}

async function evaluate(s: Session, of: Evaluated, rows: HeldOut): Promise<void> {
  const { batchTokens, rows: limit } = s.plan.evaluation;
  const options = { ...rows.data, batchTokens, ...(limit === undefined ? {} : { rows: limit }) };
  const onProgress = (p: { done: number; total: number }): void => s.progress(of.id, rows.name, p.done, p.total);
  await take(s, of, { name: rows.name, file: rows.file, kind: `evaluate ${rows.name}`, facts: factsOf(s, rows) }, async () => {
    const { loss, accuracy, supervised, tokens } = await s.model.evaluate(await s.examples(rows.file, rows.data), options, { signal: s.signal, onProgress }); // prettier-ignore
    return { loss, accuracy, supervised, tokens };
  });
}

interface Work {
  readonly name: string;
  readonly file: string;
  readonly kind: Kind;
  readonly facts: Facts;
}

/** Records what an evaluation comes to, of files that are the same before and after it. */
async function take(s: Session, of: Evaluated, { name, file, kind, facts }: Work, work: () => Promise<Readonly<Record<string, number>>>) {
  const { id, record, adapter, lenient } = of;
  await s.files.requireUnchanged();
  const { value, seconds } = await s.timed(kind, async (): Promise<Outcome> => {
    try {
      return { values: await work(), nonFinite: null };
    } catch (error) {
      const ofAdapter = error instanceof NonFiniteError && adapter !== null;
      if (ofAdapter && lenient) return { values: null, nonFinite: error.message };
      throw ofAdapter ? error : placed(error, id, name, file);
    }
  });
  await s.files.requireUnchanged();
  await record.evaluate(name, facts, value, seconds);
  if (value.nonFinite !== null) s.note(`${id}, ${name}: ${value.nonFinite}; it has no figures`);
}

const answersFile = (task: PlanTask): string => task.answers ?? task.test;
const answersName = (task: PlanTask): string => `answers ${task.name}`;

async function answersFacts(s: Session, task: PlanTask): Promise<Facts> {
  const { metrics, ...options } = s.plan.evaluation.answers!;
  const named = (await metricsByName(metrics, "plan.evaluation.answers.metrics")).map(({ name, identity }) => [name, identity]);
  return { ...s.modelFacts, data: s.files.dataFacts(answersFile(task), dataOf(task)), metrics: named, options };
}

/** Scores that a record has; null where the plan asks for none, or answers were not finite. */
export async function scoresOf(s: Session, record: RunRecord, task: PlanTask): Promise<Record<string, number> | null> {
  if (!s.plan.evaluation.answers) return null;
  return outcomeOf(record, answersName(task), await answersFacts(s, task)).values;
}

/** Answers the task's questions, row by row in a file beside the record; one that was killed goes on there. Errors name cell and file. */
export async function answerAll(s: Session, of: Evaluated, task: PlanTask): Promise<void> {
  const { answers } = s.plan.evaluation;
  if (!answers) return;
  const { id, record, adapter } = of;
  const name = answersName(task);
  const kind = `answers ${task.name}` as const;
  const facts = await answersFacts(s, task);
  if (record.evaluated(name, facts) !== null) return s.outlook.skip(kind, 1);
  const file = join(record.dir, `${task.name}.answers.jsonl`);
  if (!record.began(name, facts)) {
    await disk.rm(file, { force: true });
    await record.begin(name, facts);
  }
  const { format, shape, template, onBadRow, onDropped } = task;
  const options = { ...answers, format, shape, template, onBadRow, onDropped, file, ...(adapter === null ? {} : { adapter: RESIDENT }) };
  await take(s, of, { name, file: answersFile(task), kind, facts }, async () => {
    if (adapter !== null) await s.model.adapters.add(RESIDENT, adapter);
    try {
      const onProgress = (p: { done: number; total: number }): void => s.progress(id, name, p.done, p.total);
      return (await evaluateAnswers(s.model, answersFile(task), options, { signal: s.signal, onProgress })).scores;
    } finally {
      if (adapter !== null) s.model.adapters.remove(RESIDENT);
    }
  });
}
const RESIDENT = "cell";
