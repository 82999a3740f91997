// Which matrices LoRA adapts, and with what rank and factor: from targets as a user writes them to a list.
//
// A target is a group (what matrices are to the model), a name (the last parts of a module's name, or all of it) or a regular
// expression between slashes, which is tried on the module's whole name: /layers\.(0|1)\..*\.gate$/.
//
// Routed experts have a term beside each of gate, up and down; or, `fused`, one beside gate over up (they share A) and one beside
// down, as PEFT has them (target_parameters). Where the checkpoint has gate and up in one matrix, that has one either way.

import { ConfigError } from "../errors.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import { expertLayout } from "../experts/expert_set.ts";
import type { TensorSlice } from "../files/slice.ts";
import { sliceKey } from "../files/slice.ts";
import { gateUpKey } from "../model/families/index.ts";
import type { ModelSpec, ParameterPlace, ParameterRole, ParameterShape } from "../model/spec.ts";
import { moeOf, parameterShapes } from "../model/spec.ts";
import { nearest } from "../options/suggest.ts";

/** The rank of an expert's terms by which a token meets as many columns as with one matrix of rank r. */
export const RANK_BY_TOP_K = "r/top_k";

/** How the terms of routed experts are cut. */
export type ExpertTerms = "matrix" | "fused";

export interface LoraOptions {
  /** r, of matrices that `ranks` does not name. */
  readonly rank: number;
  /** α; a term is scaled by α/r, or α/√r. Default: 2·r of each matrix. */
  readonly alpha?: number | undefined;
  readonly targets: readonly string[];
  /** Ranks of some matrices: target → r, or of routed experts "r/top_k", the rank over the experts of a token; the last that names one counts. */
  readonly ranks?: Readonly<Record<string, number | typeof RANK_BY_TOP_K>> | undefined;
  /** α of some matrices, likewise. */
  readonly alphas?: Readonly<Record<string, number>> | undefined;
  /** Scale by α/√r (rsLoRA, arXiv 2312.03732). */
  readonly rslora?: boolean | undefined;
  readonly expertTerms?: ExpertTerms | undefined;
  /** The routed experts that are adapted; absent: all that targets name. */
  readonly experts?: ExpertSet | null | undefined;
  /**
   * Of an adapter whose ranks were re-allocated: layer → rank of each expert, 0 = no term. The factor is that of the rank which options
   * give the expert.
   */
  readonly expertRanks?: Readonly<Record<string, readonly number[]>> | undefined;
  /** Ranks above what a matrix can have are taken: of adapters that others made. */
  readonly anyRank?: boolean | undefined;
}

/** One adapted matrix W [out, in]. */
export interface LoraMatrix {
  /** Of its tensors: lora.<key>.A [r, in] and .B [out, r]. */
  readonly key: string;
  /** W, where it is one of the checkpoint's. */
  readonly target?: TensorSlice;
  readonly shape: readonly [out: number, input: number];
  readonly place: ParameterPlace;
  readonly rank: number;
  /** Columns in memory where that is more than the rank: what is beyond it is zeros. */
  readonly allocated?: number;
  readonly scaling: number;
}

/** Names for groups of matrices, by what they are to the model. As in PEFT, all-linear leaves the head out. */
export const LORA_GROUPS = {
  attention: ["attention"],
  dense: ["dense"],
  shared: ["shared"],
  router: ["router"],
  experts: ["expert"],
  head: ["head"],
  linear: ["attention", "dense", "shared"],
  "all-linear": ["attention", "dense", "shared", "router", "expert"],
} as const satisfies Record<string, readonly ParameterRole[]>;

const ADAPTABLE: ReadonlySet<ParameterRole> = new Set(Object.values(LORA_GROUPS).flat());

type Candidate = Pick<LoraMatrix, "key" | "target" | "place"> & { readonly shape: readonly number[]; readonly names: readonly string[] };

