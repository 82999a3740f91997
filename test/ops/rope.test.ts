// rope on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/rope.test.ts

import { expect, it } from "vitest";
import { rope, ropeBase, ropeCases } from "./cases/dense.ts";
import { Random, f32, i32, out, tensor } from "./host.ts";
import { describeCases, describeRefusals, device, pick, run } from "./support.ts";

describeCases("rope", ropeCases);

describeRefusals([
  {
    base: ropeBase,
    inPlace: ["y=x"],
    rows: [
      { name: "a position beyond the tables", change: { positions: i32([0, 50, 1, 2]) }, says: ["positions[1]", "0..49", "received 50"] },
      { name: "a negative position", change: { positions: i32([0, 1, 2, -3]) }, says: ["positions[3]", "received -3"] },
      { name: "heads that do not divide the columns", change: { heads: 5 }, says: ["heads", "divisor of 12"] },
      { name: "no heads", change: { heads: 0 }, says: ["heads"] },
      { name: "an offset past the head", change: { offset: 3 }, says: ["offset", "0..2", "received 3"] },
      {
        name: "more rotated dimensions than the head has",
        change: { cos: out([50, 4]), sin: out([50, 4]), offset: 0 },
        says: ["cos", "R <= 6"],
      },
      { name: "interleaved = 2", change: { interleaved: 2 }, says: ["interleaved"] },
      { name: "inverse = 2", change: { inverse: 2 }, says: ["inverse"] },
    ],
  },
]);

it("inverse undoes it and is its transpose: lengths stay, so the gradient is the inverse rotation", async () => {
  for (const interleaved of [true, false]) {
    const args = rope(9, 3, 16, 10, { offset: 4, interleaved })(new Random("inverse"));
    const y = pick(await run(device("ref"), "rope", args), "y");
    const x = tensor(args, "x").values;
    const back = pick(await run(device("ref"), "rope", { ...args, x: f32([9, 48], y), inverse: 1 }), "y");
    const square = (v: ArrayLike<number>): number => Array.from(v).reduce((s, a) => s + a * a, 0);
    expect(square(y)).toBeCloseTo(square(x), 3);
    back.forEach((v, i) => expect(v).toBeCloseTo(x[i]!, 5));
  }
});
