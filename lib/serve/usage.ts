// How many tokens a request took.

import type { GenerationResult } from "../generate/generation.ts";

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

/** Each prompt once, however many answers it has; of answers without the token that ended them. */
export function usageOf(promptTokens: number, results: readonly GenerationResult[]): Usage {
  const completion = results.reduce((sum, { ids }) => sum + ids.length, 0);
  return { prompt_tokens: promptTokens, completion_tokens: completion, total_tokens: promptTokens + completion };
}
