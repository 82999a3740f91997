// Re-allocation of ranks among the routed experts of a LoRA: EPnG (arXiv 2607.01789) and DR-LoRA (arXiv 2601.04823) as one rule. The papers
// publish no values; those here are ours.
//
//   importance   of an expert in its layer: epng = EMA of the router's weight that it gets per token; dr = that times the EMA of the norm
//                of its terms' gradient over √rank, so that a rank does not raise the importance that it was given for
//   budget       per layer, since the weights of a router are shares of its layer's tokens: experts · rank columns, always
//   when         after `warmup` updates, then after every `every`
//   how          the least important experts give `columns` each to the most important ones, one to one, at most `ratio` of the experts
//                (at least one) on either side and only where the importance differs; none falls below minRank or rises above maxRank. An expert that
//                has none left stays without: pruning is not undone.
//
// Terms are allocated at maxRank. Dead columns are zeros in A, in B and in the moments: their gradients are exact zeros, so that they stay
// zeros and change no bit. Live ones come first. The factor α/r is that of the rank asked for, whatever an expert has now.

import { ConfigError } from "../errors.ts";
import type { LoraMatrix } from "./lora_targets.ts";

export const REALLOCATIONS = ["epng", "dr"] as const;

/** As a user writes them, beside the other options of LoRA. */
export interface ReallocationOptions {
  readonly reallocate?: (typeof REALLOCATIONS)[number] | undefined;
  /** Updates before the first one. */
  readonly reallocateWarmup?: number | undefined;
  readonly reallocateEvery?: number | undefined;
  /** Of the averages, per update. */
  readonly reallocateDecay?: number | undefined;
  /** Most experts of a layer that give, and that get, as a share. */
  readonly reallocateRatio?: number | undefined;
  /** What one gives at a time. */
  readonly reallocateColumns?: number | undefined;
  readonly minRank?: number | undefined;
  readonly maxRank?: number | undefined;
}

/**
 * The usual values, ours: about twenty updates of memory, which an interval of 50 refreshes between two decisions; a quarter of the experts,
 * as published choices of hot experts take; a quarter of the rank at a time, so that one noisy interval costs no expert its term.
 */
const USUAL = { warmup: 50, every: 50, decay: 0.95, ratio: 0.25, share: 4 };

/** A matrix of an expert, its terms' tensors allocated at maxRank. */
export interface RankedMatrix {
  /** Keys of A [maxRank, in] and B [out, maxRank]. */
  readonly a: string;
  readonly b: string;
  readonly in: number;
  readonly out: number;
}

export interface RankedExpert {
  readonly expert: number;
  readonly matrices: readonly RankedMatrix[];
}

export interface ReallocationPlan {
  readonly kind: (typeof REALLOCATIONS)[number];
  readonly warmup: number;
  readonly every: number;
  readonly decay: number;
  readonly ratio: number;
  readonly columns: number;
  /** What an expert begins with, the mean ever after. */
  readonly rank: number;
  readonly minRank: number;
  readonly maxRank: number;
  /** Of new rows of A. */
  readonly seed: number;
  /** Experts with terms, by layer. */
  readonly layers: ReadonlyMap<number, readonly RankedExpert[]>;
}

const fail = (key: string, message: string): never => {
  throw new ConfigError(message, { where: { key: `method.${key}` } });
};

