// Several streams of one device: events order them and nothing else does, scratch is each one's own, memory that is freed while one uses
// it is not handed to another. Under the emulation streams interleave by a seed. Alone: npx vitest run test/cuda/streams.test.ts

import { expect, it } from "vitest";
import * as ops from "../../lib/ops.ts";
import { Device, TensorList } from "../../lib/tensor.ts";
import type { Tensor } from "../../lib/tensor.ts";
import { withCuda } from "./support.ts";

const seeds = [1, 2, 3, 4, 5, 6].map((n) => `random:${n}` as const);
const N = 64;
const full = (value: number): number[] => Array.from({ length: N }, () => value);

/** A device of two streams under the schedule, which both read when they are made. `caching`: it keeps freed memory, as a GPU does. */
async function opened(schedule: string, caching = false): Promise<Device> {
  Object.assign(process.env, { ESFT_EMU_SCHEDULE: schedule, ...(caching ? { ESFT_CUDA_CACHE: "1" } : {}) });
  try {
    const device = new Device({ kind: "cuda" });
    device.handle.stream(1);
    device.handle.stream(0);
    await device.synchronize();
    return device;
  } finally {
    delete process.env.ESFT_CUDA_CACHE;
    delete process.env.ESFT_EMU_SCHEDULE;
  }
}

/** y = 2·2¹⁰·x in two parts: ten doublings on one stream, the sum on the other. */
function submitParts(device: Device, { x, y }: { x: Tensor; y: Tensor }, first: number, ordered: boolean): void {
  const { handle } = device;
  handle.stream(first);
  for (let i = 0; i < 10; i++) ops.scale(device, { x, factor: 2 });
  if (ordered) handle.order(first, 1 - first);
  handle.stream(1 - first);
  ops.add(device, { a: x, b: x, y });
  if (ordered) handle.order(1 - first, first);
  handle.stream(0);
}

async function parts(schedule: string, first: number, ordered: boolean): Promise<number[]> {
  using device = await opened(schedule);
  using x = device.tensor("f32", [N], full(1));
  using y = device.empty("f32", [N]);
  await device.synchronize();
  submitParts(device, { x, y }, first, ordered);
  return [...(await y.readF32())];
}

withCuda("streams on cuda", () => {
  it("an event orders two streams", async () => {
    for (const schedule of ["eager", "late", ...seeds] as const)
      for (const first of [0, 1]) expect(await parts(schedule, first, true), `${schedule} ${first}`).toEqual(full(2048));
  });

  it("without it some schedule of the emulation shows that nothing does", async (test) => {
    using any = await opened("eager");
    if (!any.info.emulated) return test.skip("a GPU may happen to run them in order");
    for (const first of [0, 1]) {
      const right = [];
      for (const schedule of ["late", ...seeds] as const) right.push((await parts(schedule, first, false))[0] === 2048);
      expect(right, `from stream ${first}`).toContain(false);
    }
  });

  it("each has scratch of its own", async () => {
    for (const schedule of ["eager", "late", ...seeds] as const) {
      using device = await opened(schedule);
      const n = 1 << 16;
      const grads = [3, 5].map((v) => device.tensor("f32", [n], new Float32Array(n).fill(v)));
      const norms = grads.map(() => device.empty("f64", [1]));
      const lists = grads.map((g) => new TensorList([g]));
      for (const s of [0, 1]) ops.gradNorm(device, { grads: lists[s]!, norm: norms[s]! }); // their tables are there
      await device.synchronize();
      for (const s of [1, 0, 1, 0]) {
        device.handle.stream(s);
        ops.gradNorm(device, { grads: lists[s]!, norm: norms[s]! });
      }
      const got = [];
      for (const norm of norms) got.push((await norm.readF64())[0]!);
      expect(got, schedule).toEqual([3 * 256, 5 * 256]);
      for (const t of [...grads, ...norms, ...lists]) t.dispose();
    }
  });

  it("a table that one stream brought is there for the other", async () => {
    for (const schedule of ["eager", "late", ...seeds] as const) {
      using device = await opened(schedule);
      using grad = device.tensor("f32", [4096], new Float32Array(4096).fill(3));
      using list = new TensorList([grad]);
      const norms = [0, 1].map(() => device.empty("f64", [1]));
      await device.synchronize();
      for (const s of [1, 0]) {
        device.handle.stream(s);
        ops.gradNorm(device, { grads: list, norm: norms[s]! });
      }
      for (const norm of norms) expect((await norm.readF64())[0], schedule).toBe(3 * 64);
      for (const t of norms) t.dispose();
    }
  });

  it("memory freed while one stream uses it is not written by another", async () => {
    for (const schedule of ["late", ...seeds]) {
      using device = await opened(schedule, true);
      device.handle.stream(1);
      const a = device.tensor("f32", [N], full(1));
      using y = device.empty("f32", [N]);
      for (let i = 0; i < 10; i++) ops.scale(device, { x: a, factor: 2 });
      ops.add(device, { a, b: a, y });
      a.dispose();
      await new Promise((resolve) => setTimeout(resolve, 5)); // submitted by now, so that the block is free
      device.handle.stream(0);
      using b = device.tensor("f32", [N], full(7));
      expect([...(await y.readF32())], schedule).toEqual(full(2048));
      expect([...(await b.readF32())], schedule).toEqual(full(7));
    }
  });

  it("a graph of two streams keeps their order", async () => {
    for (const schedule of ["eager", "late", ...seeds] as const) {
      using device = await opened(schedule);
      using x = device.tensor("f32", [N], full(1));
      using y = device.empty("f32", [N]);
      submitParts(device, { x, y }, 0, true);
      using graph = await device.capture(() => submitParts(device, { x, y }, 1, true));
      await device.synchronize();
      device.handle.stream(1);
      for (let i = 0; i < 2; i++) {
        ops.scale(device, { x, factor: 2 }); // comes before the graph, or after it
        graph.launch();
      }
      ops.scale(device, { x, factor: 2 });
      expect([...(await y.readF32())], schedule).toEqual(full(2 ** 33));
      expect([...(await x.readF32())], schedule).toEqual(full(2 ** 33));
    }
  });

  it("refuses streams that are not there", async () => {
    using device = await opened("eager");
    const { handle } = device;
    expect(() => handle.stream(-1)).toThrow(/stream: .*index/);
    for (const [call, words] of [
      [() => handle.stream(100), /index.*0\.\.\d.*the next number makes one more/],
      [() => handle.order(0, 100), /after.*one of the \d streams/],
    ] as const) {
      call();
      await expect(device.synchronize()).rejects.toThrow(words);
    }
    using x = device.tensor("f32", [N], full(1));
    expect([...(await x.readF32())]).toEqual(full(1));
  });
});

it("a device with one queue says so", () => {
  using device = new Device({ threads: 1 });
  expect(() => device.handle.stream(0)).toThrow(/the cpu backend has one queue/);
  expect(() => device.handle.order(0, 0)).toThrow(/the cpu backend has one queue/);
});
