// A profile: how much a task uses each expert. Sums are kept, not scores, so that partial profiles add up exactly.
//
//   token score   counts[e] / (K·T)
//   gate score    gateSums[e] / T
//   perLayer      gateSums[e] / Σ gateSums
//   gradient score  gradientSums[e] / Σ gradientSums
//   average "sequences": mean over sequences of the per-sequence scores instead of over all tokens
//
// Sizes: T tokens, K experts per token, E routed experts, one entry per sparse layer. A layer whose K or E is not the profile's says so.
import { instanceArgument, listArgument, optionsArgument, pathArgument, textArgument, wholeArgument } from "../arguments.ts";
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { checkSchema, formatJson, readJsonFile } from "../files/json.ts";
import type { ExpertLayout, ExpertSet } from "./expert_set.ts";
import type { ExpertScores, ScoreOptions } from "./scores.ts";
import type { SelectOptions } from "./select.ts";
import { selectExperts } from "./select.ts";

const Count = z.int().min(0);
const Sum = z.number().min(0); // zod refuses NaN and infinities

const Layer = z.strictObject({
  layer: Count,
  /** Where they are not the profile's. */
  topK: z.int().min(1).optional(),
  experts: z.int().min(1).optional(),
  /** Tokens scored in this layer. */
  tokens: Count,
  counts: z.array(Count),
  gateSums: z.array(Sum),
  /** Σ over sequences of count/(K·L) and of Σgate/L; present when whole sequences were profiled. */
  sequenceTokenSums: z.array(Sum).optional(),
  sequenceGateSums: z.array(Sum).optional(),
  /** Σ over batches of ‖W ⊙ dW‖ of each expert (saliency.ts); present when gradients were asked for. */
  gradientSums: z.array(Sum).optional(),
});

export const ProfileJson = z.strictObject({
  format: z.literal("esft-profile"),
  version: z.literal(1),
  source: z.enum(["model", "traces"]),
  /** Name and fingerprint of the profiled base. */
  model: z.strictObject({ name: z.string().optional(), fingerprint: z.string().optional() }).optional(),
  data: z.strictObject({ name: z.string().optional(), sha256: z.string().optional() }).optional(),
  seed: z.int().optional(),
  /** True when the router's top-k weights are renormalised, so that gate scores sum to the scaling factor. */
  normTopkProb: z.boolean().optional(),
  /** Of gradientSums: batches of at most so many tokens, dW that of the summed loss of a batch's supervised tokens, and how many those were. */
  gradient: z.strictObject({ batchTokens: z.int().min(1), supervised: Count }).optional(),
  /** Of a layer, unless it says otherwise. */
  topK: z.int().min(1),
  experts: z.int().min(1),
  sequences: Count,
  layers: z.array(Layer).min(1),
  /** Where an interrupted profiling run goes on; opaque here. */
  resume: z.json().optional(),
});

export type ProfileData = z.output<typeof ProfileJson>;
export type ProfileLayer = z.output<typeof Layer>;

export class Profile implements ExpertScores {
  readonly data: Readonly<ProfileData>;
  readonly #byLayer: ReadonlyMap<number, ProfileLayer>;

  /** Checks sizes and sums. @throws ConfigError naming `file` */
  constructor(asked: Omit<ProfileData, "format" | "version">, file = "profile") {
    textArgument(file, "new Profile: file");
    const data = optionsArgument(asked, `${file}: data`);
    this.data = checkSchema(ProfileJson, { format: "esft-profile", version: 1, ...data }, file, ConfigError);
    const byLayer = new Map<number, ProfileLayer>();
    for (const l of this.data.layers) {
      const { experts: E = this.data.experts, topK: K = this.data.topK } = l;
      const fail = (message: string): never => {
        throw new ConfigError(`${file}, layer ${l.layer}: ${message}`, { where: { file, layer: l.layer } });
      };
      if (byLayer.has(l.layer)) fail("expected each layer once, found it twice");
      for (const [key, values] of Object.entries(l))
        if (Array.isArray(values) && values.length !== E) fail(`expected ${E} values in ${key}, found ${values.length}`);
      const slots = sum(l.counts);
      if (slots !== K * l.tokens) fail(`expected counts to add up to ${K} experts × ${l.tokens} tokens = ${K * l.tokens}, found ${slots}`);
      if (K > E) fail(`expected topK <= experts, found topK ${K} and ${E} experts`);
      byLayer.set(l.layer, l);
    }
    this.#byLayer = byLayer;
  }

