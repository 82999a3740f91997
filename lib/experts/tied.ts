// Experts tied into groups: n neighbours of a layer that are selected together or not at all, as if the model had fewer, coarser ones
// (ESFT paper, Figure 7). Selection alone is tied: the router goes on choosing single experts.

import { ConfigError } from "../errors.ts";
import { ExpertSet } from "./expert_set.ts";
import type { ExpertScores } from "./scores.ts";
import { rank } from "./scores.ts";

/** The groups of a layer of E experts. @throws ConfigError n is no whole number from 1 on, or does not divide E */
export function groupsOf(layer: number, E: number, n: number): number {
  const where = { option: "groupSize", layer };
  if (!Number.isSafeInteger(n) || n < 1)
    throw new ConfigError(`selection: expected groupSize as a whole number >= 1, found ${n}`, { where });
  if (E % n === 0) return E / n;
  const divisors = Array.from({ length: E }, (_, i) => i + 1).filter((d) => E % d === 0);
  throw new ConfigError(
    `selection, layer ${layer}: expected a groupSize that divides its ${E} experts, found ${n}; take one of ${divisors.join(", ")}`,
    { where },
  );
}

/** What was measured, of groups in place of experts: group g has experts g·n … g·n + n − 1, and the sum of their scores. */
export function tied(measured: ExpertScores, n: number): ExpertScores {
  return {
    layers: measured.layers,
    base: measured.base,
    scores: (layer, options) => {
      const of = measured.scores(layer, options);
      const groups = new Float64Array(groupsOf(layer, of.length, n));
      of.forEach((score, expert) => (groups[Math.floor(expert / n)]! += score));
      return groups;
    },
  };
}

/** The experts of groups: groups in their order, in each of them the best first, ties to the lower id. */
export function untied(groups: readonly number[], n: number, scores: Float64Array): number[] {
  return groups.flatMap((g) => rank(scores.subarray(g * n, g * n + n)).map((i) => g * n + i));
}

/** The groups of a set that was selected in groups, as one of experts; any other set as it is, with groups of 1. */
export function asGroups(set: ExpertSet): { readonly set: ExpertSet; readonly groupSize: number } {
  const n = set.rule?.["groupSize"];
  if (typeof n !== "number" || !Number.isSafeInteger(n) || n < 2) return { set, groupSize: 1 };
  const layers = [...set.layers].map(
    ([layer, { ranked }]) => [layer, { ranked: [...new Set(ranked.map((e) => Math.floor(e / n)))] }] as const,
  );
  return { set: new ExpertSet({ layers, base: set.base }), groupSize: n };
}
