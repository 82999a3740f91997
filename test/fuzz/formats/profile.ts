// Profiles and expert sets (ours and the official expert_cfg.json): whatever is accepted holds the numbers of the file, and selects by
// them.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { ExpertSet } from "../../../lib/experts/expert_set.ts";
import { Profile } from "../../../lib/experts/profile.ts";
import type { ScoreOptions } from "../../../lib/experts/scores.ts";
import type { SelectOptions } from "../../../lib/experts/select.ts";
import { ConfigError } from "../../../lib/errors.ts";
import type { Case, Format } from "../case.ts";
import { difference, mutateJson } from "../case.ts";
import { jsonOf, toTree } from "../tree.ts";
import { parseBytes } from "./seeds.ts";

const layer = (l: number, more: object = {}) => ({
  layer: l, tokens: 6, counts: [5, 3, 0, 4], gateSums: [2.5, 1.25, 0, 1.75], sequenceTokenSums: [1, 0.5, 0, 0.5], sequenceGateSums: [0.75, 0.5, 0, 0.25], ...more,
}); // prettier-ignore
const PROFILE = {
  format: "esft-profile", version: 1, source: "model", model: { name: "tiny", fingerprint: "ab" }, data: { name: "law", sha256: "00" }, seed: 3,
  normTopkProb: false, topK: 2, experts: 4, sequences: 2, layers: [layer(1), layer(2), layer(5, { topK: 3, experts: 5, counts: [6, 6, 6, 0, 0], gateSums: [1, 1, 1, 0, 0], sequenceTokenSums: undefined, sequenceGateSums: undefined })],
  resume: { at: [1, 2] },
}; // prettier-ignore
const OURS = {
  format: "esft-experts", version: 1, rule: { score: "token", p: 0.2 }, base: "ab", sharedExperts: false, nonExpertModules: true, warnings: ["w"],
  layers: [{ layer: 1, experts: [3, 0], scores: [0.5, 0.25] }, { layer: 2, experts: [] }, { layer: 10, experts: [2] }],
}; // prettier-ignore
const OFFICIAL = { experts: { "1": [3, 0], "10": [2], "2": [] }, shared_experts: true, non_expert_modules: false };

type Json = Readonly<Record<string, never>>;

export const profile: Format = {
  name: "profile",
  async open(dir) {
    const path = join(dir, "profile.json");
    const seed = toTree(JSON.parse(JSON.stringify(PROFILE)));
    return (dice): Case => {
      const { bytes, steps, same } = mutateJson(seed, dice);
      const options: SelectOptions & ScoreOptions = dice.top.pick([
        { score: "token", p: 0.6 }, { score: "gate", p: 0.6, gateNormalize: "perLayer" }, { score: "token", topKPerLayer: 2 }, { score: "gate", p: 0.3, average: "sequences" },
      ] as const); // prettier-ignore
      return {
        steps,
        same: same && options.average === undefined,
        files: { "profile.json": bytes },
        file: "profile",
        parse: async () => {
          writeFileSync(path, bytes);
          const read = await Profile.load(path);
          return { read, set: read.select(options) };
        },
        judge: ({ read, set }: { read: Profile; set: ExpertSet }) => {
          const said = jsonOf(bytes)?.value as typeof PROFILE | undefined;
          if (!said) return "accepted what is not JSON with each key once";
          const d = difference(said, read.toJSON(), "profile");
          if (d !== null) return d;
          for (const l of said.layers) {
            const K = (l as { topK?: number }).topK ?? said.topK;
            if (options.average !== undefined) continue;
            const scores = options.score === "token" ? l.counts.map((c) => c / (K * l.tokens)) : l.gateSums.map((g) => g / l.tokens);
            const mass = scores.reduce((a, b) => a + b, 0);
            const wanted = options.gateNormalize === "perLayer" && mass > 0 ? scores.map((s) => s / mass) : scores;
            const off =
              difference(wanted, read.scores(l.layer, options), `scores of layer ${l.layer}`) ??
              best(wanted, set.layers.get(l.layer)?.ranked ?? []);
            if (off !== null) return off;
          }
          return null;
        },
      };
    };
  },
};

/** No expert is left out that scores more than one that was taken. */
function best(scores: readonly number[], taken: readonly number[]): string | null {
  const least = Math.min(...taken.map((id) => scores[id]!));
  const missed = scores.findIndex((s, id) => s > least && !taken.includes(id));
  return missed === -1 ? null : `took an expert of score ${least} and left ${missed} of ${scores[missed]}`;
}

export const experts: Format = {
  name: "experts",
  async open(dir) {
    const path = join(dir, "experts.json");
    const seeds = [toTree(OURS), toTree(OFFICIAL)];
    return (dice): Case => {
      const i = dice.top.below(2);
      const asFile = dice.top.once(24);
      const { bytes, steps, same } = mutateJson(seeds[i]!, dice);
      return {
        steps,
        same,
        files: { "experts.json": bytes },
        file: "experts.json",
        parse: async () => {
          if (!asFile)
            return (i === 0 ? ExpertSet.fromJSON : ExpertSet.fromEsftConfig)(
              parseBytes(bytes, "experts.json", ConfigError),
              "experts.json",
            );
          writeFileSync(path, bytes);
          return ExpertSet.load(path);
        },
        judge: (set: ExpertSet) => {
          const said = jsonOf(bytes)?.value as Json | undefined;
          if (!said) return "accepted what is not JSON with each key once";
          return difference(meaning(said), found(set), "experts");
        },
      };
    };
  },
};

const byLayer = (a: readonly [number, ...unknown[]], b: readonly [number, ...unknown[]]): number => a[0] - b[0];

function meaning(said: Json): unknown {
  if (Object.hasOwn(said, "format")) {
    const { layers, sharedExperts, nonExpertModules, base, rule, warnings } = said as unknown as typeof OURS;
    return {
      layers: layers.map((l) => [l.layer, l.experts, l.scores] as const).sort(byLayer),
      sharedExperts,
      nonExpertModules,
      base,
      rule,
      warnings: warnings ?? [],
    };
  }
  const { experts: map, shared_experts: sharedExperts, non_expert_modules: nonExpertModules } = said as unknown as typeof OFFICIAL;
  return {
    layers: Object.entries(map).map(([l, ids]) => [Number(l), ids, undefined] as const).sort(byLayer), sharedExperts, nonExpertModules, warnings: [],
  }; // prettier-ignore
}

function found({ layers, sharedExperts, nonExpertModules, base, rule, warnings }: ExpertSet): unknown {
  return {
    layers: [...layers].map(([l, { ranked, scores }]) => [l, ranked, scores]),
    sharedExperts,
    nonExpertModules,
    base,
    rule,
    warnings,
  };
}
