// Greedy continuations of several prompts at once, for whoever has the model to himself already: a training run that wants to see what
// the model says by now.

import { AbortError } from "../errors.ts";
import type { Transformer } from "../model/transformer.ts";
import { OneAtATime } from "../task.ts";
import { Engine } from "./engine.ts";
import { answerOptions } from "./options.ts";

export interface ContinuationOptions {
  readonly maxTokens: number;
  /** Tokens that end an answer and are no part of it. */
  readonly stopIds: ReadonlySet<number>;
  /** Tokens of a pass that there is memory for, and most sequences. */
  readonly capacity: number;
  readonly signal?: AbortSignal | undefined;
}

/** @throws AbortError · NonFiniteError · MemoryError a cache */
export async function continuations(
  transformer: Transformer,
  prompts: readonly (readonly number[])[],
  { maxTokens, stopIds, capacity, signal }: ContinuationOptions,
): Promise<number[][]> {
  const room = Math.max(1, Math.min(capacity, 512));
  const engine = new Engine(transformer, new OneAtATime("the model"), { piece: room, maxBatch: Math.min(room, 16) });
  const { sampling } = answerOptions({}, "continuations");
  const answers = prompts.map((prompt) => {
    let sequence: ReturnType<Engine["submit"]> | null = null;
    const cancel = (): void => {
      if (sequence) engine.cancel(sequence);
    };
    const ids: number[] = [];
    const answer = new Promise<number[]>((resolve, reject) => {
      sequence = engine.submit(
        { prompt, maxTokens, stop: stopIds, sampling, adapter: null },
        { token: (id) => (ids.push(id), false), end: () => resolve(ids), fail: reject },
      );
    });
    return { answer, cancel };
  });
  const abort = (): void => answers.forEach(({ cancel }) => cancel());
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  const ended = await Promise.allSettled(answers.map(({ answer }) => answer));
  signal?.removeEventListener("abort", abort);
  if (signal?.aborted) throw new AbortError("sampling was aborted", { cause: signal.reason });
  return ended.map((end) => {
    if (end.status === "rejected") throw end.reason;
    return end.value;
  });
}
