// From scores to experts: pure functions of what was measured.
import { ConfigError } from "../errors.ts";
import type { SelectionRule } from "./expert_set.ts";
import { ExpertSet } from "./expert_set.ts";
import type { ExpertScores, ScoreOptions } from "./scores.ts";
import { rank, roundHalfEven4 } from "./scores.ts";

interface Switches {
  /** Also train shared experts / everything that is not a routed expert (the official config's two fields). */
  readonly sharedExperts?: boolean | undefined;
  readonly nonExpertModules?: boolean | undefined;
}

/** Per layer the fewest experts whose scores reach `p`, in (0, 1]. */
export interface SelectByP extends Partial<ScoreOptions>, Switches {
  readonly p: number;
  /** "esft-2024": scores rounded to 4 decimals as in the released configurations. */
  readonly compat?: "esft-2024" | undefined;
}

/** The best `topKPerLayer` experts of every layer. */
export interface SelectTopK extends Partial<ScoreOptions>, Switches {
  readonly topKPerLayer: number;
}

/** The best experts of the whole model that fit `maxTrainableParams`. */
export interface SelectByBudget extends Partial<ScoreOptions>, Switches {
  readonly maxTrainableParams: number;
  /** Parameters of one expert: one number, or per layer. */
  readonly expertParams: number | ReadonlyMap<number, number>;
}

export type SelectOptions = SelectByP | SelectTopK | SelectByBudget;

interface Ranked {
  readonly ids: number[];
  readonly scores: number[];
}

// Sums of scores such as 0.1 + 0.1 + 0.1 must reach p = 0.3 on every machine; far below any difference between experts.
const SLACK = 1e-12;

/**
 * Picks experts by one of three rules. Ties go to the lower expert id (then, in the budget rule, to the lower layer).
 *
 * - `p`: per layer, in descending order of score, until the cumulative score reaches p; the expert that crosses p is included.
 *   A layer whose scores sum to less than p gets all its experts, and the set carries a warning.
 * - `topKPerLayer`: that many per layer.
 * - `maxTrainableParams`: over all layers in descending order of score per parameter; one that no longer fits is skipped,
 *   one that was never used is not taken.
 *
 * @throws ConfigError p outside (0, 1], or an option that does not fit the scores
 * @example const experts = selectExperts(profile, { score: "token", p: 0.2 });
 */
export function selectExperts(measured: ExpertScores, options: SelectOptions): ExpertSet {
  const score: ScoreOptions = {
    score: options.score ?? "token",
    gateNormalize: options.gateNormalize ?? "raw",
    average: options.average ?? "tokens",
  };
  oneOf("score", score.score, ["token", "gate"]);
  oneOf("gateNormalize", score.gateNormalize, ["raw", "perLayer"]);
  oneOf("average", score.average, ["tokens", "sequences"]);
  const given = ["p", "topKPerLayer", "maxTrainableParams"].filter((k) => (options as unknown as Record<string, unknown>)[k] !== undefined);
  if (given.length !== 1)
    throw new ConfigError(`selection: expected exactly one of p, topKPerLayer, maxTrainableParams, found ${given.join(" and ") || "none"}`);

  const warnings: string[] = [];
  const chosen =
    "p" in options && options.p !== undefined
      ? byP(measured, score, options, warnings)
      : "topKPerLayer" in options && options.topKPerLayer !== undefined
        ? byTopK(measured, score, options)
        : byBudget(measured, score, options as SelectByBudget, warnings);
  return new ExpertSet({
    layers: [...chosen].map(([layer, r]) => [layer, { ranked: r.ids, scores: r.scores }] as const),
    sharedExperts: options.sharedExperts,
    nonExpertModules: options.nonExpertModules,
    rule: ruleOf(score, options),
    base: measured.base,
    warnings,
  });
}

function byP(measured: ExpertScores, score: ScoreOptions, { p, compat }: SelectByP, warnings: string[]): Map<number, Ranked> {
  checkP(p);
  if (compat !== undefined) {
    oneOf("compat", compat, ["esft-2024"]);
    if (score.gateNormalize === "perLayer" || score.average === "sequences")
      throw new ConfigError(`selection: compat "esft-2024" knows only raw scores averaged over tokens; drop gateNormalize and average`);
  }
  const slack = compat ? 0 : SLACK;
  return eachLayer(measured, (layer) => {
    const values = measured.scores(layer, score);
    const scores = compat ? values.map(roundHalfEven4) : values;
    const ranking = rank(scores);
    let n = 0;
    let sum = 0;
    while (n < ranking.length && sum < p - slack) sum += scores[ranking[n++]!]!;
    if (sum < p - slack && sum < 0.999)
      warnings.push(`layer ${layer}: ${score.score} scores sum to ${sum.toFixed(4)}, below p = ${p}: all ${n} experts are selected`);
    return take(ranking, scores, n);
  });
}

