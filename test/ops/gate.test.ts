// The gates on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/gate.test.ts

import { expect, it } from "vitest";
import { gateArgs, gateBackwardBase, gateBase, gateCases, scaleRowsBase } from "./cases/gate.ts";
import { Random, f32, i32, out, tensor } from "./host.ts";
import { describeCases, describeRefusals, device, pick, run } from "./support.ts";

describeCases("gate", gateCases);

describeRefusals([
  {
    base: gateBase,
    inPlace: ["y=x"],
    rows: [{ name: "gates that do not divide the columns", change: { g: out([3, 3]) }, says: ["g", "divisor of 4"] }],
  },
  {
    base: gateBackwardBase,
    inPlace: ["dx=dy"],
    rows: [{ name: "gates that do not divide the columns", change: { g: out([3, 3]), dg: out([3, 3]) }, says: ["g", "divisor of 4"] }],
  },
  {
    base: scaleRowsBase,
    freeCols: ["factors"],
    inPlace: ["y=x"],
    rows: [
      { name: "a position beyond the factors", change: { positions: i32([0, 4, 1]) }, says: ["positions[1]", "0..3", "received 4"] },
      { name: "a negative position", change: { positions: i32([0, 1, -1]) }, says: ["positions[2]", "received -1"] },
    ],
  },
]);

it("the backward is the forward's: finite differences of gates and inputs", async () => {
  const [R, C, G, h] = [4, 12, 3, 1e-2];
  const args = gateArgs(R, C, G)(new Random("gradient"));
  const dy = new Random("dy").normal([R, C]);
  const loss = async (x: HostValues, g: HostValues): Promise<number> => {
    const y = pick(await run(device("ref"), "sigmoid_gate", { ...args, x: f32([R, C], x), g: f32([R, G], g) }), "y");
    return y.reduce((s, v, i) => s + v * dy.values[i]!, 0);
  };
  type HostValues = number[];
  const [x, g] = [Array.from(tensor(args, "x").values), Array.from(tensor(args, "g").values)];
  const d = await run(device("ref"), "sigmoid_gate_backward", {
    dy,
    x: f32([R, C], x),
    g: f32([R, G], g),
    dx: out([R, C]),
    dg: out([R, G]),
  });
  const moved = (v: number[], i: number, by: number): number[] => v.map((z, j) => (j === i ? z + by : z));
  for (const [i, dxi] of pick(d, "dx").entries())
    expect(((await loss(moved(x, i, h), g)) - (await loss(moved(x, i, -h), g))) / (2 * h)).toBeCloseTo(dxi, 3);
  for (const [i, dgi] of pick(d, "dg").entries())
    expect(((await loss(x, moved(g, i, h))) - (await loss(x, moved(g, i, -h)))) / (2 * h)).toBeCloseTo(dgi, 3);
});
