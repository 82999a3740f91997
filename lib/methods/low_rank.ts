// The low-rank term of LoRA (arXiv 2106.09685) beside one matrix W [out, in]: y += s·B(A·x) with A [r, in], B [out, r], s = α/r.
//
// Kept for backward: u = s·A·x [T, r]. The gradients are dB = dyᵀ·u, dA = (s·dy·B)ᵀ·x, dx += (s·dy·B)·A; the merged weight is
// never built.

import * as ops from "../ops.ts";
import type { Precision } from "../ops.ts";
import type { AttachmentContext, ExpertRows, ExpertsAttachment, Hidden, LinearAttachment } from "../model/layers/attachment.ts";
import type { Run } from "../model/run.ts";
import { drop, drops } from "./dropout.ts";
import type { Dropout } from "./dropout.ts";
import { act, f32 } from "../model/slots.ts";
import type { Slot } from "../model/slots.ts";
import type { Parameter } from "../model/weights/parameter.ts";
import type { Tensor } from "../tensor.ts";

/** Names and sizes of one adapted matrix. */
export interface LowRankTarget {
  readonly a: string;
  readonly b: string;
  readonly rank: number;
  /** s = α/r. */
  readonly scaling: number;
  /** f32 arithmetic in any precision: beside a router. */
  readonly exact: boolean;
  /** Columns of x, and what of them is dropped out; absent or null: nothing. */
  readonly in?: number;
  readonly dropout?: Dropout | null;
}

export class LowRank implements LinearAttachment {
  private readonly a: Parameter;
  private readonly b: Parameter;
  private readonly scaling: number;
  private readonly exact: boolean;
  private readonly u: Slot;
  private readonly du: Slot;

  private readonly dropout: Dropout | null;
  /** What is left of x, and the gradient of that. */
  private readonly dropped: { readonly x: Slot; readonly backwardX: Slot } | null;

  constructor({ a, b, rank, scaling, exact, in: columns = 0, dropout = null }: LowRankTarget, context: AttachmentContext) {
    this.a = context.attached(a);
    this.b = context.attached(b);
    this.scaling = scaling;
    this.exact = exact;
    const narrow = exact ? f32(rank) : act(rank);
    this.u = context.plan.kept(narrow, "u");
    this.du = context.plan.backward(narrow, "du");
    this.dropout = dropout;
    const wide = act(columns);
    this.dropped = dropout && { x: context.plan.scratch(wide, "dropped"), backwardX: context.plan.backward(wide, "dropped") };
  }

  get trains(): boolean {
    return this.a.trains || this.b.trains;
  }

  /** x, or what dropout leaves of it in this pass. */
  private read(run: Run, x: Tensor, pass: "x" | "backwardX"): Tensor {
    if (!this.dropped || !drops(this.dropout, run)) return x;
    const left = run.at(this.dropped[pass]);
    drop(run, this.dropout, x, left);
    return left;
  }

  private precision(run: Run): Precision {
    return this.exact ? "f32" : run.precision;
  }

  forward(run: Run, x: Tensor, y: Tensor): void {
    const { device } = run;
    const precision = this.precision(run);
    const whole = run.at(this.u);
    const n = x.shape[0]!;
    using part = n < whole.shape[0]! ? whole.rows(0, n) : null; // x may be some rows of a pass (mixture.ts)
    const u = part ?? whole;
    ops.gemm(device, "nt", { a: this.read(run, x, "x"), b: this.a.value, c: u, precision });
    ops.scale(device, { x: u, factor: this.scaling });
    ops.gemm(device, "nt", { a: u, b: this.b.value, c: y, accumulate: true, precision });
  }

  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null): void {
    this.parameterGradients(run, dy, x);
    if (dx) this.inputGradient(run, dx);
  }

  /** dA, dB (+)= ; leaves s·dy·B for `inputGradient`. */
  parameterGradients(run: Run, dy: Tensor, x: Tensor): void {
    const { device, accumulate } = run;
    const precision = this.precision(run);
    const du = run.at(this.du);
    if (this.b.grad) ops.gemm(device, "tn", { a: dy, b: run.at(this.u), c: this.b.grad, accumulate, precision });
    ops.gemm(device, "nn", { a: dy, b: this.b.value, c: du, precision });
    ops.scale(device, { x: du, factor: this.scaling });
    if (this.a.grad) ops.gemm(device, "tn", { a: du, b: this.read(run, x, "backwardX"), c: this.a.grad, accumulate, precision });
  }

  /** dx += (s·dy·B)·A. */
  inputGradient(run: Run, dx: Tensor): void {
    const operands = { a: run.at(this.du), b: this.a.value, precision: this.precision(run) };
    if (!this.dropped || !drops(this.dropout, run)) return ops.gemm(run.device, "nn", { ...operands, c: dx, accumulate: true });
    const part = run.at(this.dropped.backwardX);
    ops.gemm(run.device, "nn", { ...operands, c: part });
    drop(run, this.dropout, part, part);
    ops.add(run.device, { a: dx, b: part, y: dx });
  }
}

/** Low-rank terms inside an MLP that every token visits: beside gate, up and down, each where it is adapted. */
export class LowRankMlp implements ExpertsAttachment {
  private readonly gate: LowRank | null;
  private readonly up: LowRank | null;
  private readonly down: LowRank | null;

  constructor(terms: { gate: LowRank | null; up: LowRank | null; down: LowRank | null }) {
    this.gate = terms.gate;
    this.up = terms.up;
    this.down = terms.down;
  }

  readonly forward = {
    hidden: (run: Run, x: Tensor, _rows: ExpertRows, h: Hidden): void => {
      this.gate?.forward(run, x, h.gate);
      this.up?.forward(run, x, h.up);
    },
    output: (run: Run, _x: Tensor, _rows: ExpertRows, a: Tensor, y: Tensor): void => {
      this.down?.forward(run, a, y);
    },
  };

  readonly backward = {
    output: (run: Run, dy: Tensor, _x: Tensor, _rows: ExpertRows, a: Tensor, da: Tensor): void => {
      this.down?.backward(run, dy, a, da);
    },
    hidden: (run: Run, dh: Hidden, x: Tensor): void => {
      this.gate?.parameterGradients(run, dh.gate, x);
      this.up?.parameterGradients(run, dh.up, x);
    },
    input: (run: Run, _dh: Hidden, _rows: ExpertRows, dx: Tensor): void => {
      this.gate?.inputGradient(run, dx);
      this.up?.inputGradient(run, dx);
    },
  };
}