  /** Sparse layers, ascending. */
  get layers(): number[] {
    return [...this.#byLayer.keys()].sort((a, b) => a - b);
  }

  /** Routed experts of a layer, unless it has another number (`layout`). */
  get experts(): number {
    return this.data.experts;
  }

  /** Routed experts of each layer. */
  get layout(): ExpertLayout {
    return new Map(this.layers.map((layer) => [layer, this.layer(layer).counts.length]));
  }

  /** Experts per token in a layer. */
  topK(layer: number): number {
    return this.layer(layer).topK ?? this.data.topK;
  }

  /** Routed experts of all layers together. */
  get expertCount(): number {
    return sum(this.layout.values());
  }

  get base(): string | undefined {
    return this.data.model?.fingerprint;
  }

  /** Tokens scored (of the layer that saw most, should layers differ). */
  get tokens(): number {
    return Math.max(...this.data.layers.map((l) => l.tokens));
  }

  /** One layer's sums. @throws ConfigError the layer was not profiled */
  layer(layer: number): ProfileLayer {
    wholeArgument(layer, "profile: layer");
    const found = this.#byLayer.get(layer);
    if (!found)
      throw new ConfigError(`profile: expected one of the layers ${this.layers.join(", ")}, found ${layer}`, { where: { layer } });
    return found;
  }

  /** Scores of a layer's E experts. @throws ConfigError nothing was scored, or sequence averages or gradients were not recorded */
  scores(layer: number, asked: ScoreOptions): Float64Array {
    const options = optionsArgument(asked, "profile.scores: options");
    const l = this.layer(layer);
    const { sequences } = this.data;
    const K = this.topK(layer);
    if (l.tokens === 0) throw new ConfigError(`profile, layer ${layer}: expected scored tokens, found none`, { where: { layer } });
    if (options.score === "gradient") return gradientScores(l, options);
    let [sums, divisor] = options.score === "token" ? [l.counts, K * l.tokens] : [l.gateSums, l.tokens];
    if (options.average === "sequences") {
      const own = options.score === "token" ? l.sequenceTokenSums : l.sequenceGateSums;
      if (!own || sequences === 0)
        throw new ConfigError(
          `profile, layer ${layer}: average "sequences" needs per-sequence sums, which this profile does not hold; use "tokens"`,
          { where: { layer } },
        );
      [sums, divisor] = [own, sequences];
    }
    const values = Float64Array.from(sums, (s) => s / divisor);
    const mass = options.score === "gate" && options.gateNormalize === "perLayer" ? sum(values) : 0;
    return mass > 0 ? values.map((v) => v / mass) : values;
  }

  /** Sum of the raw gate scores of a layer: the routing probability that the top-k holds. */
  layerMass(layer: number): number {
    return sum(this.scores(layer, { score: "gate" }));
  }

  /** Picks experts; pure and instant. See selectExperts. */
  select(options: SelectOptions): ExpertSet {
    return selectExperts(this, options);
  }

  /** Adds partial profiles of the same model; resume state and data hashes that differ are dropped. @throws ConfigError */
  static merge(parts: readonly Profile[]): Profile {
    for (const part of listArgument(parts, "Profile.merge: parts")) instanceArgument(part, Profile, "Profile.merge: parts");
    const [first, ...rest] = parts;
    if (!first) throw new ConfigError("expected at least one profile to merge, found none");
    const identity = (p: Profile) => {
      const { source, model, normTopkProb, topK, experts, gradient } = p.data;
      const shapes = [...p.layout].map(([layer, E]) => [layer, p.topK(layer), E]);
      return JSON.stringify([source, model?.fingerprint, normTopkProb, topK, experts, shapes, gradient?.batchTokens]);
    };
    for (const p of rest)
      if (identity(p) !== identity(first))
        throw new ConfigError(`cannot merge profiles of different models: expected ${identity(first)}, found ${identity(p)}`);
    const layers = first.layers.map((layer): ProfileLayer => {
      const all = parts.map((p) => p.layer(layer));
      const add = (key: "counts" | "gateSums" | "sequenceTokenSums" | "sequenceGateSums" | "gradientSums") => {
        const lists = all.map((l) => l[key]);
        return lists.every((v) => v !== undefined) ? lists.reduce((a, b) => a.map((x, i) => x + b[i]!)) : undefined;
      };
      return {
        ...first.layer(layer),
        tokens: sum(all.map((l) => l.tokens)),
        counts: add("counts")!,
        gateSums: add("gateSums")!,
        sequenceTokenSums: add("sequenceTokenSums"),
        sequenceGateSums: add("sequenceGateSums"),
        gradientSums: add("gradientSums"),
      };
    });
    const origin = ({ data }: Profile) => JSON.stringify([data.data, data.seed]);
    const sameData = parts.every((p) => origin(p) === origin(first));
    return new Profile({
      ...first.data,
      ...(sameData ? {} : { data: undefined, seed: undefined }),
      gradient: first.data.gradient && { ...first.data.gradient, supervised: sum(parts.map((p) => p.data.gradient!.supervised)) },
      resume: undefined,
      sequences: sum(parts.map((p) => p.data.sequences)),
      layers,
    });
  }

  toJSON(): ProfileData {
    return this.data;
  }

  async save(path: string): Promise<void> {
    pathArgument(path, "profile.save: path");
    await writeFileAtomic(path, formatJson(this.data));
  }

  /** @throws ConfigError the file is not a profile · IoError */
  static async load(path: string): Promise<Profile> {
    pathArgument(path, "Profile.load: path");
    return new Profile(checkSchema(ProfileJson, await readJsonFile(path, ConfigError), path, ConfigError), path);
  }
}

function gradientScores({ layer, gradientSums }: ProfileLayer, { average }: ScoreOptions): Float64Array {
  const fail = (message: string): never => {
    throw new ConfigError(`profile, layer ${layer}: ${message}`, { where: { layer, option: "score" } });
  };
  if (!gradientSums)
    return fail(
      "gradient scores were not measured; measure them with esft profile --gradient (gradient: true), or select by token or gate",
    );
  if (average === "sequences") fail('gradient scores are sums over batches, not sequences; use average "tokens"');
  const total = sum(gradientSums);
  if (total === 0) fail("every gradient is 0: the profiled rows have no supervised tokens, or the model does not depend on these experts");
  return Float64Array.from(gradientSums, (s) => s / total);
}

function sum(values: Iterable<number>): number {
  let total = 0;
  for (const v of values) total += v;
  return total;
}
