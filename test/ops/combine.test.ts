// combine on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/combine.test.ts

import { expect, it } from "vitest";
import { combine, combineBackward, combineBackwardBase, combineBase, combineCases } from "./cases/combine.ts";
import { Random, f32, i32, out, tensor } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, instructionSets, pick, run, weighted } from "./support.ts";

describeCases("combine", combineCases);

const pos = [
  { name: "a row beyond x", change: { pos: i32([0, 1, 2, 3, 4, 6], [3, 2]) }, says: ["pos[2, 1]", "0..5", "received 6"] },
  { name: "a negative row", change: { pos: i32([0, -5, 2, 3, 4, 5], [3, 2]) }, says: ["pos[0, 1]", "received -5"] },
];
describeRefusals([
  { base: combineBase, freeRows: ["x"], rows: [...pos, { name: "accumulate = 7", change: { accumulate: 7 }, says: ["accumulate"] }] },
  {
    base: combineBackwardBase,
    rows: [
      ...pos,
      {
        name: "a row read twice when dx is asked for",
        change: { pos: i32([0, 1, 2, 3, 4, 4], [3, 2]) },
        says: ["pos[2, 1]", "no other slot", "received 4"],
      },
      {
        name: "more slots than rows of x",
        change: { x: out([5, 4]), dx: out([5, 4]), pos: i32([0, 1, 2, 3, 4, 4], [3, 2]) },
        says: ["pos must be a permutation of 5"],
      },
      { name: "rows of x that no slot reads", change: { x: out([7, 4]), dx: out([7, 4]) }, says: ["pos", "permutation of 7"] },
    ],
  },
]);

it("gradients of x and weights against finite differences", async () => {
  const random = new Random("combine");
  const args = combine(4, 3, 5)(random);
  const c = random.normal([4, 5]);
  const made = await run(device("ref"), "combine_backward", {
    ...combineBackward(4, 3, 5)(random),
    dy: c,
    x: tensor(args, "x"),
    pos: tensor(args, "pos"),
    weights: tensor(args, "weights"),
  });
  await checkGradients({
    inputs: { x: Float32Array.from(tensor(args, "x").values), weights: Float32Array.from(tensor(args, "weights").values) },
    gradients: { x: pick(made, "dx"), weights: pick(made, "dweights") },
    loss: async (i) =>
      weighted(
        pick(await run(device("ref"), "combine", { ...args, x: f32([12, 5], i.x!), weights: f32([4, 3], i.weights!) }), "y"),
        c.values,
      ),
  });
});

it("outputs beyond the caches, rows that begin anywhere", async () => {
  const args = combine(2100, 1, 1001, { weights: false })(new Random("large"));
  const [want] = await run(device("ref"), "combine", args);
  for (const isa of instructionSets) {
    const [got] = await run(device("cpu", 2, isa), "combine", args);
    expect(Buffer.compare(got!.bytes, want!.bytes), isa).toBe(0);
  }
}, 120_000);
