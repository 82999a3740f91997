// What routing logs do not say, concluded from their ids: experts per token (K) and per layer (E). What cannot be told is refused.
import { ConfigError } from "../errors.ts";

/** Highest expert id that a log may hold. */
export const MAX_ID = 65_535;

/**
 * What the ids say about K. A token never routes twice to one expert, so K divides every line and every group of K
 * consecutive ids is distinct: the largest such K is the answer, because merging two tokens would soon repeat an expert.
 * "Soon" is measured: if the true K were a divisor of the answer, the chance that no merged group ever repeated an expert
 * (ids independent and uniform, which real routing makes less likely still) must be below 1e-6, else the answer is refused.
 */
export class TopKEvidence {
  readonly #given: number | undefined;
  #candidates: number[] | null = null;
  #slots = 0;
  #maxId = 0;

  constructor(given: number | undefined) {
    this.#given = given;
  }

  add(ids: readonly number[], fail: (message: string) => never): void {
    this.#slots += ids.length;
    for (const id of ids) if (id > this.#maxId) this.#maxId = id;
    if (this.#given !== undefined) {
      const K = this.#given;
      if (ids.length % K !== 0) fail(`expected a multiple of topK = ${K} expert ids, found ${ids.length}`);
      const twice = firstRepeat(ids, K);
      if (twice !== -1)
        fail(`expected ${K} different experts per token, found expert ${ids[twice]} twice in token ${Math.floor(twice / K)}`);
      return;
    }
    const candidates = this.#candidates ?? divisors(ids.length);
    this.#candidates = candidates.filter((K) => ids.length % K === 0 && firstRepeat(ids, K) === -1);
  }

  conclude(dir: string): number {
    if (this.#given !== undefined) return this.#given;
    const K = Math.max(...(this.#candidates ?? [1]));
    const E = this.#maxId + 1;
    const groups = this.#slots / K;
    for (const k of divisors(K).filter((d) => d < K)) {
      // K/k tokens of k experts each, all different: Π over tokens, over their experts, of (free left) / (choices left).
      let logChance = 0;
      for (let i = k; i < K; i++) logChance += Math.log((E - i) / (E - (i % k)));
      if (logChance * groups > Math.log(1e-6))
        throw new ConfigError(
          `${dir}: cannot tell from ${this.#slots} expert ids whether each token has ${K} or ${k} experts; say which with topK (--top-k)`,
          { where: { file: dir, option: "topK" } },
        );
    }
    return K;
  }
}

const seen = new Float64Array(MAX_ID + 1); // stamp of the group in which an id was last seen
let stamp = 0;

/** Position of the first id that repeats within its group of K, or -1. */
function firstRepeat(ids: readonly number[], K: number): number {
  for (let i = 0; i < ids.length; i++) {
    if (i % K === 0) stamp++;
    if (seen[ids[i]!] === stamp) return i;
    seen[ids[i]!] = stamp;
  }
  return -1;
}

function divisors(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);
}

/**
 * E = highest id + 1 over all layers, believed when most layers used that expert: if there were more experts, none of them
 * would have been used in any layer.
 */
export function inferExperts(dir: string, layers: readonly { readonly maxId: number }[]): number {
  const E = Math.max(...layers.map((l) => l.maxId)) + 1;
  const using = layers.filter((l) => l.maxId === E - 1).length;
  if (using * 2 <= layers.length)
    throw new ConfigError(
      `${dir}: cannot tell how many experts a layer has: the highest id is ${E - 1}, used in only ${using} of ${layers.length} layers; say how many with experts (--experts)`,
      { where: { file: dir, option: "experts" } },
    );
  return E;
}
