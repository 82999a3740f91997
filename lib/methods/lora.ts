// LoRA (arXiv 2106.09685) on the linear layers of a model: attention, dense MLPs, shared experts, routers, routed experts (all, or a
// selection: ESFT with low-rank terms in place of whole experts), the head. Which matrices are adapted is decided in lora_targets.ts;
// the terms themselves are low_rank.ts, of routed experts low_rank_terms.ts, and low_rank_head.ts.
//
// Tensors are called lora.<checkpoint tensor>.A [r, in] and .B [out, r]. First values are drawn from a stream of its own per matrix, so
// that a choice of targets does not change the others' values (low_rank_init.ts).

import type { TensorSlice } from "../files/slice.ts";
import { sliceKey } from "../files/slice.ts";
import { gateUpKey } from "../model/families/index.ts";
import type {
  AttachmentContext,
  Attachments,
  ExpertsAttachment,
  ExpertsSite,
  ExpertsTerms,
  HeadAttachment,
  LinearAttachment,
} from "../model/layers/attachment.ts";
import type { LinearSpec, ModelSpec, ParameterRole, RoutedExpertWeights } from "../model/spec.ts";
import type { AttachedSpec } from "../model/weights/parameter.ts";
import { ConfigError } from "../errors.ts";
import { dropoutOf } from "./dropout.ts";
import type { Dropout } from "./dropout.ts";
import { GroupedLowRank } from "./grouped_low_rank.ts";
import { LowRank, LowRankMlp } from "./low_rank.ts";
import { LowRankHead } from "./low_rank_head.ts";
import { LowRankExperts } from "./low_rank_experts.ts";
import { termsOfExperts } from "./low_rank_terms.ts";
import { firstA, zeros } from "./low_rank_init.ts";
import type { LowRankInit } from "./low_rank_init.ts";
import { loraMatrices } from "./lora_targets.ts";
import type { LoraMatrix, LoraOptions } from "./lora_targets.ts";
import { planReallocation, reallocationWords } from "./reallocation.ts";
import type { ReallocationOptions, ReallocationPlan } from "./reallocation.ts";
import { trainable } from "./method.ts";
import type { MethodOptions, TrainableSpec } from "./method.ts";

/**
 * LoRA on the matrices that the targets name; the base is frozen.
 * @param seed of the first values of A
 * @throws ConfigError a rank, alpha, target or selection that does not fit the model
 */
export function loraTrainable(spec: ModelSpec, options: LoraOptions & LoraTraining, seed: number): TrainableSpec {
  const { experts = null, init = "kaiming", dropout = 0, reallocate, ...rest } = options;
  if (!(dropout >= 0 && dropout < 1))
    throw new ConfigError(`LoRA dropout must be a number >= 0 and < 1, found ${dropout}`, { where: { key: "method.dropout" } });
  const matrices = loraMatrices(spec, options);
  const reallocation = reallocate === undefined ? null : planReallocation(matrices, { ...rest, reallocate }, seed);
  const allocated = matrices.map((m) => (reallocation && m.place.role === "expert" ? { ...m, allocated: reallocation.maxRank } : m));
  const attachments = new LoraAttachments(allocated, init, seed, dropout);
  const said = manifestOptions({ ...rest, init, dropout }, reallocation);
  return trainable(spec, { type: "lora", options: said, attachments, experts, reallocation }, () => false);
}

/** What matters while it trains alone. */
export interface LoraTraining extends ReallocationOptions {
  readonly init?: LowRankInit | undefined;
  /** Share of what a term reads that is dropped out, with a mask of its own per term, step and micro-batch (dropout.ts). */
  readonly dropout?: number | undefined;
}

/** As an adapter's manifest keeps them: what is not said is not there. */
function manifestOptions(options: Omit<LoraOptions, "experts"> & LoraTraining, reallocation: ReallocationPlan | null): MethodOptions {
  const { rank, targets, ranks, alphas, rslora, expertTerms, init, dropout } = options;
  const alpha = options.alpha ?? (ranks === undefined ? 2 * rank : undefined);
  return {
    rank,
    ...(alpha === undefined ? {} : { alpha }),
    targets: [...targets],
    ...(ranks === undefined ? {} : { ranks }),
    ...(alphas === undefined ? {} : { alphas }),
    ...(rslora === true ? { rslora } : {}),
    ...(expertTerms === "fused" ? { expertTerms } : {}),
    ...(init === undefined || init === "kaiming" ? {} : { init }),
    ...(dropout === undefined || dropout === 0 ? {} : { dropout }),
    ...(reallocation === null ? {} : reallocationWords(reallocation)),
  };
}

/** A term's tensors. */
type Term = LoraMatrix & { readonly a: string; readonly b: string };

/** Beside linear layers and inside MLPs that every token visits. */
const ROWWISE: ReadonlySet<ParameterRole> = new Set(["attention", "dense", "shared", "router"]);

/** What LoRA attaches to a model. */
export class LoraAttachments implements Attachments {
  readonly parameters: readonly AttachedSpec[];
  readonly dropsOut: boolean;
  readonly rowwise: boolean;
  private readonly terms: ReadonlyMap<string, Term>;
  private readonly dropout: (name: string) => Dropout | null;

