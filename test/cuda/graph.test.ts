// A recorded training step replays to the bits of the same ops submitted one by one; what cannot be recorded is refused, and a
// recording that failed leaves the device as it was. Alone: npx vitest run test/cuda/graph.test.ts

import { expect, it } from "vitest";
import { KernelError } from "../../lib/errors.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import * as ops from "../../lib/ops.ts";
import { Device } from "../../lib/tensor.ts";
import type { Tensor } from "../../lib/tensor.ts";
import { AdamW } from "../../lib/train/optimizer.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { experts, open, patience, tinyCheckpoint, withCudaModel } from "./model.ts";

const batchOf = (length: number, seed: number) => {
  const ids = Array.from({ length }, (_, i) => (i * 37 + seed) % 97);
  return hostBatch([{ ids, targets: Int32Array.from(ids, (_, t) => (t + 1 < length ? ids[t + 1]! : -100)) }]);
};

withCudaModel("graphs on cuda", () => {
  const at = tinyCheckpoint();

  it(
    "a recorded step, launched on two batches, gives the bits of the eager one",
    async () => {
      await using model = await open(at("model"));
      const { device, params, transformer } = model;
      const state = params.train(esftTrainable(model.spec, experts).keys);
      const batches = [batchOf(24, 11), batchOf(24, 5)];
      const optimizer = new AdamW(device, state, { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1 });
      let staged = transformer.stage(batches[0]!);
      const step = (): void => {
        transformer.resetLoss();
        transformer.forwardBackwardStaged(staged, {}, false);
        optimizer.update();
      };
      const prepare = (): void => {
        optimizer.steps = 0;
        transformer.setGradScale(1 / batches[0]!.supervised);
        optimizer.prepare(1e-3);
      };
      const outcome = async () => ({
        ...(await transformer.readLoss()),
        norm: await optimizer.readNorm(),
        grad: Buffer.from(await state.grad.readBytes()),
        master: Buffer.from(await state.master.readBytes()),
        copy: Buffer.from(await state.parameters[0]!.value.readBytes()),
      });
      const start = new Float32Array(await state.master.readBytes());
      const reset = (): void => {
        for (const t of [state.m, state.v]) ops.fill(device, { x: t, value: 0 });
        state.master.write(start);
        params.refreshCopies();
      };
      const eager = [];
      for (const batch of batches) {
        staged = transformer.stage(batch);
        prepare();
        step();
        eager.push(await outcome());
      }
      reset();
      staged = transformer.stage(batches[0]!);
      const graph = await device.capture(step);
      expect(Buffer.from(await state.master.readBytes()).equals(Buffer.from(start.buffer))).toBe(true); // recorded, not run
      for (const [i, batch] of batches.entries()) {
        transformer.stage(batch);
        prepare();
        graph.launch();
        expect(await outcome()).toEqual(eager[i]);
      }
      expect(eager[0]!.loss).toBeGreaterThan(0);
      expect(eager[1]!.master.equals(eager[0]!.master)).toBe(false);
      graph.dispose();
      expect(() => graph.launch()).toThrow(/disposed/);
      optimizer.dispose();
    },
    patience,
  );

  it(
    "a recorded step, launched a hundred times, gives the bits of a hundred eager ones",
    async () => {
      await using model = await open(at("model"));
      const { device, params, transformer } = model;
      const router = model.spec.layers.flatMap(({ mlp }) => (mlp.kind === "moe" ? [mlp.router] : []));
      expect(router.length).toBeGreaterThan(0);
      const state = params.train(fullTrainable(model.spec).keys); // the router too
      const batch = batchOf(4, 11);
      const optimizer = new AdamW(device, state, { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1 });
      const staged = transformer.stage(batch);
      const step = (): void => {
        transformer.resetLoss();
        transformer.forwardBackwardStaged(staged, {}, false);
        optimizer.update();
      };
      const start = new Float32Array(await state.master.readBytes());
      const hundred = async (run: () => void) => {
        for (const t of [state.m, state.v]) ops.fill(device, { x: t, value: 0 });
        state.master.write(start);
        params.refreshCopies();
        optimizer.steps = 0;
        for (let i = 0; i < 100; i++) {
          transformer.balance = 0.01 + 0.001 * (i % 5);
          transformer.setGradScale(1 / (batch.supervised + (i % 3)));
          optimizer.prepare(1e-2 * Math.min(1, (i + 1) / 10) * (1 - i / 150));
          run();
        }
        const bytes = async (t: Tensor) => Buffer.from(await t.readBytes());
        return { ...(await transformer.readLoss()), norm: await optimizer.readNorm(), master: await bytes(state.master), m: await bytes(state.m), v: await bytes(state.v) }; // prettier-ignore
      };
      const eager = await hundred(step);
      const graph = await device.capture(step);
      const replayed = await hundred(() => graph.launch());
      for (const [name, value] of Object.entries(eager)) expect(replayed[name as keyof typeof replayed], name).toEqual(value);
      expect(eager.master.equals(Buffer.from(start.buffer))).toBe(false);
      transformer.balance = 0;
      graph.dispose();
      optimizer.dispose();
    },
    patience,
  );

  it("keeps the memory that it uses, and gives back what was freed meanwhile", async () => {
    using device = new Device({ kind: "cuda" });
    const x = device.tensor("f32", [64], new Float32Array(64).fill(3));
    const y = device.empty("f32", [64]);
    const other = device.empty("f32", [64]);
    const op = (): void => ops.add(device, { a: x, b: x, y });
    op();
    const graph = await device.capture(() => {
      op();
      other.dispose();
    });
    const result = y.view(0, [64]);
    x.dispose();
    y.dispose();
    for (let i = 0; i < 4; i++) device.tensor("f32", [64], new Float32Array(64).fill(9)).dispose();
    graph.launch();
    expect([...(await result.readF32())]).toEqual(Array.from({ length: 64 }, () => 6));
    graph.dispose();
  });

  it("refuses what cannot be recorded; the device goes on", async () => {
    using device = new Device({ kind: "cuda" });
    const x = device.tensor("f32", [8], [1, 2, 3, 4, 5, 6, 7, 8]);
    const op = (): void => ops.scale(device, { x, factor: 2 });
    const refused: [string, () => unknown, RegExp][] = [
      ["alloc", () => device.empty("f32", [8]), /alloc: not possible while a graph is recorded/],
      ["write", () => x.write(new Float32Array(8)), /write: not possible while a graph is recorded/],
      ["capture", () => device.handle.captureBegin(), /capture: not possible while a graph is recorded/],
      ["promise", async () => Promise.resolve(), /must return at once/],
      ["bad op", () => ops.add(device, { a: x, b: x.view(0, [4]), y: x }), /add: /],
    ];
    for (const [name, work, message] of refused) {
      await expect(
        device.capture(() => (op(), work() as undefined)),
        name,
      ).rejects.toThrow(message);
      await expect(
        device.capture(() => (op(), work() as undefined)),
        name,
      ).rejects.toBeInstanceOf(KernelError);
    }
    let reads: Promise<PromiseSettledResult<unknown>[]> | null = null;
    const quiet = await device.capture(() => {
      reads = Promise.allSettled([x.readF32(), device.synchronize()]);
    });
    quiet.dispose();
    expect((await reads!).map((r) => r.status)).toEqual(["rejected", "rejected"]);
    const [pending, second] = [device.capture(op), device.capture(op)];
    device.empty("f32", [8]).dispose(); // taken when both are recorded
    const graph = await pending;
    (await second).dispose();
    expect([...(await x.readF32())]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    graph.launch();
    graph.launch();
    expect([...(await x.readF32())]).toEqual([4, 8, 12, 16, 20, 24, 28, 32]);
    graph.dispose();
    let t: Tensor | null = null;
    expect(() => (t = device.empty("f32", [8]))).not.toThrow();
    t!.dispose();
  });

  it("a device disposed while it records, or with a graph, ends well", async () => {
    const device = new Device({ kind: "cuda" });
    const x = device.tensor("f32", [8], [1, 2, 3, 4, 5, 6, 7, 8]);
    const graph = await device.capture(() => ops.scale(device, { x, factor: 2 }));
    graph.launch();
    device.dispose();
    graph.dispose();
    x.dispose();
    const second = new Device({ kind: "cuda" });
    await expect(second.capture(() => second.dispose())).rejects.toThrow();
  });
});
