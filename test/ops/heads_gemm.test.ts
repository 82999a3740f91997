// heads_gemm on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript, rows
// that do not depend on their neighbours, refusals. No GPU. Alone: npx vitest run test/ops/heads_gemm.test.ts

import { expect, it } from "vitest";
import { heads, headsGemmBase, headsGemmCases, largeHeadsGemmCases } from "./cases/heads_gemm.ts";
import { Random, colsOf, out, tensor } from "./host.ts";
import type { HostTensor } from "./host.ts";
import { describeCases, describeRefusals, device, instructionSets, pick, run } from "./support.ts";

describeCases("heads_gemm", [...headsGemmCases, ...largeHeadsGemmCases]);

describeRefusals([
  {
    base: headsGemmBase,
    rows: [
      { name: "an unknown mode", change: { mode: 2 }, says: ["mode", "0..1", "received 2"] },
      { name: "precision = 2", change: { precision: 2 }, says: ["precision"] },
      { name: "no heads", change: { heads: 0 }, says: ["heads", "1..65536"] },
      { name: "rows past a head's", change: { head_rows: 10 }, says: ["head_rows", "0..9"] },
      { name: "a first row past a head's", change: { first_row: 11 }, says: ["first_row", "0..10"] },
      { name: "heads that do not divide the rows of w", change: { w: out([19, 6]) }, says: ["w", "rows for each of 2 heads", "[19, 6]"] },
      { name: "an x too narrow", change: { x: out([3, 6]) }, says: ["x", "4 columns for each of 2 heads", "[3, 6]"] },
      { name: "an x too narrow for nt", change: { mode: 0, x: out([3, 10]) }, says: ["x", "6 columns for each of 2 heads", "[3, 10]"] },
      { name: "a y too narrow", change: { y: out([3, 10]) }, says: ["y", "6 columns for each of 2 heads", "[3, 10]"] },
      { name: "integer weights", change: { w: out([20, 6], "i32") }, says: ["w", "f32 or bf16", "i32"] },
      {
        name: "y in the memory of w",
        change: { x: out([20, 8]), w: out([20, 12]), y: { same: "w" }, heads: 1 },
        says: ["y", "apart from w"],
      },
    ],
    freeCols: ["w"],
  },
]);

it.each([
  ["nt", 0],
  ["nn", 1],
] as const)("%s: a row has the same bits alone and beside others, on few threads and many", async (_, mode) => {
  for (const options of [{}, { w: "bf16" }, { bf16: true }, { w: "bf16", bf16: true }] as const)
    for (const isa of instructionSets) {
      if ("bf16" in options && !device("cpu", 2, isa).info.bf16Compute) continue;
      const args = heads(mode, 16, 3, 150, 41, { ...options, before: 2, x: 4, y: 1 })(new Random(mode));
      const [x, y] = [tensor(args, "x"), tensor(args, "y")];
      const rows = (t: HostTensor, from: number, to: number): HostTensor => ({
        ...t,
        shape: [to - from, colsOf(t)],
        values: Float32Array.from(t.values).subarray(from * colsOf(t), to * colsOf(t)),
      });
      const together = pick(await run(device("cpu", 2, isa), "heads_gemm", args), "y");
      for (const [from, to] of [
        [0, 1],
        [5, 7],
        [13, 16],
      ] as const)
        for (const threads of [1, 8]) {
          const part = await run(device("cpu", threads, isa), "heads_gemm", { ...args, x: rows(x, from, to), y: rows(y, from, to) });
          expect(pick(part, "y"), isa).toEqual(together.slice(from * colsOf(y), to * colsOf(y)));
        }
    }
});
