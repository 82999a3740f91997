// The optimizer on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/optimizer.test.ts

import { expect, it } from "vitest";
import { adamwBase, adamwCases, gradNormBase, gradNormCases, saliencyBase, saliencyCases } from "./cases/training.ts";
import { Random, out, toBf16, zeros } from "./host.ts";
import { describeCases, describeRefusals, device, instructionSets, pick, run } from "./support.ts";

describeCases("optimizer", [...gradNormCases, ...saliencyCases, ...adamwCases]);

const base = adamwBase.args(new Random("base"));
describeRefusals([
  { base: gradNormBase, freeRows: ["grads"], rows: [{ name: "an f32 norm", change: { norm: out([1]) }, says: ["norm", "one f64"] }] },
  {
    base: saliencyBase,
    rows: [
      { name: "an f32 sum", change: { squares: out([2]) }, says: ["squares", "f64"] },
      { name: "fewer sums than weights", change: { squares: out([1], "f64") }, says: ["squares", "2"] },
      { name: "too few gradients", change: { grads: [zeros("f32", [2, 3])] }, says: ["grads", "as long as weights (2)", "received 1"] },
      { name: "a bf16 gradient", change: { grads: [out([2, 3], "bf16"), out([4])] }, says: ["grads[0]", "f32", "bf16"] },
      {
        name: "a gradient of another shape",
        change: { grads: [zeros("f32", [3, 2]), zeros("f32", [4])] },
        says: ["grads[0]", "[2, 3]", "[3, 2]"],
      },
      { name: "integer weights", change: { weights: [out([2, 3], "i32"), out([4])] }, says: ["weights[0]", "i32"] },
    ],
  },
  {
    base: adamwBase,
    rows: [
      { name: "step 0", change: { step: 0 }, says: ["step", "received 0"] },
      { name: "a negative lr", change: { lr: -1 }, says: ["lr"] },
      { name: "an infinite lr", change: { lr: Infinity }, says: ["lr"] },
      { name: "beta1 = 1", change: { beta1: 1 }, says: ["beta1", "[0, 1)"] },
      { name: "a negative beta2", change: { beta2: -0.5 }, says: ["beta2", "[0, 1)"] },
      { name: "a negative eps", change: { eps: -1 }, says: ["eps"] },
      { name: "a negative weight_decay", change: { weight_decay: -1 }, says: ["weight_decay"] },
      { name: "bf16 parameters", change: { params: [out([2, 3], "bf16"), out([4])] }, says: ["params[0]", "f32", "bf16"] },
      { name: "a list that is too short", change: { v: [zeros("f32", [2, 3])] }, says: ["v", "as long as params (2)", "received 1"] },
      { name: "a moment of another shape", change: { m: [zeros("f32", [3, 2]), zeros("f32", [4])] }, says: ["m[0]", "[2, 3]", "[3, 2]"] },
      { name: "f32 copies", change: { copies: [out([2, 3]), out([4])] }, says: ["copies[0]", "bf16", "f32"] },
      {
        name: "a list that is too long",
        change: { m: [zeros("f32", [2, 3]), zeros("f32", [4]), zeros("f32", [4])] },
        says: ["m", "as long as params (2)", "received 3"],
      },
      { name: "too few copies", change: { copies: [out([2, 3], "bf16")] }, says: ["copies", "as long as params (2)", "received 1"] },
      {
        name: "a copy of another shape",
        change: { copies: [out([3, 2], "bf16"), out([4], "bf16")] },
        says: ["copies[0]", "[2, 3]", "[3, 2]"],
      },
      { name: "no gradients", change: { grads: [] }, says: ["grads"] },
      { name: "integer gradients", change: { grads: [out([2, 3], "i32"), ...(base.grads as []).slice(1)] }, says: ["grads[0]", "f32"] },
    ],
  },
]);

it("each bf16 copy is its updated parameter rounded to nearest even", async () => {
  const c = adamwCases.find((x) => x.name === "bf16 copies")!;
  for (const d of [device("ref"), ...instructionSets.map((isa) => device("cpu", 2, isa))]) {
    const outputs = await run(d, "adamw", c.args(new Random("copies")));
    for (let i = 0; i < 6; i++) expect(pick(outputs, `copies[${i}]`)).toEqual(pick(outputs, `params[${i}]`).map(toBf16));
  }
});
