// Sums of routed slots and gate weights on the device: they add up by layer, begin anew, and go on from sums of before. No GPU.
// Alone: npx vitest run test/experts/counting.test.ts

import { afterAll, beforeAll, expect, it } from "vitest";
import { ExpertCounts } from "../../lib/experts/counting.ts";
import { Device } from "../../lib/tensor.ts";

let device: Device;
beforeAll(() => void (device = new Device({ kind: "cpu", threads: 1 })));
afterAll(() => device.dispose());

it("add up by layer, whatever their numbers of experts", async () => {
  const sums = new ExpertCounts(device, new Map([[2, 3], [5, 2]])); // prettier-ignore
  /** A batch of two tokens of two experts each. */
  const observe = (layer: number, ids: number[], weights: number[]): void => {
    using i = device.tensor("i32", [2, 2], Int32Array.from(ids));
    using w = device.tensor("f32", [2, 2], Float32Array.from(weights));
    sums.observe(layer, i, w);
  };
  sums.reset();
  expect([...(await sums.read())]).toEqual([[2, { counts: [0, 0, 0], gateSums: [0, 0, 0] }], [5, { counts: [0, 0], gateSums: [0, 0] }]]); // prettier-ignore
  observe(2, [0, 2, 2, 1], [0.5, 0.25, 0.125, 1]);
  observe(5, [1, 0, 1, 0], [1, 2, 4, 8]);
  observe(5, [0, 1, 0, 1], [0.5, 0, 0, 0]);
  const all = await sums.read();
  expect([...all]).toEqual([[2, { counts: [1, 1, 2], gateSums: [0.5, 1, 0.375] }], [5, { counts: [4, 4], gateSums: [10.5, 5] }]]); // prettier-ignore
  sums.reset();
  observe(2, [0, 1, 0, 1], [1, 1, 1, 1]);
  expect((await sums.read()).get(2)).toEqual({ counts: [2, 2, 0], gateSums: [2, 2, 0] });
  expect((await sums.read()).get(5)).toEqual({ counts: [0, 0], gateSums: [0, 0] });
  sums.write((layer) => all.get(layer)!);
  observe(5, [1, 0, 1, 0], [1, 0, 0, 0]);
  expect([...(await sums.read()).values()]).toEqual([all.get(2), { counts: [6, 6], gateSums: [10.5, 6] }]);
  expect(sums.layout.size).toBe(2);
  sums[Symbol.dispose]();
  await expect(sums.read()).rejects.toThrow(/disposed/);
  expect(() => observe(2, [0, 1, 0, 1], [1, 1, 1, 1])).toThrow(/disposed/);
});
