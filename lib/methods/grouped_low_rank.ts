// The low-rank term beside one matrix of each of some experts: y[r] += s·B_e·(A_e·x[r]) over the rows of those experts, with
// A_e [r, in] and B_e [out, r]. The merged weights are never built. With SiLU between A and B in place of the factor s it is a
// parallel adapter. Its products add to what is there; where a term can be inside of the product beside it, low_rank_terms.ts is.
//
// Kept for backward: u = A·x [N, r], times s where there is a factor. Sizes in names: N rows in expert order, E experts, r rank.

import * as ops from "../ops.ts";
import type { AttachmentContext, ExpertRows } from "../model/layers/attachment.ts";
import type { Run } from "../model/run.ts";
import { act } from "../model/slots.ts";
import type { Slot } from "../model/slots.ts";
import { drop, drops } from "./dropout.ts";
import type { Dropout } from "./dropout.ts";
import type { Parameter, ParameterList } from "../model/weights/parameter.ts";
import type { Tensor } from "../tensor.ts";

/** What stands between A and B: a factor, or SiLU. */
export type Between = { readonly scaling: number } | "silu";

export interface GroupedTarget {
  /** Experts of the layer. */
  readonly experts: number;
  /** Those that have a term, ascending, with the keys of their matrices. */
  readonly groups: readonly { readonly expert: number; readonly a: string; readonly b: string }[];
  readonly rank: number;
  readonly in: number;
  readonly out: number;
  readonly between: Between;
  /** Of x; of A·x where SiLU follows. */
  readonly dropout?: Dropout | null;
  /** Rows per token: K where routed. */
  readonly rowsPerToken: number;
}

export class GroupedLowRank {
  private readonly target: GroupedTarget;
  /** One for each expert; of those that are not in `groups` it is not read. */
  private readonly a: ParameterList;
  private readonly b: ParameterList;
  private readonly gradA: ParameterList | null;
  private readonly gradB: ParameterList | null;
  private readonly groups: Int32Array;
  private readonly u: Slot;
  private readonly du: Slot;
  /** silu(u), and ones to make it with. */
  private readonly silu: { readonly z: Slot; readonly backwardZ: Slot; readonly ones: Slot } | null;
  private readonly dropout: Dropout | null;
  /** What is left of the rows of x, and the gradient of that. */
  private readonly dropped: { readonly x: Slot; readonly backwardX: Slot; readonly dx: Slot } | null;

  constructor(target: GroupedTarget, context: AttachmentContext) {
    const { experts, groups, rank, rowsPerToken: K } = target;
    const { plan } = context;
    this.target = target;
    const own = (key: "a" | "b") => new Map(groups.map((g) => [g.expert, context.attached(g[key])]));
    const [a, b] = [own("a"), own("b")];
    const each = (own: ReadonlyMap<number, Parameter>): ParameterList => {
      const any = own.values().next().value!;
      return context.values(Array.from({ length: experts }, (_, e) => own.get(e) ?? any));
    };
    this.a = each(a);
    this.b = each(b);
    this.gradA = trained(context, a);
    this.gradB = trained(context, b);
    this.groups = Int32Array.from(groups, (g) => g.expert);
    this.u = plan.kept(act(rank, K), "u");
    this.du = plan.backward(act(rank, K), "du");
    const made = (): GroupedLowRank["silu"] => ({
      z: plan.scratch(act(rank, K), "z"),
      backwardZ: plan.backward(act(rank, K), "z"),
      ones: plan.shared(act(rank, K), "ones"),
    });
    this.silu = target.between === "silu" ? made() : null;
    const { dropout = null } = target;
    this.dropout = dropout;
    const wide = act(target.in, K);
    const rowsOfX = (): GroupedLowRank["dropped"] => ({
      x: plan.scratch(wide, "dropped"),
      backwardX: plan.backward(wide, "dropped"),
      dx: plan.backward(wide, "dxTerm"),
    });
    this.dropped = dropout && target.between !== "silu" ? rowsOfX() : null;
  }

  /** y [N, out] += the term, or = where it is to `overwrite`; x [N, in], or [T, in] gathered by rows.tokens. */
  forward(run: Run, x: Tensor, rows: ExpertRows, y: Tensor, overwrite = false): void {
    const { device, precision } = run;
    const u = run.at(this.u);
    const { x: read, tokens } = this.read(run, x, rows.tokens, "x");
    const { groups, factor } = this;
    ops.groupedGemmNt(device, { x: read, rows: tokens, w: this.a.tensors, offsets: rows.offsets, y: u, groups, factor, precision });
    if (this.silu && drops(this.dropout, run)) drop(run, this.dropout, u, u);
    this.output(run, rows, y, "forward", overwrite);
  }

