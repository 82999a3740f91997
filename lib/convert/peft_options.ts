// What a PEFT folder adapts, as options of our LoRA: the fewest names that stand for exactly those matrices, their ranks and factors.

import type { Adaptable, ExpertTerms } from "../methods/lora_targets.ts";
import { isCalled, LORA_GROUPS, moduleOf } from "../methods/lora_targets.ts";
import type { PeftConfig } from "./peft_config.ts";

interface Term {
  readonly matrix: Adaptable;
  readonly rank: number;
  readonly alpha: number;
}

/** Groups that do not overlap. */
const GROUPS = ["attention", "dense", "shared", "router", "experts", "head"] as const;

export function loraOptionsOf(all: readonly Adaptable[], terms: readonly Term[], config: PeftConfig, expertTerms: ExpertTerms) {
  const { r: rank, lora_alpha: alpha, use_rslora: rslora } = config;
  const byKey = new Map(terms.map((t) => [t.matrix.key, t]));
  const targets: string[] = [];
  const ranks: Record<string, number> = {};
  const alphas: Record<string, number> = {};
  const say = (target: string, term: Term): void => {
    targets.push(target);
    if (term.rank !== rank) ranks[target] = term.rank;
    if (term.alpha !== alpha) alphas[target] = term.alpha;
  };
  const left = new Set(byKey.keys());
  /** Says a name that stands for nothing but matrices of one rank and factor, all of which are adapted. */
  const cover = (target: string, members: readonly Adaptable[]): void => {
    const own = members.flatMap(({ key }) => byKey.get(key) ?? []);
    const [first] = own;
    if (!first || own.length < members.length || !own.some((t) => left.has(t.matrix.key))) return;
    if (!own.every((t) => t.rank === first.rank && t.alpha === first.alpha)) return;
    for (const t of own) left.delete(t.matrix.key);
    say(target, first);
  };
  for (const group of GROUPS) {
    const roles: readonly string[] = LORA_GROUPS[group];
    const members = all.filter(({ place }) => roles.includes(place.role));
    if (members.every(({ shape }) => shape[0] > 1)) cover(group, members);
  }
  const leaf = ({ key }: Adaptable): string => moduleOf(key).split(".").at(-1)!;
  for (const name of new Set(terms.map(({ matrix }) => leaf(matrix))))
    if (!/\[/.test(name))
      cover(
        name,
        all.filter(({ names }) => isCalled(names, name)),
      );
  for (const t of terms) if (left.has(t.matrix.key)) say(moduleOf(t.matrix.key), t);
  return {
    rank,
    alpha,
    targets,
    ...(Object.keys(ranks).length > 0 ? { ranks } : {}),
    ...(Object.keys(alphas).length > 0 ? { alphas } : {}),
    ...(rslora === true ? { rslora } : {}),
    ...(expertTerms === "fused" ? { expertTerms } : {}),
  };
}
