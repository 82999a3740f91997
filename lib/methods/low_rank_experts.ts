// Low-rank terms beside the products of routed experts: of gate, up and down of those that are adapted, or of gate over up as one
// matrix. For what cannot be inside of the products (low_rank_terms.ts): dropout, and gate without up.

import type { ExpertRows, ExpertsAttachment, Hidden } from "../model/layers/attachment.ts";
import type { Run } from "../model/run.ts";
import type { Tensor } from "../tensor.ts";
import type { GroupedLowRank } from "./grouped_low_rank.ts";

/** Several where experts differ in rank. */
export interface ExpertsTerms {
  readonly gate: readonly GroupedLowRank[];
  readonly up: readonly GroupedLowRank[];
  readonly gateUp: readonly GroupedLowRank[];
  readonly down: readonly GroupedLowRank[];
}

export class LowRankExperts implements ExpertsAttachment {
  private readonly terms: ExpertsTerms;

  constructor(terms: ExpertsTerms) {
    this.terms = terms;
  }

  /** The terms of the pre-activation, with the part of it that each belongs to. */
  private each(h: Hidden, visit: (term: GroupedLowRank, part: Tensor) => void): void {
    const { gate, up, gateUp } = this.terms;
    for (const term of gate) visit(term, h.gate);
    for (const term of up) visit(term, h.up);
    for (const term of gateUp) visit(term, h.whole);
  }

  readonly forward = {
    hidden: (run: Run, x: Tensor, rows: ExpertRows, h: Hidden): void => this.each(h, (term, part) => term.forward(run, x, rows, part)),
    output: (run: Run, _x: Tensor, rows: ExpertRows, a: Tensor, y: Tensor, pass: "forward" | "backward"): void => {
      for (const term of this.terms.down)
        if (pass === "forward") term.forward(run, a, inOrder(rows), y);
        else term.recompute(run, rows, y);
    },
  };

  readonly backward = {
    output: (run: Run, dy: Tensor, _x: Tensor, rows: ExpertRows, a: Tensor, da: Tensor): void => {
      for (const term of this.terms.down) {
        term.parameterGradients(run, dy, a, inOrder(rows));
        term.inputGradient(run, rows, da);
      }
    },
    hidden: (run: Run, dh: Hidden, x: Tensor, rows: ExpertRows): void =>
      this.each(dh, (term, part) => term.parameterGradients(run, part, x, rows)),
    input: (run: Run, dh: Hidden, rows: ExpertRows, dx: Tensor): void => this.each(dh, (term) => term.inputGradient(run, rows, dx)),
  };
}

/** Of a tensor that is in the order of the experts. */
const inOrder = ({ offsets }: ExpertRows): ExpertRows => ({ offsets, tokens: null });
