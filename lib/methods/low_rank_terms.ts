// Low-rank terms inside a product of routed experts: y_e = x·W_eᵀ + u·B_eᵀ with u = s·A_e·x, the second summand in the same sum as the
// first, so that the activation, its backward and the gradient of the gate are fused as without a term. Experts that have none cost
// nothing, and there is no memory beyond A, B, u and its gradient.
//
// A product has one part, or gate and up as parts of their own, which read the same x: then their A are one product. Matrices of one
// rank and factor share products; where there are several of these, u is as wide as the largest rank, and zero where a smaller one ends.
// Kept for backward: u [N, parts·R]. Sizes in names: N rows in expert order, R largest rank.

import * as ops from "../ops.ts";
import type { LowRankTerms } from "../ops.ts";
import type { AttachmentContext, ExpertsTerms, ProductGradient, ProductInput, ProductTerms } from "../model/layers/attachment.ts";
import type { Run } from "../model/run.ts";
import { act } from "../model/slots.ts";
import type { Slot } from "../model/slots.ts";
import type { Parameter, ParameterList } from "../model/weights/parameter.ts";
import type { Tensor } from "../tensor.ts";

/** One matrix of an expert and its term. */
export interface TermMatrix {
  readonly expert: number;
  readonly a: string;
  readonly b: string;
  readonly rank: number;
  /** s. */
  readonly scaling: number;
}

export interface TermsTarget {
  /** Experts of the layer. */
  readonly experts: number;
  /** Of all outputs, or of gate and of up: the same experts, ascending. */
  readonly parts: readonly (readonly TermMatrix[])[];
  /** Rows per token: K where routed. */
  readonly rowsPerToken: number;
}

/** Products of matrices of one rank and factor. */
interface Piece {
  /** An item for every expert (and segment); of those that are not in `groups` it is not read. */
  readonly w: ParameterList;
  readonly grads: ParameterList | null;
  readonly segments: number;
  readonly groups: Int32Array;
  readonly factor: number;
  /** The columns of u and of its gradient. */
  readonly u: Slot;
  readonly du: Slot;
  /** Part of the output, of B. */
  readonly part: number;
}

export class GroupedTerms implements ProductTerms {
  readonly groups: Int32Array;
  private readonly u: Slot;
  private readonly du: Slot;
  private readonly parts: number;
  private readonly ragged: boolean;
  /** A: the parts together where they are alike. */
  private readonly narrowing: readonly Piece[];
  /** B: a part at a time. */
  private readonly widening: readonly Piece[];
  private readonly allA: ParameterList;
  private readonly allB: ParameterList;

  constructor({ experts, parts, rowsPerToken: K }: TermsTarget, context: AttachmentContext) {
    const { plan } = context;
    const [first = []] = parts;
    const rank = Math.max(...parts.flat().map((m) => m.rank));
    const P = parts.length;
    this.parts = P;
    this.ragged = parts.flat().some((m) => m.rank < rank);
    // What does not agree in this has products of its own; where a stage trains some of the terms alone, these have gradients of theirs.
    const kindOf = (m: TermMatrix): string => `${m.rank} ${m.scaling} ${context.attached(m.a).trains}`;
    const alike = (groups: readonly (readonly TermMatrix[])[]): (readonly TermMatrix[])[][] => {
      const found = new Map<string, (readonly TermMatrix[])[]>();
      for (const group of groups) {
        const key = group.map(kindOf).join(", ");
        found.set(key, [...(found.get(key) ?? []), group]);
      }
      return [...found.values()];
    };
    this.groups = Int32Array.from(first, (m) => m.expert);
    this.u = plan.kept(act(P * rank, K), "u");
    this.du = plan.backward(act(P * rank, K), "du");
    const columns = (slot: Slot, part: number, own: number): Slot =>
      own === P * rank ? slot : plan.columns(slot, part * rank, part * rank + own);
    const byExpert = first.map((_, g) => parts.map((matrices) => matrices[g]!));
    this.allA = context.values(byExpert.flat().map((m) => context.attached(m.a)));
    this.allB = context.values(byExpert.flat().map((m) => context.attached(m.b)));
    const piece = (key: "a" | "b", groups: readonly (readonly TermMatrix[])[], part: number, own: number): Piece => {
      const of = new Map(groups.map((g) => [g[0]!.expert, g.map((m) => context.attached(m[key]))]));
      const any = of.values().next().value!;
      return {
        w: context.values(Array.from({ length: experts }, (_, e) => of.get(e) ?? any).flat()),
        grads: trained(context, [...of.values()].flat()),
        segments: any.length,
        groups: Int32Array.from(of.keys()),
        factor: groups[0]![0]!.scaling,
        u: columns(this.u, part, own),
        du: columns(this.du, part, own),
        part,
      };
    };
    const each = (key: "a" | "b"): Piece[] =>
      parts.flatMap((matrices, part) => alike(matrices.map((m) => [m])).map((groups) => piece(key, groups, part, groups[0]![0]!.rank)));
    const together = alike(byExpert).length === 1 && byExpert[0]!.every((m) => kindOf(m) === kindOf(byExpert[0]![0]!));
    this.narrowing = together ? [piece("a", byExpert, 0, P * rank)] : each("a");
    this.widening = each("b");
  }

