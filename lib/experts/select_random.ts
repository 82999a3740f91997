// The control of a selection: as many experts, drawn at random.
import { instanceArgument, optionsArgument } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import type { ExpertLayout } from "./expert_set.ts";
import { ExpertSet } from "./expert_set.ts";

export interface RandomOptions {
  /** Routed experts of a layer: one number, or per layer. */
  readonly experts: number | ExpertLayout;
  readonly seed: number;
}

/**
 * The paper's control: as many experts per layer as `like`, drawn at random. The same seed gives the same set everywhere.
 * @throws ConfigError a layer asks for more experts than there are
 */
export function selectRandom(like: ExpertSet, options: RandomOptions): ExpertSet {
  instanceArgument(like, ExpertSet, "selectRandom: like");
  const { experts, seed } = optionsArgument(options, "selectRandom: options");
  if (typeof experts !== "number") instanceArgument(experts, Map, "selectRandom: options.experts");
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new ConfigError(`selection: expected a seed >= 0, found ${seed}`, { where: { option: "seed" } });
  const next = splitmix64(BigInt(seed));
  return new ExpertSet({
    layers: [...like.layers].map(([layer, { ids }]) => {
      const E = typeof experts === "number" ? experts : (experts.get(layer) ?? 0);
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
    rule: { random: true, seed, experts: typeof experts === "number" ? experts : Object.fromEntries(experts) },
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
