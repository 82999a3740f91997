// Head and loss on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/linear_cross_entropy.test.ts

import { it } from "vitest";
import { loss, lossBase, lossCases } from "./cases/training.ts";
import { Random, f32, i32, out, tensor, zeros } from "./host.ts";
import type { HostTensor } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run } from "./support.ts";

describeCases("linear_cross_entropy", lossCases);

describeRefusals([
  {
    base: lossBase,
    rows: [
      {
        name: "a label beyond the vocabulary",
        change: { labels: i32([1, -100, 6, 0]) },
        says: ["labels[2]", "-100 or in 0..5", "received 6"],
      },
      { name: "label -1", change: { labels: i32([-1, -100, 5, 0]) }, says: ["labels[0]", "received -1"] },
      { name: "label -101", change: { labels: i32([1, -101, 5, 0]) }, says: ["labels[1]", "received -101"] },
      { name: "an f32 loss", change: { loss: out([1]) }, says: ["loss", "one f64"] },
      { name: "two losses", change: { loss: out([2], "f64") }, says: ["loss", "one f64"] },
      { name: "an f64 count", change: { correct: out([1], "f64") }, says: ["correct", "one i64"] },
      { name: "a bf16 gradient of the head", change: { dw: out([6, 5], "bf16") }, says: ["dw", "f32", "bf16"] },
      { name: "an infinite grad_scale", change: { grad_scale: Infinity }, says: ["grad_scale"] },
      { name: "an infinite logit_scale", change: { logit_scale: -Infinity }, says: ["logit_scale"] },
      { name: "a negative cap", change: { soft_cap: -1 }, says: ["soft_cap"] },
      { name: "a cap that f32 does not hold", change: { soft_cap: 1e39 }, says: ["soft_cap", "1e+39"] },
      { name: "a bias of another vocabulary", change: { bias: out([5]) }, says: ["bias", "6"] },
      { name: "u without b", change: { b: null }, says: ["b must be a tensor"] },
      { name: "b without u", change: { u: null }, says: ["b", "absent", "no u"] },
      { name: "the gradients of no term", change: { u: null, b: null }, says: ["du", "absent", "no u"] },
      { name: "b of another rank", change: { b: out([6, 3]) }, says: ["b", "[6, 2]"] },
      { name: "b of another vocabulary", change: { b: out([5, 2]) }, says: ["b", "[6, 2]"] },
      { name: "u of other rows", change: { u: out([3, 2]) }, says: ["u", "[4"] },
      { name: "rank 0", change: { u: out([4, 0]), b: out([6, 0]), du: out([4, 0]), db: out([6, 0]) }, says: ["u"] },
      { name: "a bf16 gradient of b", change: { db: out([6, 2], "bf16") }, says: ["db", "f32", "bf16"] },
      { name: "the gradient of no bias", change: { bias: null }, says: ["dbias", "absent"] },
      {
        name: "an empty vocabulary",
        change: { w: out([0, 5]), dw: out([0, 5]), bias: out([0]), dbias: out([0]), labels: i32([-100, -100, -100, -100]) },
        says: ["w"],
      },
    ],
  },
]);

it.each([0, 2])("gradients of x and the head against finite differences, cap %d", async (softCap) => {
  const [T, V, D] = [5, 7, 4];
  const labels = (): HostTensor => i32([3, -100, 0, 6, 3]);
  const args = {
    ...loss(T, V, D, { logitScale: 0.7, gradScale: 1, labels, bias: "f32", softCap, rank: 3 })(new Random("head")),
    dw: zeros("f32", [V, D]),
    db: zeros("f32", [V, 3]),
    dbias: zeros("f32", [V]),
    loss: zeros("f64", [1]),
  };
  const made = await run(device("ref"), "linear_cross_entropy", args);
  await checkGradients({
    inputs: Object.fromEntries(["x", "w", "u", "b", "bias"].map((name) => [name, Float32Array.from(tensor(args, name).values)])),
    gradients: { x: pick(made, "dx"), w: pick(made, "dw"), u: pick(made, "du"), b: pick(made, "db"), bias: pick(made, "dbias") },
    loss: async (i) =>
      pick(
        await run(device("ref"), "linear_cross_entropy", {
          ...args,
          x: f32([T, D], i.x!),
          w: f32([V, D], i.w!),
          u: f32([T, 3], i.u!),
          b: f32([V, 3], i.b!),
          bias: f32([V], i.bias!),
          dx: null,
          dw: null,
          du: null,
          db: null,
          dbias: null,
        }),
        "loss",
      )[0]!,
  });
});