  /** Several ranks: columns that a smaller one does not write are multiplied by zeros. */
  private cleared(run: Run, slot: Slot): Tensor {
    const x = run.at(slot);
    if (this.ragged) ops.fill(run.device, { x, value: 0 });
    return x;
  }

  forward(run: Run, { x, rows }: ProductInput, offsets: Tensor): LowRankTerms {
    const { device, precision } = run;
    const u = this.cleared(run, this.u);
    for (const { w, segments, groups, factor, u: y } of this.narrowing)
      ops.groupedGemmNt(device, { x, rows, w: w.tensors, segments, offsets, y: run.at(y), groups, factor, precision });
    return { u, terms: this.allB.tensors, termGroups: this.groups };
  }

  backward(run: Run, { dy, rows, gate, halves }: ProductGradient, input: ProductInput, offsets: Tensor): void {
    const { device, precision, accumulate } = run;
    this.cleared(run, this.du);
    for (const { w, grads, groups, factor, u, du, part } of this.widening) {
      const of = this.parts === 1 ? dy : halves![part]!;
      const common = { offsets, groups, precision };
      if (grads) ops.groupedGemmTn(device, { ...common, dy: of, dyRows: rows, dyScale: gate, x: run.at(u), dw: grads.tensors, accumulate });
      ops.groupedGemmNn(device, { ...common, dy: of, rows, w: w.tensors, dx: run.at(du), factor });
    }
    const { x, rows: xRows, activation } = input;
    for (const { grads, segments, groups, du } of this.narrowing) {
      if (!grads) continue;
      const dy = { dy: run.at(du), dyScale: gate, segments };
      ops.groupedGemmTn(device, { ...dy, x, xRows, activation, offsets, dw: grads.tensors, groups, accumulate, precision });
    }
  }

  gradient(run: Run): LowRankTerms {
    return { u: run.at(this.du), terms: this.allA.tensors, termGroups: this.groups };
  }
}

/** Beside gate and up (or both in one) and beside down, each where it is adapted. */
export function termsOfExperts(
  { hidden, output }: Readonly<Record<"hidden" | "output", readonly (readonly TermMatrix[])[]>>,
  { experts, rowsPerToken }: Pick<TermsTarget, "experts" | "rowsPerToken">,
  context: AttachmentContext,
): ExpertsTerms {
  const of = (parts: readonly (readonly TermMatrix[])[], part: string): GroupedTerms | null =>
    parts.length > 0 ? new GroupedTerms({ experts, parts, rowsPerToken }, context.named(part)) : null;
  return { hidden: of(hidden, hidden.length > 1 ? "gate|up" : "gateUp"), output: of(output, "down") };
}

/** The gradients of matrices that train. */
const trained = (context: AttachmentContext, parameters: readonly Parameter[]): ParameterList | null =>
  parameters.every((p) => p.trains) ? context.gradients(parameters) : null;
