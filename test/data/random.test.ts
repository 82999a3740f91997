// The random numbers of data: Python's own, and the order of examples that must never change. No GPU.
// Run alone: npx vitest run test/data/random.test.ts

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

test("random.random() of CPython, 2000 times, from seeds of any size", () => {
  // [random.random() for _ in range(2000)], of which 0, 311, 312 (the state is made anew), 623 and 1999
  for (const [seed, ...values] of [
    [0, 0.8444218515250481, 0.39380795178170946, 0.5190037287013293, 0.5198341022016146, 0.35278860284662805],
    [2 ** 32, 0.11299430095636409, 0.744851853306793, 0.5141503636199082, 0.9754333078281795, 0.9601366014566323],
    [2n ** 64n + 5n, 0.5105783769365112, 0.6148313735533631, 0.21741150029817036, 0.8176402376260145, 0.3887665472410683],
    [-(2n ** 53n + 1n), 0.35215327374545125, 0.5233436889599707, 0.9479541327964229, 0.5185470740775122, 0.12086865471595565],
    [2n ** 22400n + 12345n, 0.8585424432926546, 0.3815300863395755, 0.9813252693999326, 0.9113476216775176, 0.9429432021663255],
  ] as const) {
    const random = new PythonRandom(seed);
    const drawn = Array.from({ length: 2000 }, () => random.random());
    expect([0, 311, 312, 623, 1999].map((i) => drawn[i])).toEqual(values);
  }
  expect(new PythonRandom(42.9).random()).toBe(new PythonRandom(42).random());
});

test("the order of data is fixed for good", () => {
  const order = shuffledIndices(1000, 7, 3);
  expect(Array.from(order).sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
  expect(order).toEqual(shuffledIndices(1000, 7, 3));
  expect(order).not.toEqual(shuffledIndices(1000, 7, 4));
  expect(order).not.toEqual(shuffledIndices(1000, 8, 3));
  const orders = [[1, 0], [2 ** 33 + 5, 1], [-7, 2]].map(([seed, epoch]) => [...shuffledIndices(8, seed!, epoch!)].join("")); // prettier-ignore
  expect(orders).toEqual(["13470562", "72506341", "05216734"]);
});

test("below is uniform enough", () => {
  const random = new ShuffleRandom(1);
  const seen = new Array<number>(7).fill(0);
  for (let i = 0; i < 70_000; i++) seen[random.below(7)]!++;
  for (const n of seen) expect(Math.abs(n - 10_000)).toBeLessThan(400);
});

test("below leaves out the numbers that would make some more likely", () => {
  const n = 3 * 2 ** 30; // of 2^32 numbers the last quarter
  const [below, plain] = [new ShuffleRandom(3), new ShuffleRandom(3)];
  for (let i = 0; i < 50; i++) {
    let x = plain.nextUint32();
    while (x >= n) x = plain.nextUint32();
    expect(below.below(n)).toBe(x);
  }
  const eight = new ShuffleRandom(3);
  const all = new ShuffleRandom(3);
  for (let i = 0; i < 50; i++) expect(eight.below(8)).toBe(all.nextUint32() % 8); // 8 divides 2^32
});