  /** x and its gather index, or what dropout leaves of the rows in this pass. */
  private read(run: Run, x: Tensor, tokens: Tensor | null, pass: "x" | "backwardX"): { x: Tensor; tokens: Tensor | null } {
    if (!this.dropped || !drops(this.dropout, run)) return { x, tokens };
    const left = run.at(this.dropped[pass]);
    if (tokens) ops.embedding(run.device, { ids: tokens, table: x, y: left });
    drop(run, this.dropout, tokens ? left : x, left);
    return { x: left, tokens: null };
  }

  /** y += or = the term again, from the kept u. */
  recompute(run: Run, rows: ExpertRows, y: Tensor, overwrite = false): void {
    this.output(run, rows, y, "backward", overwrite);
  }

  private output(run: Run, { offsets }: ExpertRows, y: Tensor, pass: "forward" | "backward", overwrite: boolean): void {
    const { device, precision } = run;
    const { groups } = this;
    const x = this.middle(run, pass);
    ops.groupedGemmNt(device, { x, w: this.b.tensors, offsets, y, groups, accumulate: !overwrite, precision });
  }

  /** Of the product with A, and of its gradient. */
  private get factor(): number {
    const { between } = this.target;
    return between === "silu" ? 1 : between.scaling;
  }

  /** What B is multiplied with. */
  private middle(run: Run, pass: "forward" | "backward"): Tensor {
    const u = run.at(this.u);
    if (!this.silu) return u;
    const z = run.at(pass === "forward" ? this.silu.z : this.silu.backwardZ);
    const ones = run.at(this.silu.ones);
    ops.fill(run.device, { x: ones, value: 1 });
    ops.multiply(run.device, { a: ones, b: u, y: z, silu: true });
    return z;
  }

  /** dA, dB (+)= from dy [N, out]; leaves the gradient of A·x for `inputGradient`. */
  parameterGradients(run: Run, dy: Tensor, x: Tensor, { tokens, offsets }: ExpertRows): void {
    const { device, precision, accumulate } = run;
    const { groups, factor } = this;
    const du = run.at(this.du);
    if (this.gradB) {
      const dw = this.gradB.tensors;
      ops.groupedGemmTn(device, { dy, x: this.middle(run, "backward"), offsets, dw, groups, accumulate, precision });
    }
    ops.groupedGemmNn(device, { dy, w: this.b.tensors, offsets, dx: du, groups, factor, precision });
    if (this.silu) {
      ops.multiplyBackward(device, { dy: du, a: run.at(this.silu.ones), b: run.at(this.u), db: du, silu: true });
      if (drops(this.dropout, run)) drop(run, this.dropout, du, du);
    }
    if (!this.gradA) return;
    const { x: read, tokens: xRows } = this.read(run, x, tokens, "backwardX");
    ops.groupedGemmTn(device, { dy: du, x: read, xRows, offsets, dw: this.gradA.tensors, groups, accumulate, precision });
  }

  /** dx [N, in] += or = the gradient of the rows that x was read as. */
  inputGradient(run: Run, { offsets }: ExpertRows, dx: Tensor, overwrite = false): void {
    const { device, precision } = run;
    const { groups } = this;
    const operands = { dy: run.at(this.du), w: this.a.tensors, offsets, groups, precision };
    if (!this.dropped || !drops(this.dropout, run)) return ops.groupedGemmNn(device, { ...operands, dx, accumulate: !overwrite });
    const term = overwrite ? dx : run.at(this.dropped.dx);
    if (!overwrite) ops.fill(device, { x: term, value: 0 }); // rows of the other experts
    ops.groupedGemmNn(device, { ...operands, dx: term });
    drop(run, this.dropout, term, term);
    if (!overwrite) ops.add(device, { a: dx, b: term, y: dx });
  }
}

/** The gradients of matrices that train. */
function trained(context: AttachmentContext, own: ReadonlyMap<number, Parameter>): ParameterList | null {
  const parameters = [...own.values()];
  return parameters.every((p) => p.trains) ? context.gradients(parameters) : null;
}
