// gemm on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/gemm.test.ts

import { expect, it } from "vitest";
import { KernelError } from "../../lib/errors.ts";
import { gemmBase, gemmCases } from "./cases/gemm.ts";
import { Random, i32, out } from "./host.ts";
import { device, describeCases, describeRefusals, instructionSets, run } from "./support.ts";

describeCases("gemm", gemmCases);

describeRefusals([
  {
    base: gemmBase,
    rows: [
      { name: "an unknown mode", change: { mode: 3, bias: null }, says: ["mode", "0..2", "received 3"] },
      { name: "a bias in mode nn", change: { mode: 1, b: out([5, 6]) }, says: ["bias", "absent"] },
      { name: "accumulate = 2", change: { accumulate: 2 }, says: ["accumulate"] },
      { name: "precision = 2", change: { precision: 2 }, says: ["precision"] },
      { name: "inner sizes that differ", change: { b: out([6, 4]) }, says: ["b must be [6, 5]", "received [6, 4] f32"] },
      { name: "integer weights", change: { b: i32(new Array<number>(30).fill(1), [6, 5]) }, says: ["b", "f32 or bf16", "i32"] },
      {
        name: "c in the memory of a",
        change: { a: out([4, 5]), b: out([5, 5]), bias: null, c: { same: "a" } },
        says: ["c", "apart from a"],
      },
      { name: "an integer output", change: { c: out([4, 6], "i32") }, says: ["c", "f32 or bf16", "i32"] },
      { name: "integer rows", change: { a: out([4, 5], "i32") }, says: ["a", "f32 or bf16", "i32"] },
    ],
  },
]);

it("bf16 compute on a machine without it is refused by name", async () => {
  const without = instructionSets.filter((isa) => !device("cpu", 2, isa).info.bf16Compute);
  for (const isa of without) {
    const args = { ...gemmBase.args(new Random(1)), precision: 1 };
    await expect(run(device("cpu", 2, isa), "gemm", args)).rejects.toThrow(KernelError);
    await expect(run(device("cpu", 2, isa), "gemm", args)).rejects.toThrow(/precision|bf16/);
  }
});
