// From scores to experts: pure functions of what was measured.
import { optionsArgument } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import { ExpertSet } from "./expert_set.ts";
import type { ExpertScores, ScoreOptions } from "./scores.ts";
import { rank, roundHalfEven4, SCORES, scoresArgument } from "./scores.ts";
import { selectRandom } from "./select_random.ts";
import { groupsOf, tied, untied } from "./tied.ts";

interface Switches {
  /** Also train shared experts / everything that is not a routed expert (the official config's two fields). */
  readonly sharedExperts?: boolean | undefined;
  readonly nonExpertModules?: boolean | undefined;
  /** The paper's control: in place of the experts that the rule takes as many of each layer, drawn with this seed. */
  readonly random?: number | undefined;
  /** So many neighbouring experts of a layer are selected together or not at all, by the sum of their scores; default 1. */
  readonly groupSize?: number | undefined;
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

/** Those that are named, whatever their scores: layer → expert ids. As a text: 1=3+0,2=5, or none. */
export interface SelectFixed extends Partial<ScoreOptions>, Switches {
  readonly fixed: FixedExperts;
}
export type FixedExperts = string | Readonly<Record<string, readonly number[]>>;

export type SelectOptions = SelectByP | SelectTopK | SelectByBudget | SelectFixed;

/** Chosen experts, best first, with their scores. */
type OfLayer = { readonly ranked: number[]; readonly scores: number[] };
type Chosen = Map<number, OfLayer>;

// Sums of scores such as 0.1 + 0.1 + 0.1 must reach p = 0.3 on every machine; far below any difference between experts.
const SLACK = 1e-12;

/**
 * Picks experts by one of four rules. Ties go to the lower expert id; in the budget rule to the lower layer, then to the lower id.
 *
 * - `p`: per layer, in descending order of score, until the cumulative score reaches p; the expert that crosses p is included.
 *   A layer whose scores sum to less than p gets all its experts, and the set carries a warning.
 * - `topKPerLayer`: that many per layer.
 * - `maxTrainableParams`: over all layers in descending order of score per parameter; one that no longer fits is skipped,
 *   one that was never used is not taken.
 * - `fixed`: those that are named; layers that are not have none.
 *
 * With `groupSize` n the rules choose groups of experts i·n … i·n + n − 1 in place of experts; ties go to the lower group.
 * `topKPerLayer` still counts experts, in multiples of n, and `random` draws as many groups. Neither `fixed` nor `compat` has groups.
 *
 * @throws ConfigError p outside (0, 1], or an option that does not fit the scores
 * @example const experts = selectExperts(profile, { score: "token", p: 0.2 });
 */
export function selectExperts(measured: ExpertScores, asked: SelectOptions): ExpertSet {
  scoresArgument(measured, "selectExperts: profile");
  const options = optionsArgument(asked, "select: options");
  const score = {
    score: options.score ?? "token",
    gateNormalize: options.gateNormalize ?? "raw",
    average: options.average ?? "tokens",
  } as const;
  oneOf("score", score.score, SCORES);
  oneOf("gateNormalize", score.gateNormalize, ["raw", "perLayer"]);
  oneOf("average", score.average, ["tokens", "sequences"]);
  const { p, compat, topKPerLayer, maxTrainableParams, fixed } = options as Partial<SelectByP & SelectTopK & SelectByBudget & SelectFixed>;
  const given = Object.entries({ p, topKPerLayer, maxTrainableParams, fixed }).filter(([, value]) => value !== undefined);
  if (given.length !== 1) {
    const found = given.map(([key]) => key).join(" and ") || "none";
    throw new ConfigError(`selection: expected exactly one of p, topKPerLayer, maxTrainableParams, fixed, found ${found}`);
  }
  const { random, groupSize = 1 } = options;
  const grouped = groupSize !== 1;
  if (grouped && (fixed !== undefined || compat !== undefined)) {
    const other = fixed !== undefined ? "fixed experts" : `compat "${compat}"`;
    throw new ConfigError(`selection: expected no groupSize with ${other}, which know single experts, found ${groupSize}; drop groupSize`, {
      where: { option: "groupSize" },
    });
  }
  if (grouped) for (const layer of measured.layers) groupsOf(layer, measured.scores(layer, score).length, groupSize);
  const units = grouped ? tied(measured, groupSize) : measured;
  const warnings: string[] = [];
  const taken =
    p !== undefined
      ? byP(units, score, { p, compat, groupSize }, warnings)
      : topKPerLayer !== undefined
        ? byTopK(units, score, { topKPerLayer, groupSize })
        : fixed !== undefined
          ? byName(measured, score, fixed)
          : byBudget(units, score, { ...(options as SelectByBudget), groupSize }, warnings);
  const layers = grouped ? ofGroups(measured, score, taken, groupSize) : taken;
  const set = new ExpertSet({
    layers,
    sharedExperts: options.sharedExperts,
    nonExpertModules: options.nonExpertModules,
    rule: {
      score: score.score,
      average: score.average,
      ...(score.score === "gate" ? { gateNormalize: score.gateNormalize } : {}),
      ...(fixed !== undefined ? { fixed: true } : Object.fromEntries(given)),
      ...(p !== undefined && compat ? { compat } : {}),
      ...(grouped ? { groupSize } : {}),
    },
    base: measured.base,
    warnings,
  });
  if (random === undefined) return set;
  const experts = new Map(measured.layers.map((layer) => [layer, measured.scores(layer, score).length]));
  const { layers: drawn } = selectRandom(set, { experts, seed: random, groupSize });
  const { sharedExperts, nonExpertModules, base } = set;
  return new ExpertSet({ layers: drawn, sharedExperts, nonExpertModules, base, warnings, rule: { ...set.rule, random } });
}

function byP(measured: ExpertScores, score: ScoreOptions, { p, compat, groupSize = 1 }: SelectByP, warnings: string[]): Chosen {
  if (!(typeof p === "number" && p > 0 && p <= 1))
    throw new ConfigError(`selection: expected p in (0, 1], found ${p}`, { where: { option: "p" } });
  if (compat !== undefined) {
    oneOf("compat", compat, ["esft-2024"]);
    if (score.score === "gradient")
      throw new ConfigError('selection: compat "esft-2024" knows token and gate scores, found score "gradient"; drop compat');
    if (score.gateNormalize === "perLayer" || score.average === "sequences")
      throw new ConfigError(`selection: compat "esft-2024" knows only raw scores averaged over tokens; drop gateNormalize and average`);
  }
  const enough = p - (compat ? 0 : SLACK);
  return eachLayer(measured, score, (values, layer) => {
    const scores = compat ? values.map(roundHalfEven4) : values;
    let [n, sum] = [0, 0];
    for (const id of rank(scores)) {
      if (sum >= enough) break;
      sum += scores[id]!;
      n++;
    }
    if (sum < enough && sum < 0.999)
      warnings.push(
        `layer ${layer}: ${score.score} scores sum to ${sum.toFixed(4)}, below p = ${p}: all ${n * groupSize} experts are selected`,
      );
    return best(scores, n);
  });
}

function byTopK(measured: ExpertScores, score: ScoreOptions, { topKPerLayer: n, groupSize = 1 }: SelectTopK): Chosen {
  return eachLayer(measured, score, (scores, layer) => {
    const E = scores.length * groupSize;
    const fail = (expected: string): never => {
      throw new ConfigError(`selection: expected topKPerLayer ${expected}, found ${n}`, { where: { option: "topKPerLayer", layer } });
    };
    if (!Number.isSafeInteger(n) || n < 1 || n > E) fail(`from 1 to ${E}, the experts of layer ${layer}`);
    if (n % groupSize !== 0) fail(`as a number of experts in whole groups of ${groupSize}, a multiple of it`);
    return best(scores, n / groupSize);
  });
}

/** Layer → ids from an object, or from its text; {} and "none" are no expert. @throws ConfigError */
export function fixedExperts(fixed: FixedExperts): Map<number, readonly number[]> {
  const fail = (found: string): never => {
    throw new ConfigError(
      `selection: expected fixed experts as layer=id+id, several between commas (1=3+0,2=5) or none, or layer: [ids], found ${found}`,
      { where: { option: "fixed" } },
    );
  };
  const whole = (text: string): number => (/^\d+$/.test(text.trim()) ? Number(text) : fail(JSON.stringify(text)));
  if (typeof fixed !== "string" && (typeof fixed !== "object" || fixed === null || Array.isArray(fixed))) fail(JSON.stringify(fixed));
  const entries: [string, readonly number[]][] =
    fixed === "none"
      ? []
      : typeof fixed === "string"
        ? fixed.split(",").map((entry) => {
            const [layer = "", ids, ...rest] = entry.split("=");
            if (ids === undefined || rest.length > 0) return fail(JSON.stringify(entry));
            return [layer, ids.split("+").map(whole)];
          })
        : Object.entries(fixed);
  const layers = new Map<number, readonly number[]>();
  for (const [layer, ids] of entries) {
    const l = whole(layer);
    if (layers.has(l)) fail(`layer ${l} twice`);
    if (!Array.isArray(ids) || !ids.every((id) => Number.isSafeInteger(id) && id >= 0)) fail(JSON.stringify(ids));
    layers.set(l, ids);
  }
  return layers;
}

function byName(measured: ExpertScores, score: ScoreOptions, fixed: FixedExperts): Chosen {
  const named = fixedExperts(fixed);
  const odd = [...named.keys()].find((layer) => !measured.layers.includes(layer));
  if (odd !== undefined)
    throw new ConfigError(`selection: expected fixed experts of the layers ${measured.layers.join(", ")}, found layer ${odd}`, {
      where: { option: "fixed", layer: odd },
    });
  return eachLayer(measured, score, (scores, layer) => {
    const ranked = [...(named.get(layer) ?? [])];
    const beyond = ranked.find((id) => id >= scores.length);
    if (beyond !== undefined || new Set(ranked).size < ranked.length)
      throw new ConfigError(
        `selection: expected fixed experts of layer ${layer} from 0 to ${scores.length - 1}, each once, found ${ranked.join(", ")}`,
        { where: { option: "fixed", layer } },
      );
    return { ranked, scores: ranked.map((id) => scores[id]!) };
  });
}

function byBudget(measured: ExpertScores, score: ScoreOptions, options: SelectByBudget, warnings: string[]): Chosen {
  const { maxTrainableParams: budget, expertParams, groupSize = 1 } = options;
  if (!(budget > 0) || !Number.isFinite(budget))
    throw new ConfigError(`selection: expected maxTrainableParams above 0, found ${budget}`, { where: { option: "maxTrainableParams" } });
  const all: { layer: number; id: number; score: number; cost: number }[] = [];
  const chosen: Chosen = new Map();
  for (const layer of measured.layers) {
    chosen.set(layer, { ranked: [], scores: [] });
    const cost = typeof expertParams === "number" ? expertParams : expertParams?.get(layer);
    if (cost === undefined || !Number.isSafeInteger(cost) || cost < 1)
      throw new ConfigError(`selection: expected expertParams >= 1 for layer ${layer}, found ${cost}`, {
        where: { option: "expertParams", layer },
      });
    measured.scores(layer, score).forEach((s, id) => s > 0 && all.push({ layer, id, score: s, cost: cost * groupSize }));
  }
  all.sort((a, b) => b.score / b.cost - a.score / a.cost); // stable: layers are ascending, and so are the ids of each
  let spent = 0;
  for (const e of all) {
    if (spent + e.cost > budget) continue;
    spent += e.cost;
    chosen.get(e.layer)!.ranked.push(e.id);
    chosen.get(e.layer)!.scores.push(e.score);
  }
  if (spent === 0)
    throw new ConfigError(
      `selection: expected maxTrainableParams of at least one ${groupSize > 1 ? `group of ${groupSize} experts` : "expert"} (${Math.min(...all.map((e) => e.cost))}), found ${budget}`,
      { where: { option: "maxTrainableParams" } },
    );
  const empty = [...chosen].filter(([, r]) => r.ranked.length === 0).map(([layer]) => layer);
  if (empty.length > 0) warnings.push(`the budget leaves layer${empty.length > 1 ? "s" : ""} ${empty.join(", ")} without a trained expert`);
  return chosen;
}

function oneOf(option: string, value: unknown, allowed: readonly string[]): void {
  if (!allowed.includes(value as string))
    throw new ConfigError(
      `selection: expected ${option} to be ${allowed.map((a) => `"${a}"`).join(" or ")}, found ${JSON.stringify(value)}`,
      { where: { option } },
    );
}

function eachLayer(measured: ExpertScores, score: ScoreOptions, choose: (scores: Float64Array, layer: number) => OfLayer): Chosen {
  return new Map(measured.layers.map((layer) => [layer, choose(measured.scores(layer, score), layer)]));
}

/** The experts of chosen groups, with scores of their own. */
function ofGroups(measured: ExpertScores, score: ScoreOptions, groups: Chosen, n: number): Chosen {
  return eachLayer(measured, score, (scores, layer) => {
    const ranked = untied(groups.get(layer)!.ranked, n, scores);
    return { ranked, scores: ranked.map((id) => scores[id]!) };
  });
}

/** The n best of a layer. */
function best(scores: Float64Array, n: number): OfLayer {
  const ranked = rank(scores).slice(0, n);
  return { ranked, scores: ranked.map((id) => scores[id]!) };
}
