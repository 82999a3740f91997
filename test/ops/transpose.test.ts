// transpose on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript,
// refusals. No GPU. Alone: npx vitest run test/ops/transpose.test.ts

import { transpose, transposeBase, transposeCases } from "./cases/transpose.ts";
import { out, Random } from "./host.ts";
import { describeCases, describeRefusals } from "./support.ts";

describeCases("transpose", transposeCases);

const odd = transpose(3, 5, 0)(new Random("odd"));
describeRefusals([
  {
    base: transposeBase,
    rows: [
      { name: "y not transposed", change: { y: out([4, 6]) }, says: ["y", "[6, 4]", "[4, 6]"] },
      { name: "an odd number of columns to split", change: { ...odd, pairs: 1 }, says: ["x", "even number of columns"] },
      { name: "an odd number of rows to join", change: { ...odd, pairs: 2 }, says: ["x", "even number of rows"] },
      { name: "pairs = 3", change: { pairs: 3 }, says: ["pairs", "0..2"] },
      { name: "integers", change: { x: out([4, 6], "i32") }, says: ["x", "i32"] },
    ],
  },
]);
