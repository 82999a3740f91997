// attention_cached on every instruction set against the reference (loops), bits against threads, the reference against the S×S form over
// whole sequences, rows that do not depend on their neighbours, refusals. No GPU. Alone: npx vitest run test/ops/attention_cached.test.ts

import { describe, expect, it } from "vitest";
import { cachedBase, cachedCases } from "./cases/attention_cached.ts";
import { Random, colsOf, f32, i32, list, out, tensor } from "./host.ts";
import type { Args, HostTensor } from "./host.ts";
import { describeCases, describeRefusals, device, pick, run } from "./support.ts";

describeCases("attention_cached", cachedCases);

describeRefusals([
  {
    base: cachedBase,
    rows: [
      { name: "a document that starts after its token", change: { doc_start: i32([0, 2, 2]) }, says: ["doc_start[1]", "received 2"] },
      {
        name: "fewer documents than caches",
        change: { doc_start: i32([0, 0, 0]), positions: i32([3, 4, 5]) },
        says: ["1 documents", "2 matrices"],
      },
      {
        name: "more documents than caches",
        change: { doc_start: i32([0, 1, 2]), positions: i32([3, 0, 0]) },
        says: ["opens document 3", "2 matrices"],
      },
      { name: "a position before the first", change: { positions: i32([-1, 0, 0]) }, says: ["positions[0]", "received -1"] },
      { name: "positions with a gap", change: { positions: i32([3, 5, 0]) }, says: ["positions[1]", "must be 4", "received 5"] },
      { name: "a position past the cache", change: { positions: i32([7, 8, 0]) }, says: ["k_cache[0]", "0..8", "received 8 rows"] },
      { name: "kv heads that do not divide the heads", change: { kv_heads: 3 }, says: ["kv_heads", "divisor of 4"] },
      { name: "a k_dim beyond k", change: { k_dim: 7 }, says: ["k_dim", "0..6"] },
      { name: "a negative chunk", change: { chunk: -1 }, says: ["chunk"] },
      { name: "a negative window", change: { window: -1 }, says: ["window"] },
      { name: "a cache too narrow", change: { k_cache: [out([8, 6]), out([4, 6])] }, says: ["k_cache[0]", "[8, 7]"] },
      {
        name: "a cache without rows",
        change: { k_cache: [out([8, 7]), out([0, 7])], v_cache: [out([8, 4]), out([0, 4])] },
        says: ["k_cache[1]", "rows"],
      },
      { name: "caches of two dtypes", change: { v_cache: [out([8, 4]), out([4, 4], "bf16")] }, says: ["v_cache[1]", "f32"] },
      { name: "as many values as keys", change: { v_cache: [out([8, 4])] }, says: ["v_cache", "2 matrices"] },
      { name: "values without v", change: { v: null }, says: ["kv_heads", "1 without v"] },
      { name: "precision = 2", change: { precision: 2 }, says: ["precision"] },
      { name: "a q of another width", change: { q: out([3, 15]) }, says: ["q", "[3, 16]"] },
    ],
    freeCols: ["k", "v"],
  },
]);

describe("a row", () => {
  it("has the same bits alone and beside others, on few threads and many", async () => {
    const name = "several stretches";
    const args = cachedCases.find((c) => c.name === name)!.args(new Random(name));
    const H = colsOf(tensor(args, "out"));
    const together = pick(await run(device("cpu"), "attention_cached", args), "out");
    const rowOf = (t: HostTensor, r: number): HostTensor =>
      f32(
        [1, colsOf(t)],
        Float32Array.from({ length: colsOf(t) }, (_, c) => t.values[r * colsOf(t) + c]!),
      );
    for (const r of [0, 1]) {
      const alone: Args = {
        ...args,
        q: rowOf(tensor(args, "q"), r),
        k: rowOf(tensor(args, "k"), r),
        v: rowOf(tensor(args, "v"), r),
        doc_start: i32([0]),
        positions: i32([tensor(args, "positions").values[r]!]),
        k_cache: [list(args, "k_cache")[r]!],
        v_cache: [list(args, "v_cache")[r]!],
        out: out([1, H]),
      };
      for (const threads of [1, 2, 8])
        expect(pick(await run(device("cpu", threads), "attention_cached", alone), "out")).toEqual(together.slice(r * H, (r + 1) * H));
    }
  });
});
