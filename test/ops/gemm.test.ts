// gemm on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/gemm.test.ts

import { expect, it } from "vitest";
import { KernelError } from "../../lib/errors.ts";
import { gemmBase, gemmCases } from "./cases/gemm.ts";
import { Random, colsOf, f32, i32, out } from "./host.ts";
import type { HostTensor } from "./host.ts";
import { device, describeCases, describeRefusals, instructionSets, pick, run } from "./support.ts";

describeCases("gemm", gemmCases);

describeRefusals([
  {
    base: gemmBase,
    rows: [
      { name: "an unknown mode", change: { mode: 3, bias: null }, says: ["mode", "0..2", "received 3"] },
      { name: "a bias in mode nn", change: { mode: 1, b: out([5, 6]) }, says: ["bias", "absent"] },
      { name: "accumulate = 2", change: { accumulate: 2 }, says: ["accumulate"] },
      {
        name: "a residual in mode nn",
        change: { mode: 1, b: out([5, 6]), bias: null, residual: out([4, 6]) },
        says: ["residual", "absent"],
      },
      { name: "a residual beside accumulate", change: { accumulate: 1, residual: out([4, 6]) }, says: ["residual", "absent"] },
      { name: "a residual of another dtype", change: { residual: out([4, 6], "bf16") }, says: ["residual", "f32", "bf16"] },
      { name: "a residual of another shape", change: { residual: out([4, 5]) }, says: ["residual must be [4, 6]"] },
      { name: "a residual in the memory of c", change: { residual: { same: "c" } }, says: ["c", "apart from residual"] },
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

it.each([
  ["one tile", 5, 40, 64],
  ["several tiles and a tail", 150, 150, 200],
  ["several passes", 33, 64, 3000],
  ["several passes and a tail", 9, 35, 2900],
])("an f32 product beside a residual has the bits of the product and an add: %s", async (name, M, N, K) => {
  const r = new Random(name);
  const [a, b, residual] = [r.normal([M, K]), r.normal([N, K]), r.normal([M, N])];
  for (const isa of instructionSets) {
    const d = device("cpu", 2, isa);
    const shared = { a, b, bias: null, c: out([M, N]), mode: 0, accumulate: 0, precision: 0 };
    const product = pick(await run(d, "gemm", { ...shared, residual: null }), "c");
    const apart = await run(d, "add", { a: residual, b: f32([M, N], product), y: out([M, N]), alpha: 1 });
    expect(pick(await run(d, "gemm", { ...shared, residual }), "c"), isa).toEqual(pick(apart, "y"));
  }
});

it("a row of at most 16 has the same bits alone and beside others", async () => {
  const cut = (t: HostTensor, from: number, to: number): HostTensor => ({
    ...t,
    shape: [to - from, colsOf(t)],
    values: Float32Array.from(t.values).subarray(from * colsOf(t), to * colsOf(t)),
  });
  for (const isa of instructionSets)
    for (const [K, w, precision] of [
      [150, "f32", 0],
      [147, "bf16", 0],
      [160, "f32", 0],
      [150, "bf16", 1],
      [147, "f32", 1],
    ] as const) {
      const d = device("cpu", 2, isa);
      if (precision === 1 && !d.info.bf16Compute) continue;
      const r = new Random(K);
      const a = r.normal([16, K]);
      const args = { a, b: r.normal([41, K], 1, w), bias: null, residual: null, c: out([16, 41]), mode: 0, accumulate: 0, precision };
      const together = pick(await run(d, "gemm", args), "c");
      for (const [from, to] of [
        [0, 1],
        [5, 7],
        [13, 16],
      ] as const) {
        // prettier-ignore
        const part = pick(await run(d, "gemm", { ...args, a: cut(a, from, to), c: out([to - from, 41]) }), "c");
        expect(part, `${isa}, ${K} ${w}`).toEqual(together.slice(from * 41, to * 41));
      }
    }
});

it("bf16 compute on a machine without it is refused by name", async () => {
  const without = instructionSets.filter((isa) => !device("cpu", 2, isa).info.bf16Compute);
  for (const isa of without) {
    const args = { ...gemmBase.args(new Random(1)), precision: 1 };
    await expect(run(device("cpu", 2, isa), "gemm", args)).rejects.toThrow(KernelError);
    await expect(run(device("cpu", 2, isa), "gemm", args)).rejects.toThrow(/precision|bf16/);
  }
});
