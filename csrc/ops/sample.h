// sample — the next token of each row from its logits, and how probable it was.
//
//   logits_RV f32, rows of any stride, V in 1..2^20, R to 65535. Per row, each a vector of R; absent means what is said in brackets for all rows:
//   temperature f32, finite, >= 0; 0: greedy (absent: greedy)      u f64 in [0, 1): the row's random number, given with temperature
//   top_k i32 >= 0; 0: off        top_p f32 in 0..1; 1: off        min_p f32 in 0..1; 0: off   (absent: off; only with temperature)
//   repetition_penalty f32, finite, > 0; 1: off. With seen i32, ids in 0..V-1, those of row r at seen_offsets[r] .. seen_offsets[r + 1]
//   (seen_offsets i32 [R + 1] from 0, ascending, the last at most the number of ids); all three or none.
//
// In the order of Hugging Face's generate:
//   1. z = logits; of every id seen, once however often: z > 0 ? z / penalty : z · penalty, in f32
//   2. the order of tokens: z descending, equal ones (−0 and 0 too) by ascending id. All that follows takes a prefix of it.
//   3. weights w = ⌊2^43 · e⌋ with e = exp((z − max z) / temperature) in f32 by the steps below: integers, so that sums are exact, in
//      any order, on any device
//   4. top_k: the first k tokens. Exactly k: Hugging Face keeps all that tie with the k-th
//   5. top_p: of these the tokens before which the others' weight is below p · their sum (⌈⌉, p to 64 bits), the first always: the
//      token that crosses p stays
//   6. min_p: of these the tokens with w >= min_p · 2^43 (⌈⌉), 2^43 being the weight of the first
//   7. id = the first token, by ascending id, up to and with which the kept weigh more than ⌊u · their sum⌋ (u to 64 bits)
//   Greedy: the first token of the order, whatever top_k, top_p, min_p and u say. Temperature changes no order, so that a tiny one
//   neither overflows nor makes ties, as dividing all logits by it would.
//
// Outputs
//   ids_R i32; logprob_R f32 = log softmax of the logits as they came (no penalty, temperature 1) at the id; sums in f64 or f32 in an
//   order that depends on V alone
//   top_ids_RN i32, top_logprobs_RN f32, both or neither, N in 1..32, N <= V: the N highest logits as they came, in the order of 2
//   Logits that are NaN or +inf, or +inf by the penalty, and rows of -inf alone: ids and top_ids -1, logprobs NaN. -inf beside others is
//   a logit of probability 0.
// A row's result is that of the row alone. Values out of range: KernelError naming the argument and its place.
// Forward only.
//
// exp(x) for x in -29.9..0, below which w = 0 (rounding after every step, no product and sum in one):
//   s = x · kExpLog2 + kExpRound;  n = s − kExpRound;  r = (x − n · kExpHigh) − n · kExpLow      (n: x / ln 2 to the nearest integer)
//   p = kExp5;  p = p · r + kExp4, … kExp0;  e = p · r · r + r + 1;  w = ⌊e · 2^(43 + n)⌋
// Source: transformers 5.17, generation/logits_process.py, for order and boundaries; cephes' expf for the polynomial.
// Reference: sample_ref.cc. Tests: test/ops/sample.test.ts.
#pragma once
#include "../core/op_args.h"

#define ESFT_ARGS_sample(F) \
  F(IN, logits) F(IN_OPT, temperature) F(IN_OPT, u) F(IN_OPT, top_k) F(IN_OPT, top_p) F(IN_OPT, min_p) \
  F(IN_OPT, repetition_penalty) F(IN_OPT, seen) F(IN_OPT, seen_offsets) \
  F(OUT, ids) F(OUT, logprob) F(OUT_OPT, top_ids) F(OUT_OPT, top_logprobs)
ESFT_DEFINE_ARGS(sample)

namespace esft::sampling {

constexpr int kWeightBits = 43;  // of the largest weight; 2^20 of them fit in 64 bits
constexpr int kMaxVocabularyBits = 20, kMaxTop = 32;
constexpr float kExpLowest = -29.9f;
constexpr float kExpLog2 = 1.44269504088896341f, kExpRound = 12582912.0f, kExpHigh = 0.693359375f, kExpLow = -2.12194440e-4f;
constexpr float kExp5 = 1.9875691500e-4f, kExp4 = 1.3981999507e-3f, kExp3 = 8.3334519073e-3f, kExp2 = 4.1665795894e-2f,
                kExp1 = 1.6666665459e-1f, kExp0 = 5.0000001201e-1f;

}  // namespace esft::sampling
