// Where did this selection come from? The published generate_expert_config.py divides the (layers, experts) scores by their
// sum over axis 0: each expert over the layers instead of each layer over its experts. Such a config trains about 40 % as
// many experts, mostly other ones. This recognises it from the profile alone, without knowing p.
import { instanceArgument } from "../arguments.ts";
import { ExpertSet } from "./expert_set.ts";
import type { ExpertScores, ScoreKind } from "./scores.ts";
import { rank, roundHalfEven4, scoresArgument } from "./scores.ts";
import { asGroups, tied } from "./tied.ts";

export type Normalization = "per-layer" | "esft-2024" | "axis-0";

export interface SelectionHypothesis {
  readonly normalization: Normalization;
  readonly score: ScoreKind;
  /** Layers whose selected set is what this rule selects for a p inside `p`. */
  readonly layersExplained: number;
  readonly layers: number;
  /** The p that explains the most layers: any p with above < p <= upTo. */
  readonly p: { readonly above: number; readonly upTo: number } | null;
}

export interface SelectionDiagnosis {
  /** "axis-0" = made by the defective script; "unknown" = no rule explains at least 90 % of the layers. */
  readonly verdict: Normalization | "unknown";
  readonly message: string;
  /** Best first. */
  readonly hypotheses: readonly SelectionHypothesis[];
}

/**
 * Tells which normalisation explains an expert set. A rule explains a layer when the set is a prefix of the rule's ranking;
 * the prefix length bounds p, and the p shared by most layers is taken. A set that says that it was selected in groups is explained by
 * groups.
 * @throws ConfigError the profile lacks a layer of the set
 */
export function diagnoseSelection(experts: ExpertSet, profile: ExpertScores): SelectionDiagnosis {
  instanceArgument(experts, ExpertSet, "diagnoseSelection: experts");
  scoresArgument(profile, "diagnoseSelection: profile");
  const { set, groupSize } = asGroups(experts);
  const measured = groupSize > 1 ? tied(profile, groupSize) : profile;
  const hypotheses: SelectionHypothesis[] = [];
  for (const score of ["token", "gate"] as const)
    for (const normalization of ["esft-2024", "per-layer", "axis-0"] as const)
      hypotheses.push(explain(set, measured, normalization, score));
  hypotheses.sort((a, b) => b.layersExplained - a.layersExplained); // stable: ties keep the order above
  const best = hypotheses[0]!;
  const verdict = best.layers > 0 && best.layersExplained >= 0.9 * best.layers ? best.normalization : "unknown";
  return { verdict, message: describe(verdict, best), hypotheses };
}

function describe(verdict: Normalization | "unknown", best: SelectionHypothesis): string {
  const explained = `${best.layersExplained} of ${best.layers} layers`;
  const p = best.p ? ` with p in (${best.p.above.toFixed(4)}, ${best.p.upTo.toFixed(4)}]` : "";
  if (verdict === "unknown")
    return `no known rule explains this selection; the closest (${best.score} scores, ${best.normalization}) explains ${explained}. Was it made from another profile?`;
  if (verdict === "axis-0")
    return `this selection was made by normalising each expert over the layers (sum over axis 0, a defect of the published script) instead of each layer over its experts: it explains ${explained}${p}. Select again from the profile`;
  return `${best.score} scores, taken per layer${verdict === "esft-2024" ? " and rounded to 4 decimals as in the released configs" : ""}, explain ${explained}${p}`;
}

/** Scores of all layers under one normalisation, ready for `while cum < p: take`. */
export function normalizedScores(profile: ExpertScores, normalization: Normalization, score: ScoreKind): Map<number, Float64Array> {
  const raw = new Map(profile.layers.map((layer) => [layer, profile.scores(layer, { score })] as const));
  if (normalization === "per-layer") return raw;
  if (normalization === "esft-2024") return new Map([...raw].map(([layer, s]) => [layer, s.map(roundHalfEven4)] as const));
  const total = new Float64Array(Math.max(...[...raw.values()].map((s) => s.length)));
  for (const s of raw.values()) s.forEach((v, e) => (total[e]! += v));
  return new Map([...raw].map(([layer, s]) => [layer, s.map((v, e) => (total[e]! > 0 ? v / total[e]! : 0))] as const));
}

function explain(experts: ExpertSet, profile: ExpertScores, normalization: Normalization, score: ScoreKind): SelectionHypothesis {
  const scores = normalizedScores(profile, normalization, score);
  const bounds: { above: number; upTo: number }[] = [];
  let layers = 0;
  for (const [layer, { ids }] of experts.layers) {
    if (ids.length === 0) continue;
    layers++;
    const values = scores.get(layer) ?? profile.scores(layer, { score }); // a missing layer throws here
    const prefix = rank(values).slice(0, ids.length);
    if (prefix.some((id) => !ids.includes(id))) continue;
    let above = 0;
    for (const id of prefix.slice(0, -1)) above += values[id]!;
    bounds.push({ above, upTo: above + values[prefix.at(-1)!]! });
  }
  // The p inside most intervals (above, upTo]: try every upper end.
  let best: { above: number; upTo: number } | null = null;
  let most = 0;
  for (const { upTo: p } of bounds) {
    const inside = bounds.filter((b) => b.above < p && p <= b.upTo);
    if (inside.length <= most) continue;
    most = inside.length;
    best = { above: Math.max(...inside.map((b) => b.above)), upTo: Math.min(...inside.map((b) => b.upTo)) };
  }
  return { normalization, score, layersExplained: most, layers, p: best };
}
