// The queue of a device when an op fails: what was submitted after it is skipped, every wait of that stretch says why, and what comes
// after the failure was seen runs again. No GPU. Alone: npx vitest run test/addon/queue.test.ts

import { expect, it } from "vitest";
import { DisposedError, KernelError } from "../../lib/errors.ts";
import * as ops from "../../lib/ops.ts";
import { Device } from "../../lib/tensor.ts";

/** An op that is accepted and fails when it runs: an index beyond its table. */
function failing(d: Device, index: number): void {
  ops.embedding(d, { ids: d.tensor("i32", [1], [index]), table: d.empty("f32", [2, 3]), y: d.empty("f32", [1, 3]) });
}

it("skips what follows a failure until a wait has told of it, again and again", async () => {
  await using d = new Device({ threads: 1 });
  const y = d.empty("f32", [2]);
  for (let round = 1; round <= 3; round++) {
    ops.fill(d, { x: y, value: round });
    failing(d, 10 * round);
    ops.fill(d, { x: y, value: -1 });
    failing(d, 99);
    const waits = await Promise.allSettled([d.synchronize(), y.readF32(), d.synchronize()]);
    for (const wait of waits) {
      expect(wait.status).toBe("rejected");
      expect((wait as PromiseRejectedResult).reason).toBeInstanceOf(KernelError);
      expect(String((wait as PromiseRejectedResult).reason)).toContain(`ids[0] must be in 0..1, received ${10 * round}`);
    }
    expect([...(await y.readF32())], "as it was before the failure").toEqual([round, round]);
    ops.fill(d, { x: y, value: 10 });
    expect([...(await y.readF32())]).toEqual([10, 10]);
    await d.synchronize();
  }
});

it("a failure that nobody waited for is told by the next wait, and only once", async () => {
  await using d = new Device({ threads: 1 });
  const y = d.empty("f32", [1]);
  failing(d, 7);
  ops.fill(d, { x: y, value: 3 });
  await expect(y.readF32()).rejects.toThrow(/received 7/);
  await d.synchronize();
  expect([...(await y.readF32())]).toEqual([0]);
});

it("waits that are pending when the device goes reject, later calls are refused", async () => {
  const d = new Device({ kind: "ref" });
  const x = d.empty("f32", [160, 160]);
  for (let i = 0; i < 20; i++) ops.gemm(d, "nt", { a: x, b: x, c: d.empty("f32", [160, 160]) });
  const waits = [x.readF32(), d.synchronize()].map((wait) => expect(wait).rejects.toBeInstanceOf(DisposedError));
  d.dispose();
  await Promise.all(waits);
  expect(() => ops.fill(d, { x, value: 1 })).toThrow(DisposedError);
  await expect(d.synchronize()).rejects.toBeInstanceOf(DisposedError);
});

it("a list is of one device", () => {
  using a = new Device({ threads: 1 });
  using b = new Device({ threads: 1 });
  const [x, y] = [a.empty("f32", [2]), b.empty("f32", [2])];
  expect(() => a.list([x, y])).toThrow(/^TensorList: tensors must be of one device, received another device at index 1/);
  const norm = b.empty("f64", [1]);
  expect(() => ops.gradNorm(b, { grads: a.list([x]), norm })).toThrow(/^grad_norm: grads must be a tensor of the same device/);
  expect(() => ops.gradNorm(b, { grads: a.list([]), norm })).not.toThrow();
});

it("lets timers, requests and signals in while many short waits follow one another", async () => {
  await using d = new Device({ threads: 1 });
  const y = d.empty("f32", [1]);
  let [turns, waits, over] = [0, 0, false];
  const turn = (): void => {
    turns++;
    if (!over) setImmediate(turn);
  };
  setImmediate(turn);
  for (; waits < 600; waits++) {
    ops.fill(d, { x: y, value: waits });
    await d.synchronize();
  }
  over = true;
  expect(turns).toBeGreaterThan(waits / 3); // one turn of the event loop takes in two waits at most
});
