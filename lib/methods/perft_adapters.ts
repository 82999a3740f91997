// Adapters of PERFT without a router of their own: beside every routed expert (E), or beside the whole block for every token (D, S).

import type { AttachmentContext, ExpertRows, ExpertsAttachment, MoeAttachment } from "../model/layers/attachment.ts";
import type { Run } from "../model/run.ts";
import type { Tensor } from "../tensor.ts";
import type { Dropout } from "./dropout.ts";
import { GroupedLowRank } from "./grouped_low_rank.ts";
import type { Between } from "./grouped_low_rank.ts";

/** The adapters of one layer: Δ_j from width to width. */
export interface AdapterBank {
  readonly width: number;
  readonly rank: number;
  readonly between: Between;
  readonly dropout: (name: string) => Dropout | null;
  readonly keys: readonly { readonly a: string; readonly b: string }[];
}

/** Adapter j for the rows of group j. */
export function grouped(
  { width, rank, between, dropout, keys }: AdapterBank,
  rowsPerToken: number,
  context: AttachmentContext,
): GroupedLowRank {
  const groups = keys.map(({ a, b }, expert) => ({ expert, a, b }));
  return new GroupedLowRank(
    { experts: keys.length, groups, rank, in: width, out: width, between, dropout: dropout(keys[0]!.a), rowsPerToken },
    context,
  );
}

/** Δ_i beside the output of expert i, before the rows are weighted. */
export class ExpertAdapters implements ExpertsAttachment {
  private readonly adapters: GroupedLowRank;

  constructor(bank: AdapterBank, topK: number, context: AttachmentContext) {
    this.adapters = grouped(bank, topK, context);
  }

  readonly forward = {
    hidden: (): void => undefined,
    output: (run: Run, x: Tensor, rows: ExpertRows, _a: Tensor, y: Tensor, pass: "forward" | "backward"): void => {
      if (pass === "forward") this.adapters.forward(run, x, rows, y);
      else this.adapters.recompute(run, rows, y);
    },
  };

  readonly backward = {
    output: (run: Run, dy: Tensor, x: Tensor, rows: ExpertRows): void => this.adapters.parameterGradients(run, dy, x, rows),
    hidden: (): void => undefined,
    input: (run: Run, _dh: unknown, rows: ExpertRows, dx: Tensor): void => this.adapters.inputGradient(run, rows, dx),
  };
}

/** Σ_j Δ_j of every token. */
export class DenseAdapters implements MoeAttachment {
  private readonly adapters: readonly GroupedLowRank[];

  constructor(bank: AdapterBank, context: AttachmentContext) {
    this.adapters = bank.keys.map((keys) => grouped({ ...bank, keys: [keys] }, 1, context));
  }

  forward(run: Run, x: Tensor, y: Tensor): void {
    for (const adapter of this.adapters) adapter.forward(run, x, everyToken(run), y);
  }

  backward(run: Run, dy: Tensor, x: Tensor, dx: Tensor | null): void {
    for (const adapter of this.adapters) {
      adapter.parameterGradients(run, dy, x, everyToken(run));
      if (dx) adapter.inputGradient(run, everyToken(run), dx);
    }
  }
}

const everyToken = (run: Run): ExpertRows => ({ offsets: run.batch.bounds, tokens: null });