  /** @param seed of the first values of A, and of dropout @param dropout share that is dropped */
  constructor(matrices: readonly LoraMatrix[], init: LowRankInit, seed: number, dropout = 0) {
    this.dropsOut = dropout > 0;
    this.rowwise = matrices.every(({ place: { role } }) => ROWWISE.has(role));
    this.dropout = (name) => dropoutOf(dropout, seed, name);
    const terms = matrices.map((m): Term => ({ ...m, a: `lora.${m.key}.A`, b: `lora.${m.key}.B` }));
    this.terms = new Map(terms.map((t) => [t.key, t]));
    this.parameters = terms.flatMap(({ a, b, shape: [out, input], rank, allocated = rank, place, target }): AttachedSpec[] => {
      const beside = { place, ...(target ? { target } : {}) };
      const first = (): Float32Array => {
        const live = firstA(init, rank, input, seed, a);
        if (allocated === rank) return live;
        const all = zeros(allocated * input);
        all.set(live);
        return all;
      };
      return [
        { key: a, shape: [allocated, input], live: [rank, input], ...beside, initial: first },
        { key: b, shape: [out, allocated], live: [out, rank], ...beside, initial: () => zeros(out * allocated) },
      ];
    });
  }

  private beside(ref: TensorSlice, context: AttachmentContext): LowRank | null {
    const term = this.terms.get(sliceKey(ref));
    return term
      ? new LowRank({ ...term, exact: term.place.role === "router", in: term.shape[1], dropout: this.dropout(term.a) }, context)
      : null;
  }

  head(weight: TensorSlice, context: AttachmentContext): HeadAttachment | null {
    const term = this.terms.get(sliceKey(weight));
    if (!term) return null;
    return new LowRankHead(
      { ...term, in: term.shape[1], dropout: this.dropout(term.a) },
      { plan: context.plan, attached: (key) => context.attached(key) },
    );
  }

  linear(target: LinearSpec, context: AttachmentContext): LinearAttachment | null {
    return this.beside(target.weight, context);
  }

  experts(site: ExpertsSite, context: AttachmentContext): ExpertsAttachment | ExpertsTerms | null {
    const { routed, experts } = site;
    const [mlp] = experts;
    if (!mlp) return null;
    if (routed || "gateUp" in mlp) return this.routed(site, context);
    const of = (part: "gate" | "up" | "down"): LowRank | null => this.beside(mlp[part], context.named(part));
    const terms = { gate: of("gate"), up: of("up"), down: of("down") };
    return terms.gate || terms.up || terms.down ? new LowRankMlp(terms) : null;
  }

  /** Inside the products; beside them where dropout changes what a term reads, or gate has one and up has not. */
  private routed({ experts, topK }: ExpertsSite, context: AttachmentContext): ExpertsAttachment | ExpertsTerms | null {
    const of = (keyOf: (e: RoutedExpertWeights) => string | null): (Term & { expert: number })[] =>
      experts.flatMap((e, expert) => {
        const key = keyOf(e);
        const term = key === null ? undefined : this.terms.get(key);
        return term ? [{ ...term, rank: term.allocated ?? term.rank, expert }] : [];
      });
    const found = {
      gate: of((e) => ("gateUp" in e ? null : sliceKey(e.gate))),
      up: of((e) => ("gateUp" in e ? null : sliceKey(e.up))),
      gateUp: of(gateUpKey),
      down: of((e) => sliceKey(e.down)),
    };
    if (Object.values(found).every((terms) => terms.length === 0)) return null;
    const { gate, up, gateUp, down } = found;
    const both = gate.length === up.length && gate.every((term, i) => term.expert === up[i]!.expert);
    if (!this.dropsOut && both && (gate.length === 0 || gateUp.length === 0)) {
      const hidden = [gate, up, gateUp].filter((terms) => terms.length > 0);
      const output = [down].filter((terms) => terms.length > 0);
      return termsOfExperts({ hidden, output }, { experts: experts.length, rowsPerToken: topK }, context);
    }
    const beside = (part: keyof typeof found): GroupedLowRank[] => this.grouped(found[part], experts.length, topK, context.named(part));
    return new LowRankExperts({ gate: beside("gate"), up: beside("up"), gateUp: beside("gateUp"), down: beside("down") });
  }

  /** Experts of one rank and factor share their products, and their gradients where a stage trains some alone. */
  private grouped(found: readonly (Term & { expert: number })[], experts: number, rowsPerToken: number, context: AttachmentContext) {
    const alike = new Map<string, (Term & { expert: number })[]>();
    for (const term of found) {
      const key = `${term.rank} ${term.scaling} ${context.attached(term.a).trains}`;
      alike.set(key, [...(alike.get(key) ?? []), term]);
    }
    return [...alike.values()].map((groups) => {
      const { rank, scaling, shape, a } = groups[0]!;
      const [out, input] = shape;
      const target = { experts, groups, rank, in: input, out, between: { scaling }, dropout: this.dropout(a), rowsPerToken };
      return new GroupedLowRank(target, context);
    });
  }
}
