// The control of a selection: as many experts, drawn at random.
import { instanceArgument, optionsArgument } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import type { ExpertLayout } from "./expert_set.ts";
import { ExpertSet } from "./expert_set.ts";
import { groupsOf } from "./tied.ts";

export interface RandomOptions {
  /** Routed experts of a layer: one number, or per layer. */
  readonly experts: number | ExpertLayout;
  readonly seed: number;
  /** Experts are drawn in groups of so many neighbours, as they were selected; default 1. */
  readonly groupSize?: number | undefined;
}

/**
 * The paper's control: as many experts per layer as `like`, drawn at random. The same seed gives the same set everywhere.
 * @throws ConfigError a layer asks for more experts than there are, or for a number that groups do not make
 */
export function selectRandom(like: ExpertSet, options: RandomOptions): ExpertSet {
  instanceArgument(like, ExpertSet, "selectRandom: like");
  const { experts, seed, groupSize: n = 1 } = optionsArgument(options, "selectRandom: options");
  if (typeof experts !== "number") instanceArgument(experts, Map, "selectRandom: options.experts");
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new ConfigError(`selection: expected a seed >= 0, found ${seed}`, { where: { option: "seed" } });
  const next = splitmix64(BigInt(seed));
  return new ExpertSet({
    layers: [...like.layers].map(([layer, { ids }]) => {
      const E = typeof experts === "number" ? experts : (experts.get(layer) ?? 0);
      if (ids.length > E)
        throw new ConfigError(`selection, layer ${layer}: expected at most ${E} experts, found ${ids.length}`, { where: { layer } });
      const pool = Array.from({ length: groupsOf(layer, E, n) }, (_, i) => i);
      const drawn = ids.length / n;
      if (!Number.isInteger(drawn))
        throw new ConfigError(`selection, layer ${layer}: expected whole groups of ${n} experts, found ${ids.length} experts`, {
          where: { option: "groupSize", layer },
        });
      for (let i = 0; i < drawn; i++) {
        const j = i + Number(next() % BigInt(pool.length - i)); // bias below 2^-50
        [pool[i], pool[j]] = [pool[j]!, pool[i]!];
      }
      const ranked = pool.slice(0, drawn).flatMap((group) => Array.from({ length: n }, (_, i) => group * n + i));
      return [layer, { ranked }] as const;
    }),
    sharedExperts: like.sharedExperts,
    nonExpertModules: like.nonExpertModules,
    rule: {
      random: true,
      seed,
      experts: typeof experts === "number" ? experts : Object.fromEntries(experts),
      ...(n > 1 ? { groupSize: n } : {}),
    },
    base: like.base,
  });
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
