// Recordings on a device without graphs of its own: ops are kept instead of run, and a launch runs them in their order, on what their
// memory holds then. What a failed one leaves behind, and what memory they keep. Alone: npx vitest run test/addon/recordings.test.ts

import { afterEach, beforeEach, expect, it } from "vitest";
import { KernelError } from "../../lib/errors.ts";
import * as ops from "../../lib/ops.ts";
import { Device } from "../../lib/tensor.ts";
import type { Tensor } from "../../lib/tensor.ts";

let device: Device;
beforeEach(() => (device = new Device({ kind: "cpu", threads: 2 })));
afterEach(() => device.dispose());

const values = async (t: Tensor): Promise<number[]> => [...(await t.readF32())];

it("run when they are launched, in their order, as often as they are", async () => {
  expect(device.info.graphs).toBe(false);
  using x = device.tensor("f32", [3], [1, 2, 3]);
  using y = device.empty("f32", [3]);
  using graph = await device.capture(() => {
    ops.scale(device, { x, factor: 2 });
    ops.add(device, { a: x, b: x, y });
  });
  expect([await values(x), await values(y)]).toEqual([
    [1, 2, 3],
    [0, 0, 0],
  ]);
  graph.launch();
  expect(await values(y)).toEqual([4, 8, 12]);
  x.write([1, 0, -1]);
  graph.launch();
  ops.add(device, { a: x, b: y, y: x }); // before and after others
  graph.launch();
  expect([await values(x), await values(y)]).toEqual([
    [12, 0, -12],
    [24, 0, -24],
  ]);
});

it("refuse what is no op and what is no valid one, and go on", async () => {
  using x = device.tensor("f32", [3], [1, 2, 3]);
  const refused: [() => unknown, RegExp][] = [
    [() => device.empty("f32", [8]), /alloc: not possible while a graph is recorded/],
    [() => x.write([1, 2, 3]), /write: not possible while a graph is recorded/],
    [() => ops.add(device, { a: x, b: x.view(0, [2]), y: x }), /add: /],
    [() => Promise.resolve(), /must return at once/],
  ];
  for (const [work, message] of refused) await expect(device.capture(work)).rejects.toThrow(message);
  let read: Promise<unknown> | null = null;
  using graph = await device.capture(() => {
    ops.scale(device, { x, factor: 2 });
    read = x.readF32();
    read.catch(() => undefined);
  });
  await expect(read).rejects.toThrow(/read: not possible while a graph is recorded/);
  expect(await values(x)).toEqual([1, 2, 3]);
  graph.launch();
  expect(await values(x)).toEqual([2, 4, 6]);
});

it("fail as the ops would, skip the rest, and can be launched again", async () => {
  using ids = device.tensor("i32", [2], [0, 1]);
  using table = device.tensor("f32", [2, 2], [1, 2, 3, 4]);
  using y = device.empty("f32", [2, 2]);
  using count = device.tensor("f32", [1], [1]);
  using graph = await device.capture(() => {
    ops.scale(device, { x: count, factor: 2 });
    ops.embedding(device, { ids, table, y, scale: 1 });
    ops.scale(device, { x: count, factor: 2 });
  });
  ids.write([0, 2]);
  graph.launch();
  graph.launch(); // skipped as what comes behind a failure is
  const failure = await y.readF32().catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(KernelError);
  expect(failure).toMatchObject({ message: expect.stringMatching(/^embedding: /) as string, where: { op: "embedding" } });
  ids.write([1, 0]);
  expect(await values(count)).toEqual([2]);
  graph.launch();
  expect([await values(y), await values(count)]).toEqual([[3, 4, 1, 2], [8]]);
});

it("keep the memory that they use, and nothing once they are disposed", async () => {
  const MiB = 2 ** 20;
  const before = process.memoryUsage.rss();
  const grown = (): number => (process.memoryUsage.rss() - before) / MiB;
  const x = device.empty("f32", [64 * MiB]);
  using sum = device.empty("f64", [1]);
  ops.fill(device, { x, value: 1 });
  const graph = await device.capture(() => ops.fill(device, { x, value: 2 }));
  const first = x.view(0, [1]);
  x.dispose();
  graph.launch();
  expect(await values(first)).toEqual([2]);
  first.dispose();
  await device.synchronize();
  expect(grown()).toBeGreaterThan(200);
  graph.launch();
  graph.dispose(); // on its way: it goes when it has run
  await sum.readF64();
  await device.synchronize();
  expect(grown()).toBeLessThan(60);
  expect(() => graph.launch()).toThrow(/disposed/);
});

it("end with their device, in the middle too", async () => {
  using other = new Device({ kind: "ref" });
  const x = other.tensor("f32", [1], [3]);
  const graph = await other.capture(() => ops.scale(other, { x, factor: 2 }));
  graph.launch();
  expect(await values(x)).toEqual([6]);
  other.dispose();
  expect(() => graph.launch()).toThrow(/disposed/);
  graph.dispose();
  await expect(device.capture(() => device.dispose())).rejects.toThrow();
});
