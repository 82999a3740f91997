// layer_norm on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/layer_norm.test.ts

import { it } from "vitest";
import { layerNormBackwardBase, layerNormBase, layerNormCases } from "./cases/dense.ts";
import { Random, f32, out, zeros } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run, weighted } from "./support.ts";

describeCases("layer_norm", layerNormCases);

describeRefusals([
  {
    base: layerNormBase,
    inPlace: ["y=x"],
    rows: [
      { name: "a negative eps", change: { eps: -1e-6 }, says: ["eps"] },
      { name: "rows without columns", change: { x: out([3, 0]), y: out([3, 0]), weight: out([0]), bias: out([0]) }, says: ["x", "C >= 1"] },
      { name: "a bias of the wrong length", change: { bias: out([4]) }, says: ["bias", "5"] },
      { name: "mean of the wrong length", change: { mean: out([4]) }, says: ["mean", "3"] },
    ],
  },
  {
    base: layerNormBackwardBase,
    inPlace: ["dx=dy"],
    rows: [
      { name: "accumulate = 2", change: { accumulate: 2 }, says: ["accumulate"] },
      { name: "accumulate_weight = 2", change: { accumulate_weight: 2 }, says: ["accumulate_weight"] },
      { name: "a bf16 gradient of the bias", change: { dbias: out([5], "bf16") }, says: ["dbias", "f32"] },
    ],
  },
]);

it("gradients of x, weight and bias against finite differences", async () => {
  const [R, C] = [3, 6];
  const random = new Random("layer_norm");
  const [x, weight, bias, c] = [random.normal([R, C]), random.normal([C]), random.normal([C]), random.normal([R, C])];
  const forward = async (i: Readonly<Record<string, Float32Array>>) =>
    run(device("ref"), "layer_norm", {
      x: f32([R, C], i.x!),
      weight: f32([C], i.weight!),
      bias: f32([C], i.bias!),
      y: out([R, C]),
      mean: out([R]),
      rstd: out([R]),
      eps: 1e-3,
    });
  const inputs = {
    x: Float32Array.from(x.values),
    weight: Float32Array.from(weight.values),
    bias: Float32Array.from(bias.values),
  };
  const kept = await forward(inputs);
  const made = await run(device("ref"), "layer_norm_backward", {
    dy: c,
    x,
    weight,
    mean: f32([R], pick(kept, "mean")),
    rstd: f32([R], pick(kept, "rstd")),
    dx: out([R, C]),
    dweight: zeros("f32", [C]),
    dbias: zeros("f32", [C]),
    accumulate: 0,
    accumulate_weight: 0,
  });
  await checkGradients({
    inputs,
    gradients: { x: pick(made, "dx"), weight: pick(made, "dweight"), bias: pick(made, "dbias") },
    loss: async (i) => weighted(pick(await forward(i), "y"), c.values),
  });
});
