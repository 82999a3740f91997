import { expect, test } from "vitest";
import { PythonRandom } from "../../lib/data/mt19937.ts";
import { shuffledIndices, ShuffleRandom } from "../../lib/data/shuffle.ts";

test("random.random() of CPython", () => {
  const zero = new PythonRandom(0);
  expect([zero.random(), zero.random()]).toEqual([0.8444218515250481, 0.7579544029403025]);
  expect(new PythonRandom(42).random()).toBe(0.6394267984578837);
  expect(new PythonRandom(-42).random()).toBe(0.6394267984578837);
  expect(new PythonRandom(12345).random()).toBe(0.41661987254534116);
});

test("the order of data is fixed for good", () => {
  const order = shuffledIndices(1000, 7, 3);
  expect(Array.from(order).sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
  expect(order).toEqual(shuffledIndices(1000, 7, 3));
  expect(order).not.toEqual(shuffledIndices(1000, 7, 4));
  expect(order).not.toEqual(shuffledIndices(1000, 8, 3));
  expect(Array.from(shuffledIndices(8, 1, 0))).toMatchInlineSnapshot(`
    [
      1,
      3,
      4,
      7,
      0,
      5,
      6,
      2,
    ]
  `);
});

test("below is uniform enough", () => {
  const random = new ShuffleRandom(1);
  const seen = new Array<number>(7).fill(0);
  for (let i = 0; i < 70_000; i++) seen[random.below(7)]!++;
  for (const n of seen) expect(Math.abs(n - 10_000)).toBeLessThan(400);
});
