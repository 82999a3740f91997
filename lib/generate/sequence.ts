// One sequence that is being continued: its tokens so far, what of them the model has taken in, how the next one is chosen, when it ends.

import type { SequenceCache } from "./sequence_cache.ts";

/** "stop": a token or text that ends the answer; "length": as many tokens as were asked for, or as the model has positions. */
export type FinishReason = "stop" | "length" | "cancelled";

export interface Likelihood {
  /** Natural logarithm of the token's probability as the model gives it, whatever the sampling. */
  readonly logprob: number;
  /** The likeliest tokens in place of this one, descending, as many as were asked for. */
  readonly top: readonly { readonly id: number; readonly logprob: number }[];
}

/** What whoever asked hears, in order. `token` may answer that this is the end: the token belongs to the sequence all the same. */
export interface Listener {
  token(id: number, likelihood: Likelihood): boolean;
  end(reason: FinishReason): void;
  fail(error: unknown): void;
}

export interface SequenceRequest {
  readonly prompt: readonly number[];
  /** Most tokens to generate. */
  readonly maxTokens: number;
  /** Tokens that end it and are no part of it. */
  readonly stop: ReadonlySet<number>;
  readonly sampling: Sampling;
  /** Name of a resident adapter; null: the model as it is. */
  readonly adapter: string | null;
}

/** How the next token is chosen from the logits: csrc/ops/sample.h. */
export interface Sampling {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  /** Number of likeliest tokens to tell. */
  readonly logprobs: number;
  /** A number in [0, 1) for the i-th generated token, a function of the seed and i alone. */
  readonly uniform: (i: number) => number;
}

export class Sequence {
  readonly request: SequenceRequest;
  readonly listener: Listener;
  /** Prompt and what was generated. */
  readonly ids: number[];
  cache: SequenceCache | null = null;
  cancelled = false;

  constructor(request: SequenceRequest, listener: Listener) {
    this.request = request;
    this.listener = listener;
    this.ids = [...request.prompt];
  }

  get generated(): number {
    return this.ids.length - this.request.prompt.length;
  }
  /** Tokens that the model has not taken in. */
  get pending(): number {
    return this.ids.length - (this.cache?.kept ?? 0);
  }

  dispose(): void {
    this.cache?.dispose();
    this.cache = null;
  }
}
