// The low-rank term of LoRA beside the head: logits += u·Bᵀ with u = s·A·x. The loss never stores logits, so that u and B go into its op
// as one more stretch of the sums, and the gradients of u and B come out of it; A's are made here from u's.

import * as ops from "../ops.ts";
import type { AttachmentContext, HeadAttachment, HeadTerm } from "../model/layers/attachment.ts";
import type { Run } from "../model/run.ts";
import { act } from "../model/slots.ts";
import type { Slot } from "../model/slots.ts";
import type { Parameter } from "../model/weights/parameter.ts";
import type { Tensor } from "../tensor.ts";
import { drop, drops } from "./dropout.ts";
import type { Dropout } from "./dropout.ts";
import type { LowRankTarget } from "./low_rank.ts";

export class LowRankHead implements HeadAttachment {
  private readonly a: Parameter;
  private readonly b: Parameter;
  private readonly scaling: number;
  private readonly u: Slot;
  private readonly du: Slot;
  private readonly dropout: Dropout | null;
  /** What is left of x, and the gradient of that. */
  private readonly dropped: { readonly x: Slot; readonly backwardX: Slot } | null;

  constructor(
    target: Omit<LowRankTarget, "exact"> & { readonly in: number },
    { plan, attached }: Pick<AttachmentContext, "plan" | "attached">,
  ) {
    const { a, b, rank, scaling, in: columns, dropout = null } = target;
    this.a = attached(a);
    this.b = attached(b);
    this.scaling = scaling;
    this.u = plan.kept(act(rank), "u");
    this.du = plan.backward(act(rank), "du");
    this.dropout = dropout;
    this.dropped = dropout && { x: plan.scratch(act(columns), "dropped"), backwardX: plan.backward(act(columns), "dropped") };
  }

  /** x, or what dropout leaves of it in this pass. */
  private read(run: Run, x: Tensor, pass: "x" | "backwardX"): Tensor {
    if (!this.dropped || !drops(this.dropout, run)) return x;
    const left = run.at(this.dropped[pass]);
    drop(run, this.dropout, x, left);
    return left;
  }

  private project(run: Run, x: Tensor, u: Tensor): void {
    ops.gemm(run.device, "nt", { a: x, b: this.a.value, c: u, precision: run.precision });
    ops.scale(run.device, { x: u, factor: this.scaling });
  }

  term(run: Run, x: Tensor): HeadTerm {
    const u = run.at(this.u);
    this.project(run, this.read(run, x, "x"), u);
    return { u, b: this.b.value };
  }

  gradients(run: Run): { du: Tensor; db: Tensor | null } {
    return { du: run.at(this.du), db: this.b.grad };
  }

  backward(run: Run, x: Tensor, dx: Tensor | null): void {
    const { device, precision, accumulate } = run;
    const du = run.at(this.du);
    ops.scale(device, { x: du, factor: this.scaling });
    if (this.a.grad) ops.gemm(device, "tn", { a: du, b: this.read(run, x, "backwardX"), c: this.a.grad, accumulate, precision });
    if (!dx) return;
    const operands = { a: du, b: this.a.value, precision };
    if (!this.dropped || !drops(this.dropout, run)) return ops.gemm(device, "nn", { ...operands, c: dx, accumulate: true });
    const part = run.at(this.dropped.backwardX);
    ops.gemm(device, "nn", { ...operands, c: part });
    drop(run, this.dropout, part, part);
    ops.add(device, { a: dx, b: part, y: dx });
  }

  logits(run: Run, x: Tensor, y: Tensor): void {
    const whole = run.at(this.u);
    const rows = x.shape[0]!;
    using part = whole.rows(0, rows);
    this.project(run, x, part);
    ops.gemm(run.device, "nt", { a: part, b: this.b.value, c: y, accumulate: true, precision: run.precision });
  }
}