/** Name of the module that owns a tensor: what targets are compared with. */
export const moduleOf = (key: string): string => key.replace(/\.weight(?=$|\[)/, "");

const placeOf = ({ role, layer, expert, part }: ParameterShape): ParameterPlace => ({
  role,
  layer,
  ...(expert === undefined ? {} : { expert }),
  ...(part === undefined ? {} : { part }),
});

/** All that a target can name, in model order; with fused terms gate and up of a routed expert are one. */
function candidates(spec: ModelSpec, terms: ExpertTerms): Candidate[] {
  return parameterShapes(spec).flatMap((p): Candidate[] => {
    const { ref, shape, role, layer, expert, part } = p;
    const own = moduleOf(sliceKey(ref));
    const place = placeOf(p);
    // An expert of a fused tensor is named by that, and by itself.
    const names = role === "expert" ? [...new Set([moduleOf(ref.name), own])] : [own];
    const itself = { key: sliceKey(ref), target: ref, shape, place, names };
    if (terms === "matrix" || role !== "expert" || part === "down") return [itself];
    if (part === "up") return [];
    const weights = moeOf(spec, layer)!.experts[expert!]!;
    if ("gateUp" in weights) return [itself];
    const key = gateUpKey(weights);
    const { part: _, ...fused } = place;
    const all = [...names, moduleOf(sliceKey(weights.up)), moduleOf(key)];
    const whole =
      weights.gate.index !== undefined && key !== sliceKey(weights.gate) ? { name: weights.gate.name, index: weights.gate.index } : null;
    return [{ key, ...(whole ? { target: whole } : {}), shape: [2 * shape[0]!, shape[1]!], place: fused, names: all }];
  });
}

/** A matrix that LoRA can adapt. */
export interface Adaptable extends Omit<LoraMatrix, "rank" | "scaling"> {
  /** What a target may call it. */
  readonly names: readonly string[];
}

export function adaptableMatrices(spec: ModelSpec, terms: ExpertTerms): Adaptable[] {
  return candidates(spec, terms)
    .filter(adapts)
    .map((matrix) => ({ ...matrix, shape: matrix.shape as [number, number] }));
}

const adapts = ({ place, shape }: Candidate): boolean => ADAPTABLE.has(place.role) && shape.length === 2;

type Matches = (c: Candidate) => boolean;

/** Is a target one of the names, or the last parts of one? */
export const isCalled = (names: readonly string[], target: string): boolean =>
  names.some((name) => name === target || name.endsWith(`.${target}`));

/** What a target means. Groups leave out matrices with one row: a number per token, which takes no rank. @throws ConfigError a bad pattern */
function matcher(target: string, key: string): Matches {
  if (Object.hasOwn(LORA_GROUPS, target)) {
    const roles: readonly ParameterRole[] = LORA_GROUPS[target as keyof typeof LORA_GROUPS];
    return ({ place, shape }) => roles.includes(place.role) && (shape[0] ?? 0) > 1;
  }
  const matches = nameMatcher(target, (why, cause) => {
    throw new ConfigError(`LoRA target ${target} ${why}`, { where: { key }, cause });
  });
  return ({ names }) => matches(names);
}

/** What a target means that is no group: a /pattern/ over the names, or one of them. @param refuse where the pattern is none */
export function nameMatcher(target: string, refuse: (why: string, cause: unknown) => never): (names: readonly string[]) => boolean {
  const pattern = /^\/(.+)\/$/s.exec(target)?.[1];
  if (pattern === undefined) return (names) => isCalled(names, target);
  try {
    const expression = new RegExp(pattern, "u");
    return (names) => names.some((name) => expression.test(name));
  } catch (error) {
    return refuse(`is no regular expression: ${(error as Error).message}`, error);
  }
}

/** Why a tied head takes no term. */
export const TIED_HEAD =
  "the head, which is the embedding in this model: a term beside the head alone could not be merged, and one in the embedding " +
  "would change what the model reads; untie them first (a checkpoint with tie_word_embeddings false and a matrix for each)";

const describe = ({ place: { role }, shape }: Candidate): string =>
  shape.length === 2 ? `the ${role}` : shape.length === 1 ? "vectors" : "convolutions";

/** The adaptable ones that a target names. @throws ConfigError none (with the nearest name), or only what LoRA is not served on */
function named(spec: ModelSpec, all: readonly Candidate[], target: string, key: string): Candidate[] {
  const fail = (message: string): never => {
    throw new ConfigError(`LoRA target "${target}" ${message}`, { where: { key } });
  };
  const found = all.filter(matcher(target, key));
  const adaptable = found.filter(adapts);
  if (adaptable.length > 0) return adaptable;
  const [other] = found;
  if (other) fail(`matches only ${describe(other)}, which LoRA does not adapt`);
  if (target.includes("head") && sliceKey(spec.head) === sliceKey(spec.embedding)) fail(`names ${TIED_HEAD}`);
  const names = new Set(all.filter(adapts).flatMap((c) => c.names.map((name) => name.split(".").at(-1) ?? "")));
  const valid = [...Object.keys(LORA_GROUPS), ...names];
  const near = nearest(target, valid);
  return fail(
    `matches nothing in this ${spec.modelType} model${near === undefined ? "" : `; did you mean "${near}"?`} (valid: ${valid.join(", ")})`,
  );
}

function rankOf(spec: ModelSpec, { place, key }: Candidate, asked: number | typeof RANK_BY_TOP_K, rank: number): number {
  if (asked !== RANK_BY_TOP_K) return asked;
  if (place.role !== "expert")
    throw new ConfigError(`LoRA rank "${RANK_BY_TOP_K}" is one of routed experts, "${key}" is none`, { where: { key: "method.ranks" } });
  return Math.max(1, Math.floor(rank / moeOf(spec, place.layer)!.topK));
}

const whole = (rank: number, key: string, of = ""): number => {
  if (!Number.isSafeInteger(rank) || rank < 1)
    throw new ConfigError(`LoRA rank${of} must be an integer >= 1, found ${rank}`, { where: { key } });
  return rank;
};
const positive = (alpha: number, key: string, of = ""): number => {
  if (!Number.isFinite(alpha) || alpha <= 0)
    throw new ConfigError(`LoRA alpha${of} must be a number > 0, found ${alpha}`, { where: { key } });
  return alpha;
};

/** Ranks by layer and expert are those of this model's experts, all of them. */
function requireRanks(spec: ModelSpec, ranks: Readonly<Record<string, readonly number[]>>): void {
  const layout = expertLayout(spec);
  for (const [layer, own] of Object.entries(ranks)) {
    const experts = layout.get(Number(layer));
    if (experts !== own.length)
      throw new ConfigError(`expertRanks of layer ${layer} must be those of its ${experts ?? 0} routed experts, found ${own.length}`, {
        where: { key: "method.expertRanks", layer: Number(layer) },
      });
  }
}

function rankAmong(ranks: Readonly<Record<string, readonly number[]>>, { key, place: { layer, expert } }: Candidate): number {
  const own = ranks[layer]?.[expert!];
  if (own === undefined || !Number.isInteger(own) || own < 0)
    throw new ConfigError(`expertRanks must give "${key}" a rank >= 0, found ${own === undefined ? "none" : String(own)}`, {
      where: { key: "method.expertRanks", tensor: key },
    });
  return own;
}

/**
 * The matrices that the options name, in model order, each with its rank and factor.
 * @throws ConfigError a rank, alpha, target or selection of experts that does not fit the model
 */
export function loraMatrices(spec: ModelSpec, options: LoraOptions): LoraMatrix[] {
  const {
    rank,
    alpha,
    targets,
    ranks = {},
    alphas = {},
    rslora = false,
    expertTerms = "matrix",
    experts = null,
    expertRanks = null,
    anyRank = false,
  } = options;
  whole(rank, "method.rank");
  if (alpha !== undefined) positive(alpha, "method.alpha");
  if (targets.length === 0) throw new ConfigError("LoRA needs at least one target, found none", { where: { key: "method.targets" } });
  if (experts) experts.validate(expertLayout(spec));
  if (expertRanks) requireRanks(spec, expertRanks);
  const all = candidates(spec, expertTerms);
  const chosen = new Set(targets.flatMap((target) => named(spec, all, target, "method.targets")));
  const isRouted = ({ place }: Candidate): boolean => place.role === "expert";
  if (experts && ![...chosen].some(isRouted))
    throw new ConfigError(`LoRA was given ${experts.count} experts, but no target names routed experts: add "experts" to the targets`, {
      where: { key: "method.targets" },
    });
  const kept = all.filter((c) => chosen.has(c) && (!experts || !isRouted(c) || experts.has(c.place.layer, c.place.expert!)));
  const own = <T>(of: Readonly<Record<string, T>>, key: string): Map<Candidate, T> => {
    const found = new Map<Candidate, T>();
    for (const [target, value] of Object.entries(of)) {
      const matches = new Set(named(spec, all, target, key));
      const adapted = kept.filter((c) => matches.has(c));
      if (adapted.length === 0) throw new ConfigError(`"${target}" names no matrix that the targets adapt`, { where: { key } });
      for (const c of adapted) found.set(c, value);
    }
    return found;
  };
  for (const [target, r] of Object.entries(ranks)) if (r !== RANK_BY_TOP_K) whole(r, "method.ranks", ` of "${target}"`);
  for (const [target, a] of Object.entries(alphas)) positive(a, "method.alphas", ` of "${target}"`);
  const [ranksOf, alphasOf] = [own(ranks, "method.ranks"), own(alphas, "method.alphas")];
  return kept.flatMap((c): LoraMatrix[] => {
    const { names: _, ...matrix } = c;
    const r = rankOf(spec, c, ranksOf.get(c) ?? rank, rank);
    const shape = c.shape as [number, number];
    const key = ranksOf.has(c) ? "method.ranks" : "method.rank";
    if (!anyRank && r > Math.min(...shape))
      throw new ConfigError(
        `LoRA rank must be at most ${Math.min(...shape)} beside "${c.key}" [${shape.join(", ")}], found ${r}; ranks gives some matrices another one`,
        { where: { key, tensor: c.key } },
      );
    const a = alphasOf.get(c) ?? alpha ?? 2 * r;
    const scaling = rslora ? a / Math.sqrt(r) : a / r;
    const own = expertRanks && isRouted(c) ? rankAmong(expertRanks, c) : r;
    return own === 0 ? [] : [{ ...matrix, shape, rank: own, scaling }];
  });
}
