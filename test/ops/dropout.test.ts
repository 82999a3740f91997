// dropout on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript, what share
// is dropped, refusals. No GPU. Alone: npx vitest run test/ops/dropout.test.ts

import { expect, it } from "vitest";
import { dropout, dropoutBase, dropoutCases } from "./cases/dropout.ts";
import { f32, out, Random } from "./host.ts";
import { describeCases, describeRefusals, device, pick, run } from "./support.ts";

describeCases("dropout", dropoutCases);

describeRefusals([
  {
    base: dropoutBase,
    inPlace: ["y=x"],
    rows: [
      { name: "p = 1", change: { p: 1 }, says: ["p", "[0, 1)"] },
      { name: "a negative p", change: { p: -0.1 }, says: ["p", "[0, 1)"] },
      { name: "p not a number", change: { p: NaN }, says: ["p"] },
      { name: "two counters", change: { counter: { dtype: "f64", shape: [2], values: [1, 2] } }, says: ["counter"] },
    ],
  },
]);

const mask = async (options: Parameters<typeof dropout>[2]): Promise<string> => {
  const [R, C] = [64, 256] as const;
  const args = { ...dropout(R, C, options)(new Random("mask")), x: f32([R, C], new Array(R * C).fill(1)), y: out([R, C]) };
  return Array.from(pick(await run(device("ref"), "dropout", args), "y"), (v) => (v === 0 ? "0" : "1")).join("");
};

it("drops the share that it should, and other elements for other counters and seeds", async () => {
  const [one, again, step, term] = [await mask({}), await mask({}), await mask({ counter: 6 }), await mask({ seed: 8 })];
  expect(again).toBe(one);
  for (const m of [one, step, term]) expect(m.replaceAll("1", "").length / m.length).toBeCloseTo(0.3, 1.5);
  for (const m of [step, term]) {
    const same = [...one].filter((x, i) => x === m[i]).length / one.length;
    expect(same).toBeGreaterThan(0.55); // 0.7² + 0.3²
    expect(same).toBeLessThan(0.61);
  }
});
