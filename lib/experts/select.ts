// From scores to experts: pure functions of a profile.
import { ConfigError } from "../errors.ts";
import type { SelectionRule } from "./expert_set.ts";
import { ExpertSet } from "./expert_set.ts";
import type { Profile, ScoreOptions } from "./profile.ts";

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
 * @throws ConfigError p outside (0, 1], or an option that does not fit the profile
 * @example const experts = selectExperts(profile, { score: "token", p: 0.2 });
 */
export function selectExperts(profile: Profile, options: SelectOptions): ExpertSet {
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
      ? byP(profile, score, options, warnings)
      : "topKPerLayer" in options && options.topKPerLayer !== undefined
        ? byTopK(profile, score, options)
        : byBudget(profile, score, options as SelectByBudget, warnings);
  return new ExpertSet({
    layers: [...chosen].map(([layer, r]) => [layer, { ranked: r.ids, scores: r.scores }] as const),
    sharedExperts: options.sharedExperts,
    nonExpertModules: options.nonExpertModules,
    rule: ruleOf(score, options),
    base: profile.data.model?.fingerprint,
    warnings,
  });
}

function byP(profile: Profile, score: ScoreOptions, { p, compat }: SelectByP, warnings: string[]): Map<number, Ranked> {
  checkP(p);
  if (compat !== undefined) {
    oneOf("compat", compat, ["esft-2024"]);
    if (score.gateNormalize === "perLayer" || score.average === "sequences")
      throw new ConfigError(`selection: compat "esft-2024" knows only raw scores averaged over tokens; drop gateNormalize and average`);
  }
  const slack = compat ? 0 : SLACK;
  return eachLayer(profile, (layer) => {
    const values = profile.scores(layer, score);
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

function byTopK(profile: Profile, score: ScoreOptions, { topKPerLayer: n }: SelectTopK): Map<number, Ranked> {
  if (!Number.isSafeInteger(n) || n < 1 || n > profile.experts)
    throw new ConfigError(`selection: expected topKPerLayer from 1 to ${profile.experts}, found ${n}`, {
      where: { option: "topKPerLayer" },
    });
  return eachLayer(profile, (layer) => {
    const scores = profile.scores(layer, score);
    return take(rank(scores), scores, n);
  });
}

function byBudget(profile: Profile, score: ScoreOptions, options: SelectByBudget, warnings: string[]): Map<number, Ranked> {
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
  for (const layer of profile.layers) {
    chosen.set(layer, { ids: [], scores: [] });
    const cost = costOf(layer);
    profile.scores(layer, score).forEach((s, id) => s > 0 && all.push({ layer, id, score: s, cost }));
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

/**
 * The paper's control: as many experts per layer as `like`, drawn at random. The same seed gives the same set everywhere.
 * @throws ConfigError a layer asks for more experts than there are
 */
export function selectRandom(like: ExpertSet, options: { readonly experts: number; readonly seed: number }): ExpertSet {
  const { experts: E, seed } = options;
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new ConfigError(`selection: expected a seed >= 0, found ${seed}`, { where: { option: "seed" } });
  const next = splitmix64(BigInt(seed));
  return new ExpertSet({
    layers: [...like.layers].map(([layer, { ids }]) => {
      if (ids.length > E)
        throw new ConfigError(`selection, layer ${layer}: expected at most ${E} experts, found ${ids.length}`, { where: { layer } });
      const pool = Array.from({ length: E }, (_, i) => i);
      for (let i = 0; i < ids.length; i++) {
        const j = i + Number(next() % BigInt(E - i)); // bias below 2^-50
        [pool[i], pool[j]] = [pool[j]!, pool[i]!];
      }
      return [layer, { ranked: pool.slice(0, ids.length) }] as const;
    }),
    sharedExperts: like.sharedExperts,
    nonExpertModules: like.nonExpertModules,
    rule: { random: true, seed, experts: E },
    base: like.base,
  });
}

/** Expert ids in descending order of score, ties to the lower id. */
export function rank(scores: ArrayLike<number>): number[] {
  return Array.from({ length: scores.length }, (_, i) => i).sort((a, b) => scores[b]! - scores[a]! || a - b);
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
  return Math.abs(x) < 1e15 ? Number(x.toFixed(4)) : x;
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

function eachLayer(profile: Profile, choose: (layer: number) => Ranked): Map<number, Ranked> {
  return new Map(profile.layers.map((layer) => [layer, choose(layer)]));
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

/** Steele, Lea and Flood's splitmix64. */
function splitmix64(seed: bigint): () => bigint {
  const MASK = (1n << 64n) - 1n;
  let state = seed & MASK;
  return () => {
    state = (state + 0x9e3779b97f4a7c15n) & MASK;
    let z = state;
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
    return z ^ (z >> 31n);
  };
}
