// Wrong values in index tensors, seen by the device "cuda" while an op runs: the words of the reference. And f32 calls: served right
// or refused. Alone: npx vitest run test/cuda/faults.test.ts

import { afterAll, it } from "vitest";
import { attentionTileCases } from "../ops/cases/attention.ts";
import { bases } from "../ops/cases/index.ts";
import { f32, i32 } from "../ops/host.ts";
import type { Args } from "../ops/host.ts";
import { closeCuda, expectFault, expectRightOrRefused, withCuda } from "./support.ts";

afterAll(closeCuda);

const offsets: Record<string, Args> = {
  "offsets that do not start at 0": { offsets: i32([1, 3, 3, 7]) },
  "descending offsets": { offsets: i32([0, 4, 3, 7]) },
  "offsets beyond the rows": { offsets: i32([0, 3, 3, 8]) },
  "a huge offset": { offsets: i32([0, 3, 2147483647, 7]) },
  "a negative offset": { offsets: i32([0, -2147483648, 3, 7]) },
};
const gather = (name: string): Record<string, Args> => ({
  [`an index beyond the rows (${name})`]: { [name]: i32([0, 1, 2, 3, 4, 0, 5]) },
  [`a negative index (${name})`]: { [name]: i32([0, 1, -1, 3, 4, 0, 1]) },
  [`a huge index (${name})`]: { [name]: i32([0, 1, 2, 2147483647, 4, 0, 1]) },
});
const logits = (t: number, e: number, value: number): Args => {
  const values = Float32Array.from({ length: 40 }, (_, i) => (i % 7) / 3);
  values[t * 8 + e] = value;
  return { logits: f32([5, 8], values) };
};
const slots = (...ids: number[]): Args => ({ ids: i32(ids, [5, 2]) });
const table: Record<string, Record<string, Args>> = {
  grouped_gemm_nt: { ...offsets, ...gather("rows") },
  grouped_gemm_nn: { ...offsets, ...gather("rows") },
  grouped_gemm_tn: { ...offsets, ...gather("dy_rows"), ...gather("x_rows") },
  grouped_column_sum: { ...offsets, ...gather("rows") },
  combine: {
    "a row beyond x": { pos: i32([0, 1, 2, 3, 4, 6], [3, 2]) },
    "a negative row": { pos: i32([0, -1, 2, 3, 4, 5], [3, 2]) },
  },
  combine_backward: {
    "a row beyond x": { pos: i32([0, 1, 2, 3, 4, 6], [3, 2]) },
    "a row twice": { pos: i32([0, 1, 2, 3, 4, 2], [3, 2]) },
  },
  topk_route: {
    "a logit that is not a number": logits(3, 2, NaN),
    "an infinite logit": logits(0, 7, Infinity),
    "a bias that is not a number": { bias: f32([8], [0, 0, 0, NaN, 0, 0, 0, 0]) },
  },
  route_backward: {
    "an expert that does not exist": { ids: i32([0, 1, 2, 0, 1, 2, 0, 8, 2, 0, 1, 2, 0, 1, 2], [5, 3]) },
    "a row beyond the slots": { pos: i32([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15], [5, 3]) },
  },
  load_balance: { "descending offsets": { offsets: i32([0, 2, 1, 8]) }, "offsets that do not start at 0": { offsets: i32([1, 2, 2, 8]) } },
  expert_sort: {
    "an expert that does not exist": slots(0, 1, 2, 3, 0, 1, 4, 3, 0, 1),
    "a negative expert": slots(0, 1, 2, 3, 0, 1, 2, 3, -7, 1),
  },
  count_experts: { "an expert that does not exist": slots(0, 1, 2, 3, 0, 1, 4, 3, 0, 1) },
  embedding: { "an id beyond the table": { ids: i32([0, 1, 6, 2]) }, "a negative id": { ids: i32([-1, 1, 0, 2]) } },
  embedding_backward: { "an id beyond the table": { ids: i32([0, 1, 6, 2]) }, "a negative id": { ids: i32([-1, 1, 0, 2]) } },
  rope: {
    "a position beyond the tables": { positions: i32([0, 50, 1, 2]) },
    "a negative position": { positions: i32([0, 1, 2, -3]) },
  },
  scale_rows: { "a position beyond the factors": { positions: i32([0, 4, 1]) }, "a negative position": { positions: i32([0, 1, -1]) } },
  sample: {
    "a negative temperature": { temperature: f32([3], [1, -1, 1]) },
    "a temperature that is not a number": { temperature: f32([3], [1, 1, NaN]) },
    "u = 1": { u: { dtype: "f64", shape: [3], values: [0, 1, 0.5] } },
    "a negative top_k": { top_k: i32([0, 1, -3]) },
    "top_p above 1": { top_p: f32([3], [1.5, 1, 1]) },
    "a negative min_p": { min_p: f32([3], [0, -0.5, 1]) },
    "a penalty of 0": { repetition_penalty: f32([3], [1, 0, 1]) },
    "an id that does not exist": { seen: i32([1, 2, 3, 11, 10]) },
    "a huge id": { seen: i32([1, 2147483647, 3, 3, 10]) },
    "a negative id": { seen: i32([-1, 2, 3, 3, 10]) },
    "offsets that do not start at 0": { seen_offsets: i32([1, 2, 2, 5]) },
    "descending offsets": { seen_offsets: i32([0, 3, 2, 5]) },
    "offsets beyond the ids": { seen_offsets: i32([0, 2, 2, 2147483647]) },
    "a negative offset": { seen_offsets: i32([0, -5, 2, 5]) },
  },
  attention: {
    "a document that starts after its token": { doc_start: i32([0, 0, 3, 3, 3]) },
    "a document that starts before its predecessor": { doc_start: i32([0, 1, 2, 1, 2]) },
    "a negative start": { doc_start: i32([-1, 0, 0, 0, 0]) },
  },
  attention_backward: { "a document that starts after its token": { doc_start: i32([0, 0, 3, 3, 3]) } },
  attention_cached: {
    "a document that starts after its token": { doc_start: i32([0, 2, 2]) },
    "a document that starts before its predecessor": { doc_start: i32([0, 1, 0]) },
    "fewer documents than caches": { doc_start: i32([0, 0, 0]), positions: i32([3, 4, 5]) },
    "more documents than caches": { doc_start: i32([0, 1, 2]), positions: i32([3, 0, 0]) },
    "a position before the first": { positions: i32([-1, 0, 0]) },
    "a huge position": { positions: i32([2147483646, 2147483647, 0]) },
    "positions with a gap": { positions: i32([3, 5, 0]) },
    "a position past the cache": { positions: i32([7, 8, 0]) },
  },
  causal_conv: {
    "a document that starts after its token": { doc_start: i32([0, 0, 3, 3, 3]) },
    "fewer documents than states": { doc_start: i32([0, 0, 0, 0, 0]) },
    "more documents than states": { doc_start: i32([0, 1, 1, 1, 4]) },
  },
  causal_conv_backward: { "a negative start": { doc_start: i32([-1, 0, 0, 0, 0]) } },
  gated_delta_rule: {
    "a document that starts before its predecessor": { doc_start: i32([0, 1, 2, 1, 2]) },
    "fewer documents than states": { doc_start: i32([0, 0, 0, 0, 0]) },
    "more documents than states": { doc_start: i32([0, 1, 1, 3, 3]) },
  },
  gated_delta_rule_backward: { "a document that starts after its token": { doc_start: i32([0, 0, 3, 3, 3]) } },
  linear_cross_entropy: {
    "a label beyond the vocabulary": { labels: i32([1, -100, 6, 0]) },
    "label -1": { labels: i32([-1, -100, 5, 0]) },
    "label -101": { labels: i32([1, -101, 5, 0]) },
  },
};

for (const [op, rows] of Object.entries(table))
  withCuda(`${op} on cuda names`, () => {
    for (const [name, change] of Object.entries(rows))
      it(
        name,
        () =>
          expectFault(
            bases.find((b) => b.op === op)!,
            change,
          ),
        300_000,
      );
  });

// CTAs of the backward in one pass wait for one another by what the documents say.
withCuda("attention_backward of Hopper's kernels on cuda names", () => {
  const wide = attentionTileCases.find((c) => c.op === "attention_backward" && c.name.startsWith("64 wide, grouped, documents"))!;
  const start = (f: (t: number) => number): Args => ({ doc_start: i32(Array.from({ length: 300 }, (_, t) => f(t))) });
  it(
    "documents in no order",
    () =>
      expectFault(
        wide,
        start((t) => (t < 200 ? Math.min(t, 150) : 40)),
      ),
    300_000,
  );
  it(
    "a document that starts after its token",
    () =>
      expectFault(
        wide,
        start((t) => (t < 140 ? 299 : 0)),
      ),
    300_000,
  );
});

withCuda("f32 calls on cuda are served right or refused", () => {
  for (const base of bases) it(base.op, () => expectRightOrRefused(base), 300_000);
});
