// multiply on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/multiply.test.ts

import { it } from "vitest";
import { multiplyBackwardBase, multiplyBase, multiplyCases } from "./cases/delta.ts";
import { Random, f32, out } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run, weighted } from "./support.ts";

describeCases("multiply", multiplyCases);

const rows = [{ name: "silu = 2", change: { silu: 2 }, says: ["silu"] }];
describeRefusals([
  { base: multiplyBase, rows, inPlace: ["y=a", "y=b"] },
  { base: multiplyBackwardBase, rows, inPlace: ["da=dy", "da=a", "db=dy", "db=b"] },
]);

it("gradients of both factors against finite differences", async () => {
  const shape = [3, 6];
  const random = new Random("multiply");
  const [a, b, c] = [random.normal(shape), random.normal(shape), random.normal(shape)];
  const forward = async (i: Readonly<Record<string, Float32Array>>) =>
    run(device("ref"), "multiply", { a: f32(shape, i.a!), b: f32(shape, i.b!), y: out(shape), silu: 1 });
  const made = await run(device("ref"), "multiply_backward", { dy: c, a, b, da: out(shape), db: out(shape), silu: 1 });
  await checkGradients({
    inputs: { a: Float32Array.from(a.values), b: Float32Array.from(b.values) },
    gradients: { a: pick(made, "da"), b: pick(made, "db") },
    loss: async (i) => weighted(pick(await forward(i), "y"), c.values),
  });
});
