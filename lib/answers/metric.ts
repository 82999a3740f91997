// A metric of answers: a score of each answer beside its references, and one figure for all of them.

import { DataError } from "../errors.ts";

/** An answer beside what it should have been. */
export interface Answered {
  /** Where it comes from, for messages: file and line. */
  readonly place: string;
  readonly answer: string;
  /** Each of them is right. */
  readonly references: readonly string[];
  /** The row of data as it was read, for modules of users. */
  readonly row?: unknown;
}
export interface Scored extends Answered {
  readonly score: number;
}

export interface Metric {
  /** As it is asked for and written beside its scores. */
  readonly name: string;
  /** What its scores depend on: the name, and of a user's module its bytes too. Files of scores that go on keep it. */
  readonly identity: string;
  /** The score of an answer that could not be better: 1, of BLEU 100. */
  readonly best: number;
  /** @throws DataError the references do not serve */
  score(answered: Answered): number | Promise<number>;
  /** One figure for all: the mean of the scores, of BLEU that of the corpus. @throws DataError there are none */
  aggregate(rows: readonly Scored[]): number;
}

/** A metric that is computed from answer and references alone and aggregates by its mean. */
export function meanMetric(name: string, score: (answered: Answered) => number): Metric {
  return { name, identity: name, best: 1, score, aggregate: meanScore };
}

export function meanScore(rows: readonly Scored[]): number {
  return rows.reduce((sum, { score }) => sum + score, 0) / counted(rows).length;
}

export function counted<T>(rows: readonly T[]): readonly T[] {
  if (rows.length === 0) throw new DataError("expected at least one answer to score, found none");
  return rows;
}

/** @throws DataError there is none */
export function referencesOf({ place, references }: Answered): readonly [string, ...string[]] {
  const [first, ...rest] = references;
  if (first !== undefined) return [first, ...rest];
  throw new DataError(`${place}: expected at least one reference to compare the answer with, found none`, { where: { place } });
}

/** The best over the references. */
export function bestOf(answered: Answered, score: (reference: string) => number): number {
  return Math.max(...referencesOf(answered).map(score));
}
