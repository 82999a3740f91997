// A gated MLP that every token passes: a dense layer, or the shared expert. It is a group of one expert with all tokens and no
// gate weight.

import type { Tensor } from "../../tensor.ts";
import type { Run } from "../run.ts";
import type { MlpSpec } from "../spec.ts";
import type { Composer } from "./composer.ts";
import { ExpertMatrices, Experts } from "./experts.ts";
import type { Routing } from "./experts.ts";
import { AttachedExperts } from "./experts_attached.ts";

export class Mlp {
  readonly trains: boolean;
  private readonly experts: Experts | AttachedExperts;

  constructor(spec: MlpSpec, layer: number, width: number, c: Composer) {
    const { gate, up, down, hidden, activation } = spec;
    const weights = new ExpertMatrices([{ gate, up, down }], c);
    const { open, terms } = c.attachedToExperts({ layer, routed: false, experts: [{ gate, up, down }], width, hidden, topK: 1 });
    const sizes = { hidden, rowsPerToken: 1, activation };
    this.experts = open.length > 0 ? new AttachedExperts(weights, open, sizes, c) : new Experts(weights, sizes, c, terms);
    this.trains = this.experts.trains;
  }

  /** y: overwritten. True: the residual is in it. */
  forward(run: Run, xn: Tensor, y: Tensor, residual: Tensor | null = null): boolean {
    return this.experts.forward(run, xn, everyToken(run), y, residual);
  }

  /** dxn: overwritten, where wanted. Destroys the saved pre-activation. */
  backward(run: Run, dy: Tensor, xn: Tensor, dxn: Tensor | null): void {
    const rows = everyToken(run);
    if (!dxn && !this.trains) return;
    if (this.experts instanceof Experts) this.experts.backward(run, dy, xn, rows, { dgate: null, all: dxn !== null });
    else this.experts.backward(run, dy, xn, rows);
    if (dxn) this.experts.rowGradient(run, rows, dxn);
  }
}

const everyToken = (run: Run): Routing => ({ offsets: run.batch.bounds, tokens: null, gate: null });
