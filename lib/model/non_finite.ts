// A router refuses logits that are not finite, so it is the first op to notice NaN in weights or activations. Whoever waits for a
// pass turns that refusal into what it means.

import { KernelError, NonFiniteError } from "../errors.ts";

/** A NonFiniteError for a router's refusal of non-finite logits; any other error as it is. */
export function explainNonFinite(error: unknown, during: string, advice: string): unknown {
  if (!(error instanceof KernelError) || error.where["op"] !== "topk_route" || !error.message.includes("must be finite")) return error;
  return new NonFiniteError(`${during}: a router's input is not finite (${error.message}): ${advice}`, {
    where: error.where,
    cause: error,
  });
}

export const CHECK_WEIGHTS = "the weights hold NaN or infinity; open the model with checkWeights: true to find the tensor";
