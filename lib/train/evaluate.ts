// Held-out loss: mean over supervised tokens, whatever the batching.

import type { PackedRow } from "../io/packing.ts";
import { hostBatch } from "../model/batch.ts";
import type { Transformer } from "../model/transformer.ts";

export interface Evaluation {
  /** Mean negative log-likelihood per supervised token, nats. */
  readonly loss: number;
  readonly perplexity: number;
  /** Share of supervised tokens whose most likely prediction is right. */
  readonly accuracy: number;
  readonly tokens: number;
  readonly supervised: number;
}

export async function evaluateRows(
  model: Transformer,
  rows: readonly PackedRow[],
  tokensPerBatch: number,
  options: { signal?: AbortSignal | undefined; onProgress?: ((p: { done: number; total: number }) => void) | undefined } = {},
): Promise<Evaluation> {
  let tokens = 0;
  let supervised = 0;
  model.resetLoss();
  let at = 0;
  while (at < rows.length) {
    options.signal?.throwIfAborted();
    const chunk: PackedRow[] = [];
    let size = 0;
    while (at < rows.length && (chunk.length === 0 || size + rows[at]!.ids.length <= tokensPerBatch)) {
      size += rows[at]!.ids.length;
      chunk.push(rows[at++]!);
    }
    const host = hostBatch(chunk);
    model.evaluate(host);
    tokens += size;
    supervised += host.supervised;
    await model.device.synchronize();
    options.onProgress?.({ done: at, total: rows.length });
  }
  const sums = await model.readLoss();
  const loss = sums.loss / Math.max(1, supervised);
  return { loss, perplexity: Math.exp(loss), accuracy: sums.correct / Math.max(1, supervised), tokens, supervised };
}
