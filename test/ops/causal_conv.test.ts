// causal_conv on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/causal_conv.test.ts

import { describe, it } from "vitest";
import { causalConv, causalConvBackwardBase, causalConvBase, causalConvCases } from "./cases/delta.ts";
import type { ConvOptions } from "./cases/delta.ts";
import { Random, f32, has, i32, out, tensor, zeros } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run, weighted } from "./support.ts";

describeCases("causal_conv", causalConvCases);

const rows = [
  { name: "a document that starts after its token", change: { doc_start: i32([0, 0, 3, 3, 3]) }, says: ["doc_start[2]", "received 3"] },
  { name: "a negative document start", change: { doc_start: i32([-1, 0, 2, 2, 2]) }, says: ["doc_start[0]", "received -1"] },
  { name: "silu = 2", change: { silu: 2 }, says: ["silu"] },
  { name: "nine taps", change: { weight: out([4, 1, 9]) }, says: ["weight", "1..8"] },
  { name: "no taps", change: { weight: out([4, 1, 0]) }, says: ["weight", "1..8"] },
];
describeRefusals([
  {
    base: causalConvBase,
    rows: [
      ...rows,
      { name: "a state too few", change: { states: [out([2, 4])] }, says: ["states", "2 documents", "received 1"] },
      { name: "a state too short", change: { states: [out([2, 4]), out([1, 4])] }, says: ["states[1]", "[2, 4]"] },
    ],
    freeCols: ["weight"],
  },
  {
    base: causalConvBackwardBase,
    rows: [...rows.slice(0, 3), { name: "dweight of other taps", change: { dweight: out([4, 1, 4]) }, says: ["dweight", "[4, 3]"] }],
    freeCols: [],
  },
]);

describe("gradients of x, weight and bias against finite differences", () => {
  const options: readonly (readonly [string, ConvOptions])[] = [
    ["SiLU, bias, documents", { silu: true, bias: true, docs: [0, 1, 4] }],
    ["no activation", {}],
  ];
  for (const [name, o] of options)
    it(name, async () => {
      const random = new Random(name);
      const args = causalConv(9, 3, 4, o)(random);
      const names = ["x", "weight", ...(o.bias ? ["bias"] : [])];
      const inputs = Object.fromEntries(names.map((n) => [n, Float32Array.from(tensor(args, n).values)]));
      const forward = (i: Readonly<Record<string, Float32Array>>) =>
        run(device("ref"), "causal_conv", { ...args, ...Object.fromEntries(names.map((n) => [n, f32(tensor(args, n).shape, i[n]!)])) });
      const c = random.normal([9, 3]);
      const { y: _y, ...operands } = args;
      const made = await run(device("ref"), "causal_conv_backward", {
        ...operands,
        dy: c,
        dx: out([9, 3]),
        dweight: zeros("f32", [3, 1, 4]),
        dbias: has(args, "bias") ? zeros("f32", [3]) : null,
      });
      await checkGradients({
        inputs,
        gradients: Object.fromEntries(names.map((n) => [n, pick(made, `d${n}`)])),
        loss: async (i) => weighted(pick(await forward(i), "y"), c.values),
      });
    });
});
