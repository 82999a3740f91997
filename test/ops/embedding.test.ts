// embedding on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/embedding.test.ts

import { it } from "vitest";
import { embeddingBackwardBase, embeddingBase, embeddingCases } from "./cases/dense.ts";
import { Random, f32, i32, tensor, zeros } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run, weighted } from "./support.ts";

describeCases("embedding", embeddingCases);

const rows = [
  { name: "an id beyond the table", change: { ids: i32([0, 1, 6, 2]) }, says: ["ids[2]", "0..5", "received 6"] },
  { name: "a negative id", change: { ids: i32([-1, 1, 0, 2]) }, says: ["ids[0]", "received -1"] },
  { name: "an infinite scale", change: { scale: Infinity }, says: ["scale"] },
];
describeRefusals([
  { base: embeddingBase, rows, freeRows: ["table"] },
  { base: embeddingBackwardBase, rows, freeRows: ["dtable"] },
]);

it("gradient of the table against finite differences", async () => {
  const random = new Random("embedding");
  const args = { ...embeddingBase.args(random), scale: 1.5 };
  const c = random.normal([4, 5]);
  const made = await run(device("ref"), "embedding_backward", {
    ids: tensor(args, "ids"),
    dy: c,
    dtable: zeros("f32", [6, 5]),
    scale: 1.5,
  });
  await checkGradients({
    inputs: { table: Float32Array.from(tensor(args, "table").values) },
    gradients: { table: pick(made, "dtable") },
    loss: async (i) => weighted(pick(await run(device("ref"), "embedding", { ...args, table: f32([6, 5], i.table!) }), "y"), c.values),
  });
});
