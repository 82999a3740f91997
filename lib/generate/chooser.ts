// Logits of a pass and the tokens chosen from them.

import type { Device, Tensor } from "../tensor.ts";
import type { Sequence } from "./sequence.ts";

export interface Choice {
  /** −1: the logits are not finite. */
  readonly id: number;
  readonly logprob: number;
  readonly top: readonly { readonly id: number; readonly logprob: number }[];
}

export class Chooser {
  private readonly all: Tensor;
  private readonly views = new Map<number, Tensor>();
  private readonly vocab: number;

  constructor(device: Device, vocab: number, rows: number) {
    this.all = device.empty("f32", [rows, vocab]);
    this.vocab = vocab;
  }

  /** Room for the logits of so many sequences. */
  logits(rows: number): Tensor {
    let view = this.views.get(rows);
    if (!view) this.views.set(rows, (view = this.all.rows(0, rows)));
    return view;
  }

  async choose(batch: readonly Sequence[]): Promise<Choice[]> {
    const values = await this.logits(batch.length).readF32();
    return batch.map((_, r) => {
      const row = values.subarray(r * this.vocab, (r + 1) * this.vocab);
      const best = row.reduce((b, x, i) => (x > row[b]! ? i : b), 0);
      return { id: Number.isFinite(row[best]!) ? best : -1, logprob: 0, top: [] };
    });
  }

  [Symbol.dispose](): void {
    for (const v of this.views.values()) v.dispose();
    this.all.dispose();
  }
}
