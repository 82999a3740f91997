// The learning rate of a method on a task, by validation rows alone: test rows are evaluated for what was chosen, and decide nothing.

import type { Estimate } from "./result.ts";
import { estimate } from "./statistics.ts";

/** @param rateSeeds of the plan: seeds whose runs choose; undefined: all */
export const ruleOf = (rateSeeds: number | undefined): string =>
  `of a method's learning rates the one with the lowest validation loss, ${
    rateSeeds === undefined ? "mean over the seeds" : rateSeeds === 1 ? "with the first seed" : `mean over the first ${rateSeeds} seeds`
  }, on each task; the lower rate of two that are equal; a rate with ${
    rateSeeds === undefined ? "a seed" : "one of these seeds"
  } that diverged is not chosen`;

export interface Candidate {
  readonly lr: number;
  /** Null: a seed diverged. */
  readonly validationLoss: Estimate | null;
}

/** @param losses of the seeds; null: it diverged */
export function candidate(lr: number, losses: readonly (number | null)[]): Candidate {
  return { lr, validationLoss: losses.includes(null) ? null : estimate(losses) };
}

/** Null: there is none to choose. */
export function chooseRate(candidates: readonly Candidate[]): number | null {
  let best: { readonly lr: number; readonly loss: number } | null = null;
  for (const { lr, validationLoss } of candidates) {
    if (validationLoss === null) continue;
    const { mean } = validationLoss;
    if (best === null || mean < best.loss || (mean === best.loss && lr < best.lr)) best = { lr, loss: mean };
  }
  return best && best.lr;
}
