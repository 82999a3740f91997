// regroup on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript,
// refusals. No GPU. Alone: npx vitest run test/ops/regroup.test.ts

import { regroupBase, regroupCases } from "./cases/delta.ts";
import { describeCases, describeRefusals } from "./support.ts";

describeCases("regroup", regroupCases);

describeRefusals([
  {
    base: regroupBase,
    rows: [
      { name: "no widths", change: { widths: [] }, says: ["widths", "1 to 8"] },
      { name: "nine widths", change: { widths: [1, 1, 1, 1, 1, 1, 1, 1, 1] }, says: ["widths", "1 to 8"] },
      { name: "a width of 0", change: { widths: [0, 4] }, says: ["widths", "received 0"] },
      { name: "no groups", change: { groups: 0 }, says: ["groups"] },
      { name: "widths that do not fill the columns", change: { widths: [1, 2] }, says: ["x", "6"] },
      { name: "inverse = 2", change: { inverse: 2 }, says: ["inverse"] },
    ],
  },
]);
