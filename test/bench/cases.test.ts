// The table of benchmark cases: names, sizes, costs, and what the peer is told. Nothing is timed.

import { describe, expect, it } from "vitest";
import { describe as described, parts, precisionOf, tiny } from "../../bench/cases/case.ts";
import { benchCases, peerCases } from "../../bench/cases/index.ts";
import { peerDocument } from "../../bench/peer/peer.ts";
import { perfRows } from "../ops/cases/index.ts";
import { opNames } from "../ops/schema.ts";
import { Sketch } from "../ops/host.ts";

const backends = ["cpu", "cuda"] as const;
const cost = (on: (typeof backends)[number], id: string) =>
  benchCases(on, false)
    .find((c) => c.id === id)!
    .cost();

describe("the table", () => {
  for (const on of backends)
    it(`of ${on} names every case once, in four parts, with small sizes under the same name`, () => {
      const ids = benchCases(on, false).map((c) => c.id);
      expect(new Set(ids).size).toBe(ids.length);
      for (const id of ids) {
        expect(id.split("/")).toHaveLength(4);
        expect(parts(id).dtype).toMatch(/^(f32|f32-bf16w|bf16)$/);
        if (on === "cuda") expect(precisionOf(id)).toBe("bf16");
      }
      expect(benchCases(on, true).map((c) => c.id)).toEqual(ids);
    });
  it("has a row for every op that a step spends time in", () => {
    const measured = new Set(perfRows.flatMap((row) => row.make(tiny(row.sizes), new Sketch(row.id)).calls.map((c) => c.op)));
    const aside = [
      "scale",
      "clamp",
      "clamp_backward",
      "fill",
      "mask_grad",
      "column_sum",
      "load_balance",
      "combine_backward",
      "embedding_backward",
    ];
    expect(opNames.filter((op) => !measured.has(op)).sort()).toEqual(aside.sort());
  });
  it("counts useful work", () => {
    expect(cost("cuda", "gemm/8192x8192/bf16/M8192").flops).toBe(2 * 8192 ** 3);
    expect(cost("cpu", "layer/d256/f32/fwd")).toEqual({ flops: 6 * 256 * 128 * 6 * 4096, tokens: 4096 });
    expect(cost("cpu", "layer/d256/f32/full").flops).toBe(3 * 6 * 256 * 128 * 6 * 4096);
    // 64 wide, causal, 8 documents of 512 tokens, 4 heads: half of S² for the scores, half for the values.
    expect(cost("cpu", "attention/hd64-S512/f32/fwd").flops).toBe(8 * 4 * 512 * 512 * 128);
    const full = cost("cpu", "step/olmoe/f32/full").flops!;
    expect(cost("cpu", "step/olmoe/f32/esft").flops! / full).toBeGreaterThan(0.5);
    expect(cost("cpu", "step/olmoe/f32/esft").flops! / full).toBeLessThan(0.75);
  });
  it("counts the bytes of operands, of state twice", () => {
    expect(cost("cuda", "adamw/1.07B/bf16/step").bytes).toBe(30 * 372 * 2048 * 1408);
    expect(cost("cpu", "adamw/16777216/f32/step").bytes).toBe(28 * 2 ** 24);
    expect(cost("cuda", "copy/1GiB/bf16/copy").bytes).toBe(2 ** 31);
    expect(cost("cuda", "rms_norm/8192x2048/bf16/fwd").bytes).toBe(8192 * (4 * 2048 + 4) + 2 * 2048);
    expect(cost("cpu", "rms_norm/4096x2048/f32/bwd").bytes).toBe(4096 * (16 * 2048 + 4) + 4 * 2048); // dy, x, dx read and written
    expect(cost("cpu", "rope/4096x16x128/f32/fwd").bytes).toBe(4096 * (8 * 2048 + 4 + 8 * 64)); // in place
    // Logits, probabilities, ids and weights, and what the sort makes of them: shared between the calls, counted once.
    expect(cost("cuda", "routing/T8192-E64-K6/bf16/fwd").bytes).toBe(8192 * (8 * 64 + 20 * 6) + 4 * 65 + 2 * 16 * 64);
  });
  it("shrinks sizes by their names, configurations too", () => {
    expect(tiny({ T: 8192, D: 32, config: { hidden_size: 2048, model_type: "x", q_lora_rank: null } })).toEqual({
      T: 32,
      D: 32,
      config: { hidden_size: 64, model_type: "x", q_lora_rank: null },
    });
  });
});

describe("what the peer is told", () => {
  it("is every case with its parts, sizes and work, and on cuda the ceilings", () => {
    const cases = benchCases("cuda", true).filter((c) => /^(gemm|step)/.test(c.id));
    const document = JSON.parse(peerDocument({ device: "cuda", tiny: true, cases: peerCases("cuda", true, cases) }));
    expect(document).toMatchObject({ device: "cuda", tiny: true });
    expect(document.cases.map((c: { id: string }) => c.id)).toEqual([
      "ceiling/gemm/bf16/8192",
      "ceiling/copy/bf16/1GiB",
      ...cases.map((c) => c.id),
    ]);
    const keys = ["bytes", "config", "dtype", "flops", "headline", "id", "mode", "sizes", "tokens", "what"];
    for (const c of document.cases) for (const key of Object.keys(c)) expect(keys).toContain(key);
    expect(peerCases("cpu", true, [])).toEqual([]);
  });
  it("names sizes as the peer reads them", () => {
    const of = (id: string) => described(benchCases("cpu", false).find((c) => c.id === id)!);
    expect(of("gemm/2048x1408/f32/M16")).toMatchObject({ what: "gemm", mode: "M16", sizes: { M: 16, N: 1408, K: 2048 } });
    expect(of("head/d256-V8192/bf16/train").sizes).toEqual({ T: 4096, D: 256, V: 8192 });
    expect(of("step/olmoe/f32/esft").sizes).toMatchObject({
      batch: 8,
      seq: 512,
      trained: 5,
      config: { model_type: "olmoe", num_experts: 32 },
    });
  });
});
