// Held-out figures and scores of answers, of the base and of adapters: each is computed once and kept in the run's record.

import { join } from "node:path";
import { metricsByName } from "../answers/metrics.ts";
import { evaluateAnswers } from "../evaluate_answers.ts";
import { disk } from "../files/disk.ts";
import type { DataOptions } from "../options.ts";
import type { PlanTask } from "./plan.ts";
import type { Facts, RunRecord } from "./record.ts";
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

/** Figures that a record has. @throws Error they were not taken: a defect */
export function figuresOf(s: Session, record: RunRecord, rows: HeldOut): Figures {
  const values = record.evaluated(rows.name, factsOf(s, rows));
  if (values === null) throw new Error(`${record.dir}: "${rows.name}" was not evaluated`);
  return values as unknown as Figures;
}

/** Takes the figures that a record has not yet, with `adapter` applied (null: of the base). @throws NonFiniteError · DataError · AbortError */
export async function evaluateAll(s: Session, id: string, record: RunRecord, adapter: string | null, all: readonly HeldOut[]) {
  const due = all.filter((rows) => record.evaluated(rows.name, factsOf(s, rows)) === null);
  for (const rows of all) if (!due.includes(rows)) s.outlook.skip(`evaluate ${rows.name}`, 1);
  if (due.length === 0) return;
  if (adapter !== null) await s.model.applyAdapter(adapter, { signal: s.signal });
  try {
    for (const rows of due) await evaluate(s, id, record, rows);
  } finally {
    if (adapter !== null) s.model.removeAdapter();
  }
}

async function evaluate(s: Session, id: string, record: RunRecord, rows: HeldOut): Promise<void> {
  await s.files.requireUnchanged();
  const { batchTokens, rows: limit } = s.plan.evaluation;
  const onProgress = (p: { done: number; total: number }): void => s.progress(id, rows.name, p.done, p.total);
  const { value, seconds } = await s.timed(`evaluate ${rows.name}`, async () => {
    const options = { ...rows.data, batchTokens, ...(limit === undefined ? {} : { rows: limit }) };
    return s.model.evaluate(await s.examples(rows.file, rows.data), options, { signal: s.signal, onProgress });
  });
  const { loss, accuracy, supervised, tokens } = value;
  await record.evaluate(rows.name, factsOf(s, rows), { loss, accuracy, supervised, tokens }, seconds);
}

const answersFile = (task: PlanTask): string => task.answers ?? task.test;
const answersName = (task: PlanTask): string => `answers ${task.name}`;

async function answersFacts(s: Session, task: PlanTask): Promise<Facts> {
  const { metrics, ...options } = s.plan.evaluation.answers!;
  const named = (await metricsByName(metrics, "plan.evaluation.answers.metrics")).map(({ identity }) => identity);
  return { ...s.modelFacts, data: s.files.dataFacts(answersFile(task), dataOf(task)), metrics: named, options };
}

/** Scores that a record has; null where the plan asks for none. */
export async function scoresOf(s: Session, record: RunRecord, task: PlanTask): Promise<Readonly<Record<string, number>> | null> {
  if (!s.plan.evaluation.answers) return null;
  const values = record.evaluated(answersName(task), await answersFacts(s, task));
  if (values === null) throw new Error(`${record.dir}: "${answersName(task)}" was not evaluated`);
  return values;
}

/** Answers the task's questions, row by row in a file beside the record; one that was killed goes on there. */
export async function answerAll(s: Session, id: string, record: RunRecord, adapter: string | null, task: PlanTask): Promise<void> {
  const { answers } = s.plan.evaluation;
  if (!answers) return;
  const name = answersName(task);
  const kind = `answers ${task.name}` as const;
  const facts = await answersFacts(s, task);
  if (record.evaluated(name, facts) !== null) return s.outlook.skip(kind, 1);
  const file = join(record.dir, `${task.name}.answers.jsonl`);
  if (!record.began(name, facts)) {
    await disk.rm(file, { force: true });
    await record.evaluate(name, facts, null, 0);
  }
  await s.files.requireUnchanged();
  const { shape, template, onBadRow, onDropped } = task;
  if (adapter !== null) await s.model.adapters.add(RESIDENT, adapter);
  try {
    const { value, seconds } = await s.timed(kind, () =>
      evaluateAnswers(
        s.model,
        answersFile(task),
        { ...answers, shape, template, onBadRow, onDropped, file, ...(adapter === null ? {} : { adapter: RESIDENT }) },
        { signal: s.signal, onProgress: (p) => s.progress(id, name, p.done, p.total) },
      ),
    );
    await record.evaluate(name, facts, value.scores, seconds);
  } finally {
    if (adapter !== null) s.model.adapters.remove(RESIDENT);
  }
}
const RESIDENT = "cell";
