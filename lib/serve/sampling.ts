// How an answer is made, from a request's parameters to the options of the library.

import { randomInt } from "node:crypto";
import { ApiError } from "./errors.ts";
import type { CommonRequest } from "./schema.ts";
import type { GenerateInput } from "../generate/options.ts";

/** Options of every choice: the i-th has the seed + i. Without a seed each request has one of its own. */
export function choices(request: CommonRequest, maxTokens: number, logprobs: number): GenerateInput[] {
  const { temperature, top_p: topP, top_k: topK, min_p: minP, repetition_penalty: repetitionPenalty, stop, n } = request;
  // Of the most probable token alone (temperature or top_p of 0) nothing else can change anything.
  const drawn = Math.fround(temperature) > 0 && topP > 0 ? { temperature, topP, topK: Math.max(0, topK), minP } : { temperature: 0 };
  const seed = request.seed ?? randomInt(2 ** 47);
  return Array.from({ length: n }, (_, i) => ({ ...drawn, repetitionPenalty, seed: seed + i, maxTokens, stop, logprobs }));
}

/**
 * Tokens that an answer may have. Prompt and answer share the model's positions.
 * @param asked undefined: all that is left
 */
export function room(promptTokens: number, asked: number | undefined, maxPositions: number, param: string): number {
  const left = maxPositions - promptTokens;
  if (left >= (asked ?? 1)) return asked ?? left;
  const wanted = asked === undefined ? "" : ` and ${asked} of the answer`;
  throw new ApiError(
    400,
    `this model has ${maxPositions} positions, found ${promptTokens} tokens of the prompt${wanted}; shorten one of them`,
    {
      code: "context_length_exceeded",
      param,
    },
  );
}