/** @throws ConfigError targets or numbers that leave nothing to re-allocate */
export function planReallocation(
  matrices: readonly LoraMatrix[],
  options: ReallocationOptions & { readonly reallocate: ReallocationPlan["kind"] },
  seed: number,
): ReallocationPlan {
  const { reallocate: kind, reallocateWarmup: warmup = USUAL.warmup, reallocateEvery: every = USUAL.every } = options;
  const { reallocateDecay: decay = USUAL.decay, reallocateRatio: ratio = USUAL.ratio } = options;
  const routed = matrices.filter(({ place }) => place.role === "expert");
  const [first, ...others] = routed;
  if (!first)
    return fail("reallocate", `reallocate ${kind} moves ranks among routed experts, but no target names any: add "experts" to the targets`);
  const { rank, scaling } = first;
  const odd = others.find((m) => m.rank !== rank || m.scaling !== scaling);
  if (odd) {
    const [what, here, there] = odd.rank === rank ? ["factor", scaling, odd.scaling] : ["rank", rank, odd.rank];
    fail(
      "reallocate",
      `reallocate ${kind} needs one rank and one alpha for all routed experts, found the ${what} ${here} beside "${first.key}" and ${there} beside "${odd.key}"`,
    );
  }
  const most = Math.min(...routed.flatMap(({ shape }) => shape));
  const { maxRank = Math.min(2 * rank, most), minRank = kind === "epng" ? 0 : 1 } = options;
  const { reallocateColumns: columns = Math.ceil(rank / USUAL.share) } = options;
  const whole = (key: string, n: number, least: number): void => {
    if (!Number.isInteger(n) || n < least) fail(key, `${key} must be an integer >= ${least}, found ${n}`);
  };
  whole("reallocateWarmup", warmup, 1);
  whole("reallocateEvery", every, 1);
  whole("reallocateColumns", columns, 1);
  whole("minRank", minRank, 0);
  whole("maxRank", maxRank, 1);
  if (!(decay >= 0 && decay < 1)) fail("reallocateDecay", `reallocateDecay must be a number >= 0 and < 1, found ${decay}`);
  if (!(ratio > 0 && ratio <= 0.5)) fail("reallocateRatio", `reallocateRatio must be a number > 0 and <= 0.5, found ${ratio}`);
  const found = (key: "minRank" | "maxRank", value: number): string => (options[key] === undefined ? `the usual ${value}` : `${value}`);
  if (rank >= most)
    fail("rank", `the rank of experts whose ranks are re-allocated must be below ${most}, the least side of their matrices, found ${rank}`);
  if (minRank >= rank)
    fail("minRank", `minRank must be below the rank ${rank} of the experts, or none can give any, found ${found("minRank", minRank)}`);
  if (maxRank <= rank)
    fail("maxRank", `maxRank must be above the rank ${rank} of the experts, or none can get any, found ${found("maxRank", maxRank)}`);
  if (maxRank > most) fail("maxRank", `maxRank must be at most ${most}, the least side of an expert's matrix, found ${maxRank}`);
  const layers = new Map<number, RankedExpert[]>();
  for (const { key, place, shape } of routed) {
    const experts = layers.get(place.layer) ?? [];
    layers.set(place.layer, experts);
    const matrix = { a: `lora.${key}.A`, b: `lora.${key}.B`, in: shape[1], out: shape[0] };
    const known = experts.findIndex(({ expert }) => expert === place.expert);
    if (known < 0) experts.push({ expert: place.expert!, matrices: [matrix] });
    else experts[known] = { expert: place.expert!, matrices: [...experts[known]!.matrices, matrix] };
  }
  if (![...layers.values()].some((experts) => experts.length > 1))
    fail("reallocate", `reallocate ${kind} moves ranks among the experts of a layer, but every layer has one alone`);
  return { kind, warmup, every, decay, ratio, columns, rank, minRank, maxRank, seed, layers };
}

/** As an adapter's manifest and a run's request keep it: with the usual values said. */
export const reallocationWords = (plan: ReallocationPlan): Readonly<Record<string, string | number>> => ({
  reallocate: plan.kind,
  reallocateWarmup: plan.warmup,
  reallocateEvery: plan.every,
  reallocateDecay: plan.decay,
  reallocateRatio: plan.ratio,
  reallocateColumns: plan.columns,
  minRank: plan.minRank,
  maxRank: plan.maxRank,
});

/** Is a re-allocation due when so many updates are done? */
export const isDue = ({ warmup, every }: Pick<ReallocationPlan, "warmup" | "every">, updates: number): boolean =>
  updates >= warmup && (updates - warmup) % every === 0;

/** Columns that go from one expert to another, by their places in the lists. */
export interface Move {
  readonly from: number;
  readonly to: number;
  readonly columns: number;
}

/** What a layer's experts give to one another. Ties of importance go to the lower place. */
export function movesOf(
  importance: readonly number[],
  ranks: readonly number[],
  { ratio, columns, minRank, maxRank }: Pick<ReallocationPlan, "ratio" | "columns" | "minRank" | "maxRank">,
): Move[] {
  const order = importance.map((_, i) => i).sort((a, b) => importance[a]! - importance[b]! || a - b);
  const givers = order.filter((i) => ranks[i]! > minRank);
  const getters = order.filter((i) => ranks[i]! > 0 && ranks[i]! < maxRank).sort((a, b) => importance[b]! - importance[a]! || a - b);
  const pairs = Math.max(1, Math.floor(ratio * ranks.length));
  const moves: Move[] = [];
  for (let i = 0; i < pairs; i++) {
    const [from, to] = [givers[i], getters[i]];
    if (from === undefined || to === undefined || !(importance[from]! < importance[to]!)) break;
    moves.push({ from, to, columns: Math.min(columns, ranks[from]! - minRank, maxRank - ranks[to]!) });
  }
  return moves;
}
