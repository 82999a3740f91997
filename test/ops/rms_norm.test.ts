// rms_norm on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/rms_norm.test.ts

import { it } from "vitest";
import { rmsNormBackwardBase, rmsNormBase, rmsNormCases } from "./cases/dense.ts";
import { Random, f32, out, tensor, zeros } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run, weighted } from "./support.ts";

describeCases("rms_norm", rmsNormCases);

describeRefusals([
  {
    base: rmsNormBase,
    inPlace: ["y=x"],
    rows: [
      { name: "1 + no weight", change: { weight: null, zero_centred: 1 }, says: ["zero_centred", "no weight"] },
      { name: "a negative eps", change: { eps: -1e-6 }, says: ["eps"] },
      { name: "rows without columns", change: { x: out([3, 0]), y: out([3, 0]), weight: out([0]) }, says: ["x", "C >= 1"] },
      { name: "rstd of the wrong length", change: { rstd: out([4]) }, says: ["rstd", "3"] },
    ],
  },
  {
    base: rmsNormBackwardBase,
    inPlace: ["dx=dy"],
    rows: [
      { name: "the gradient of no weight", change: { weight: null }, says: ["dweight", "absent"] },
      { name: "accumulate = 2", change: { accumulate: 2 }, says: ["accumulate"] },
      { name: "zero_centred = 2", change: { zero_centred: 2 }, says: ["zero_centred"] },
      { name: "accumulate_weight = 2", change: { accumulate_weight: 2 }, says: ["accumulate_weight"] },
    ],
  },
]);

it("gradients of x and weight against finite differences", async () => {
  const [R, C] = [3, 6];
  const random = new Random("rms_norm");
  const [x, weight, c] = [random.normal([R, C]), random.normal([C]), random.normal([R, C])];
  const forward = async (i: Readonly<Record<string, Float32Array>>) =>
    run(device("ref"), "rms_norm", {
      x: f32([R, C], i.x!),
      weight: f32([C], i.weight!),
      y: out([R, C]),
      rstd: out([R]),
      eps: 1e-3,
      zero_centred: 0,
    });
  const inputs = { x: Float32Array.from(x.values), weight: Float32Array.from(weight.values) };
  const rstd = f32([R], pick(await forward(inputs), "rstd"));
  const made = await run(device("ref"), "rms_norm_backward", {
    dy: c,
    x: tensor({ x }, "x"),
    weight,
    rstd,
    dx: out([R, C]),
    dweight: zeros("f32", [C]),
    accumulate: 0,
    zero_centred: 0,
    accumulate_weight: 0,
  });
  await checkGradients({
    inputs,
    gradients: { x: pick(made, "dx"), weight: pick(made, "dweight") },
    loss: async (i) => weighted(pick(await forward(i), "y"), c.values),
  });
});