function byTopK(measured: ExpertScores, score: ScoreOptions, { topKPerLayer: n }: SelectTopK): Map<number, Ranked> {
  return eachLayer(measured, (layer) => {
    const scores = measured.scores(layer, score);
    if (!Number.isSafeInteger(n) || n < 1 || n > scores.length)
      throw new ConfigError(`selection: expected topKPerLayer from 1 to ${scores.length}, the experts of layer ${layer}, found ${n}`, {
        where: { option: "topKPerLayer", layer },
      });
    return take(rank(scores), scores, n);
  });
}

function byBudget(measured: ExpertScores, score: ScoreOptions, options: SelectByBudget, warnings: string[]): Map<number, Ranked> {
  const budget = options.maxTrainableParams;
  if (!(budget > 0) || !Number.isFinite(budget))
    throw new ConfigError(`selection: expected maxTrainableParams above 0, found ${budget}`, { where: { option: "maxTrainableParams" } });
  const costOf = (layer: number): number => {
    const cost = typeof options.expertParams === "number" ? options.expertParams : options.expertParams?.get(layer);
    if (cost === undefined || !Number.isSafeInteger(cost) || cost < 1)
      throw new ConfigError(`selection: expected expertParams >= 1 for layer ${layer}, found ${cost}`, {
        where: { option: "expertParams", layer },
      });
    return cost;
  };
  const all: { layer: number; id: number; score: number; cost: number }[] = [];
  const chosen = new Map<number, Ranked>();
  for (const layer of measured.layers) {
    chosen.set(layer, { ids: [], scores: [] });
    const cost = costOf(layer);
    measured.scores(layer, score).forEach((s, id) => s > 0 && all.push({ layer, id, score: s, cost }));
  }
  all.sort((a, b) => b.score / b.cost - a.score / a.cost || a.layer - b.layer || a.id - b.id);
  let spent = 0;
  for (const e of all) {
    if (spent + e.cost > budget) continue;
    spent += e.cost;
    chosen.get(e.layer)!.ids.push(e.id);
    chosen.get(e.layer)!.scores.push(e.score);
  }
  if (spent === 0)
    throw new ConfigError(
      `selection: expected maxTrainableParams of at least one expert (${Math.min(...all.map((e) => e.cost))}), found ${budget}`,
      { where: { option: "maxTrainableParams" } },
    );
  const empty = [...chosen].filter(([, r]) => r.ids.length === 0).map(([layer]) => layer);
  if (empty.length > 0) warnings.push(`the budget leaves layer${empty.length > 1 ? "s" : ""} ${empty.join(", ")} without a trained expert`);
  return chosen;
}

function checkP(p: number): void {
  if (!(typeof p === "number" && p > 0 && p <= 1))
    throw new ConfigError(`selection: expected p in (0, 1], found ${p}`, { where: { option: "p" } });
}

function oneOf(option: string, value: unknown, allowed: readonly string[]): void {
  if (!allowed.includes(value as string))
    throw new ConfigError(
      `selection: expected ${option} to be ${allowed.map((a) => `"${a}"`).join(" or ")}, found ${JSON.stringify(value)}`,
      { where: { option } },
    );
}

function eachLayer(measured: ExpertScores, choose: (layer: number) => Ranked): Map<number, Ranked> {
  return new Map(measured.layers.map((layer) => [layer, choose(layer)]));
}

function take(ranking: readonly number[], scores: ArrayLike<number>, n: number): Ranked {
  const ids = ranking.slice(0, n);
  return { ids, scores: ids.map((id) => scores[id]!) };
}

function ruleOf(score: ScoreOptions, options: SelectOptions): SelectionRule {
  return {
    score: score.score,
    average: score.average ?? "tokens",
    ...(score.score === "gate" ? { gateNormalize: score.gateNormalize ?? "raw" } : {}),
    ...("p" in options && options.p !== undefined ? { p: options.p, ...(options.compat ? { compat: options.compat } : {}) } : {}),
    ...("topKPerLayer" in options && options.topKPerLayer !== undefined ? { topKPerLayer: options.topKPerLayer } : {}),
    ...("maxTrainableParams" in options && options.maxTrainableParams !== undefined
      ? { maxTrainableParams: options.maxTrainableParams }
      : {}),
  };
}
