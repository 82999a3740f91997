// Sorting and counting on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/expert_sort.test.ts

import { expect, it } from "vitest";
import { countBase, countCases, sort, sortBase, sortCases } from "./cases/routing.ts";
import { i32, out, Random } from "./host.ts";
import { Call, describeCases, describeRefusals, device, run } from "./support.ts";

describeCases("expert_sort", [...sortCases, ...countCases]);

const ids = [
  {
    name: "an expert that does not exist",
    change: { ids: i32([0, 1, 2, 3, 0, 1, 4, 2, 3, 0], [5, 2]) },
    says: ["ids[3, 0]", "0..3", "received 4"],
  },
  { name: "a negative expert", change: { ids: i32([0, 1, 2, 3, 0, 1, 2, 2, 3, -1], [5, 2]) }, says: ["ids[4, 1]", "received -1"] },
  { name: "a huge expert", change: { ids: i32([2147483647, 1, 2, 3, 0, 1, 2, 2, 3, 1], [5, 2]) }, says: ["ids[0, 0]", "2147483647"] },
];
describeRefusals([
  {
    base: sortBase,
    freeCols: ["offsets"], // E follows from offsets
    rows: [
      ...ids,
      { name: "weights without gate", change: { gate: null }, says: ["gate", "exactly when"] },
      { name: "gate without weights", change: { weights: null }, says: ["gate", "exactly when"] },
      { name: "offsets of no expert", change: { offsets: out([1], "i32") }, says: ["offsets"] },
    ],
  },
  { base: countBase, rows: [...ids, { name: "i32 counts", change: { counts: out([4], "i32") }, says: ["counts", "i64", "i32"] }] },
]);

it("chunks that are sorted at the same time keep the order of one pass", async () => {
  const args = sort(300_000, 2, 5, { weights: false })(new Random("chunks"));
  const want = await run(device("ref"), "expert_sort", args);
  const call = new Call(device("cpu", 3), "expert_sort", args);
  for (let again = 0; again < 20; again++) {
    call.submit();
    for (const [i, { name, bytes }] of (await call.outputs()).entries()) expect(Buffer.compare(bytes, want[i]!.bytes), name).toBe(0);
  }
  call.dispose();
});
