// Scores of experts: how they are taken, and what selection sees of whoever measured them.
//
//   token score   share of the routed slots that an expert got; sums to 1 per layer
//   gate score    mean gate weight; sums to the layer mass (below 1 where top-k is not renormalised)
//   gradient score  an expert's share of its layer's Σ ‖W ⊙ dW‖ (saliency.ts); sums to 1 per layer

import { shapeArgument } from "../arguments.ts";

export const SCORES = ["token", "gate", "gradient"] as const;
export type ScoreKind = (typeof SCORES)[number];
/** "perLayer": divided by the layer's mass, so that any router convention is on one scale. */
export type GateNormalize = "raw" | "perLayer";
/** Over all tokens, or over the scores of each sequence (ESFT paper, eq. 6-7). */
export type ScoreAverage = "tokens" | "sequences";

export interface ScoreOptions {
  readonly score: ScoreKind;
  /** Gate scores only; token scores sum to 1 already. */
  readonly gateNormalize?: GateNormalize | undefined;
  readonly average?: ScoreAverage | undefined;
}

/** Measured scores of a model's experts (a Profile). */
export interface ExpertScores {
  /** Sparse layers, ascending. */
  readonly layers: readonly number[];
  /** Scores of a layer's experts, by id. @throws ConfigError nothing was measured that way */
  scores(layer: number, options: ScoreOptions): Float64Array;
  /** Fingerprint of the model that was measured. */
  readonly base?: string | undefined;
}

/** For functions that take a profile. */
export function scoresArgument(value: ExpertScores, key: string): void {
  shapeArgument(value, ["layers", "scores"], "a Profile", key);
}

/** Expert ids in descending order of score, ties to the lower id. */
export function rank(scores: ArrayLike<number>): number[] {
  return Array.from({ length: scores.length }, (_, i) => i).sort((a, b) => scores[b]! - scores[a]!); // stable
}

/**
 * Python's round(x, 4): the decimal nearest to the exact binary value, exact halves to even. toFixed is exact too but sends
 * halves up; a double is an exact half of 1e-4 only when 32·x is an odd integer.
 */
export function roundHalfEven4(x: number): number {
  const i = x * 32;
  if (Number.isInteger(i) && i % 2 !== 0 && Math.abs(i) < 2 ** 40) {
    const below = Math.floor(i * 312.5); // 10000·x = i·312.5 ends in .5
    return (below % 2 === 0 ? below : below + 1) / 10000;
  }
  return Number(x.toFixed(4));
}
