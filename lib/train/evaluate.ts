// Held-out loss: mean over supervised tokens, whatever the batching.

import type { Rows } from "../data/epoch.ts";
import { throwIfAborted } from "../task.ts";
import { hostBatch } from "../model/batch.ts";
import { CHECK_WEIGHTS, explainNonFinite } from "../model/non_finite.ts";
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

/**
 * Forward and loss over `rows`, which are made as they are due, at most `tokensPerBatch` at a time (a longer row alone). Progress counts
 * examples: what a file calls rows. @throws AbortError · DataError · KernelError
 */
export async function evaluateRows(
  model: Transformer,
  rows: Rows,
  tokensPerBatch: number,
  options: { signal?: AbortSignal | undefined; onProgress?: ((p: { done: number; total: number }) => void) | undefined } = {},
): Promise<Evaluation> {
  let tokens = 0;
  let supervised = 0;
  let [longest, all, total] = [0, 0, 0];
  for (let r = 0; r < rows.length; r++) {
    const { tokens: size, examples } = rows.count(r);
    longest = Math.max(longest, size);
    all += size;
    total += examples;
  }
  if (all > 0) model.prepare(Math.max(longest, Math.min(tokensPerBatch, all)), false);
  model.resetLoss();
  let [at, done] = [0, 0];
  while (at < rows.length) {
    throwIfAborted(options.signal, "evaluation");
    const from = at;
    let size = rows.count(at++).tokens;
    for (; at < rows.length; at++) {
      const next = rows.count(at).tokens;
      if (size + next > tokensPerBatch) break;
      size += next;
    }
    const host = hostBatch(Array.from({ length: at - from }, (_, i) => rows.make(from + i)));
    model.evaluate(host);
    tokens += size;
    supervised += host.supervised;
    await model.device.synchronize().catch((error: unknown) => {
      throw explainNonFinite(error, "evaluation", CHECK_WEIGHTS);
    });
    for (let r = from; r < at; r++) done += rows.count(r).examples;
    options.onProgress?.({ done, total });
  }
  const sums = await model.readLoss();
  const loss = sums.loss / Math.max(1, supervised);
  return { loss, perplexity: Math.exp(loss), accuracy: sums.correct / Math.max(1, supervised), tokens, supervised };
}
