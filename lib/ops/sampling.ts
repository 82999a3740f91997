// Choosing the next token: csrc/ops/sample.h.
import type { Tensor } from "../tensor.ts";
import { bind, type Maybe } from "./bind.ts";

/**
 * The next token of each row of logits [R, V], and its log-probability by the logits as they came. Per row, all [R]: temperature (0, or
 * none at all: greedy), u f64 in [0, 1), the random number, given with temperature; topK i32 (0: off), topP (1: off), minP (0: off);
 * repetitionPenalty (1: off) with seen i32, the ids of row r at seenOffsets[r] .. seenOffsets[r + 1], seenOffsets [R + 1] i32.
 * ids [R] i32, logprob [R]; topIds [R, N] i32 and topLogprobs [R, N], N <= 32: the N highest logits. Equal logits: the lower id first.
 * Logits that are NaN or +inf, or all -inf: id -1, logprob NaN. A row's result does not depend on others, nor on the device.
 */
export const sample = bind<{
  logits: Tensor;
  temperature?: Maybe<Tensor>;
  u?: Maybe<Tensor>;
  topK?: Maybe<Tensor>;
  topP?: Maybe<Tensor>;
  minP?: Maybe<Tensor>;
  repetitionPenalty?: Maybe<Tensor>;
  seen?: Maybe<Tensor>;
  seenOffsets?: Maybe<Tensor>;
  ids: Tensor;
  logprob: Tensor;
  topIds?: Maybe<Tensor>;
  topLogprobs?: Maybe<Tensor>;
}>("sample");
