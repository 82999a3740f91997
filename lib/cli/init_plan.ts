// What a job begins with: method, rates, lengths and steps that suit a model and its rows.

import type { DataFacts } from "./init_data.ts";

export interface ModelFacts {
  readonly maxPositions: number;
  /** Layers with routed experts, and most experts of one; none: a dense model. */
  readonly sparseLayers: number;
  readonly experts: number;
}

/** Option's path → value, as a job has them. */
export type Values = Readonly<Record<string, string | number>>;

/**
 * What trains, how experts are chosen and how fast: THE place where what `esft plan` chooses for a machine and a limit of time takes the
 * place of these values (method.*, method.select.p and optimizer.lr; device and dataset are known here).
 * @param profile the file that `esft profile` will write
 */
export function suggestedMethod(model: ModelFacts, profile: string): Values {
  if (model.sparseLayers === 0) return { "method.type": "lora", "method.rank": 16, "method.targets": "linear", "optimizer.lr": 1e-4 };
  return {
    "method.type": "esft",
    "method.profile": profile,
    "method.select.score": "token",
    "method.select.p": 0.2,
    "optimizer.lr": 1e-5,
  };
}

const SHORTEST = 128;
const ROWS_PER_STEP = 32;
/** Below so many updates a small model of rows has hardly moved; so many passes at most are made to get there. */
const WANTED_UPDATES = 100;
const MOST_EPOCHS = 4;

export interface Suggested {
  readonly values: Values;
  /** Of the rows, in the words of a comment. */
  readonly lengthWords: readonly string[];
  readonly stepWords: string;
}

/** Lengths and steps. Rows hold several documents each, so that longer rows than the longest document would waste nothing but memory. */
export function suggestedLengths(data: DataFacts | null, { maxPositions }: ModelFacts): Suggested {
  if (data === null) {
    const values = { "data.maxLength": Math.min(1024, maxPositions), epochs: 1, rowsPerStep: ROWS_PER_STEP, evalFraction: 0.02, evalEvery: 100 }; // prettier-ignore
    return { values, lengthWords: [], stepWords: "" };
  }
  const { lengths, tokens, rows } = data;
  const at = (share: number): number => lengths[Math.min(lengths.length - 1, Math.floor(share * lengths.length))]!;
  const [median, most, longest] = [at(0.5), at(0.99), lengths.at(-1)!];
  const maxLength = Math.min(maxPositions, Math.max(SHORTEST, 2 ** Math.ceil(Math.log2(longest <= 1.25 * most ? longest : most))));
  const cut = lengths.filter((n) => n > maxLength).length;
  const evalFraction = rows < 500 ? 0.1 : 0.02;
  const packed = Math.max(1, Math.ceil(((1 - evalFraction) * (tokens - lengths.reduce((sum, n) => sum + Math.max(0, n - maxLength), 0))) / maxLength)); // prettier-ignore
  const rowsPerStep = Math.max(1, Math.min(ROWS_PER_STEP, Math.floor(packed / 10)));
  const perEpoch = Math.max(1, Math.floor(packed / rowsPerStep));
  const epochs = Math.min(MOST_EPOCHS, Math.max(1, Math.ceil(WANTED_UPDATES / perEpoch)));
  return {
    values: {
      "data.maxLength": maxLength,
      epochs,
      rowsPerStep,
      evalFraction,
      evalEvery: Math.max(1, Math.round((perEpoch * epochs) / 10)),
    },
    lengthWords: [
      `Rows have ${median} tokens in the middle, 99 % at most ${most}, the longest ${longest}; ${cut === 0 ? "none is" : `${cut} of ${lengths.length} are`} longer than this.`,
      `The model takes ${maxPositions}.`,
    ],
    stepWords: `About ${packed} packed rows of ${maxLength} tokens: about ${perEpoch} updates an epoch.`,
  };
}
