// grouped_column_sum on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript,
// refusals; its gradients: grouped_gemm.test.ts. No GPU. Alone: npx vitest run test/ops/grouped_column_sum.test.ts

import { groupedColumnSumBase, groupedColumnSumCases } from "./cases/grouped_column_sum.ts";
import { i32, out } from "./host.ts";
import { describeCases, describeRefusals } from "./support.ts";

describeCases("grouped_column_sum", groupedColumnSumCases);
describeRefusals([
  {
    base: groupedColumnSumBase,
    freeRows: ["x"],
    rows: [
      { name: "an index beyond the rows", change: { rows: i32([0, 1, 2, 3, 4, 0, 5]) }, says: ["rows[6]", "0..4", "received 5"] },
      { name: "descending offsets", change: { offsets: i32([0, 4, 3, 7]) }, says: ["offsets[2]", "received 3"] },
      { name: "offsets beyond the rows", change: { offsets: i32([0, 3, 3, 8]) }, says: ["offsets[3]", "at most 7", "received 8"] },
      { name: "offsets of no expert", change: { offsets: i32([0]), groups: [] }, says: ["offsets"] },
      { name: "segments = 0", change: { segments: 0 }, says: ["segments", "received 0"] },
      { name: "a group beyond the experts", change: { groups: [0, 3] }, says: ["groups", "0..2", "3 at position 1"] },
      { name: "a vector too few", change: { y: [out([4])] }, says: ["y", "2 x 2 vectors", "received 1"] },
      { name: "vectors of other lengths", change: { y: [4, 4, 4, 3].map((n) => out([n])) }, says: ["y[3]", "4 elements"] },
      { name: "columns too many", change: { y: [4, 5, 4, 5].map((n) => out([n])) }, says: ["x", "[*, 9]"] },
      { name: "accumulate = 2", change: { accumulate: 2 }, says: ["accumulate"] },
    ],
  },
]);
