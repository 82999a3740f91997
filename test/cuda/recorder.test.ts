// A run whose passes are graphs delivers the bits of one that submits every op: micro-batches of several sizes, resumed in the middle, with
// graphs that give way to others; what cannot be recorded is told and submitted op by op. Alone: npx vitest run test/cuda/recorder.test.ts

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, it, vi } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ConfigError, KernelError } from "../../lib/errors.ts";
import type { TrainEvent } from "../../lib/index.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import * as ops from "../../lib/ops.ts";
import { Device, Graph } from "../../lib/tensor.ts";
import { Recorder } from "../../lib/tensor/recorder.ts";
import type { TrainRequest } from "../../lib/train/request.ts";
import { toyRows } from "../support/tiny_model.ts";
import { open, patience, tinyCheckpoint, train, withCudaModel } from "./model.ts";

afterEach(() => {
  vi.restoreAllMocks();
  delete process.env.ESFT_CUDA_GRAPH;
});

/** Rows on their own: micro-batches of as many sizes as there are lengths, two to an update. */
const request = {
  data: { rows: Dataset.fromRows(toyRows(12)), maxLength: 32, packing: "none" },
  rowsPerStep: 2,
  microBatch: 1,
  evalFraction: 0,
  steps: 12,
} as const satisfies Partial<TrainRequest>;

const numbers = (events: readonly TrainEvent[]) =>
  events.flatMap((e) => (e.type === "step" ? [[e.step, e.loss, e.accuracy, e.gradNorm, e.coverage]] : []));

withCudaModel("recorded training on cuda", () => {
  const at = tinyCheckpoint();
  const adapter = (run: string): Promise<Buffer> => readFile(join(at(run), "adapter.safetensors"));
  /** A run of a model of its own, and how often it made, launched and dropped graphs. */
  async function trained(run: string, more: Partial<TrainRequest> = {}, most?: number) {
    const [launch, dispose] = [vi.spyOn(Graph.prototype, "launch"), vi.spyOn(Graph.prototype, "dispose")];
    const made = vi.mocked(Device.prototype.capture).mock ? [] : vi.spyOn(Device.prototype, "capture").mock.results;
    const model = await open(at("model"));
    if (most !== undefined) Object.assign(model.transformer.recorder, { most });
    const events = await train(model, at(run), { ...request, ...more });
    const disposed = dispose.mock.calls.length;
    expect(disposed).toBe(made.length); // when a run is over, nothing of its memory is kept by a graph
    await model[Symbol.asyncDispose]();
    vi.restoreAllMocks();
    return { events, numbers: numbers(events), launches: launch.mock.calls.length, disposed, bytes: await adapter(run) };
  }

  it(
    "gives the bits of ops one by one",
    async () => {
      process.env.ESFT_CUDA_GRAPH = "0";
      const eager = await trained("eager");
      delete process.env.ESFT_CUDA_GRAPH;
      expect(eager.launches).toBe(0);
      expect(eager.numbers.length).toBe(12);

      const recorded = await trained("recorded");
      expect(recorded.launches).toBeGreaterThan(12); // the update's eleven, and passes
      expect(recorded.numbers).toEqual(eager.numbers);
      expect(Buffer.compare(recorded.bytes, eager.bytes)).toBe(0);

      const crowded = await trained("crowded", {}, 1); // the update and the passes push one another out
      expect(crowded.disposed).toBeGreaterThan(2);
      expect(crowded.numbers).toEqual(eager.numbers);
      expect(Buffer.compare(crowded.bytes, eager.bytes)).toBe(0);

      await trained("resumed", { steps: 7 });
      const rest = await trained("resumed", { resume: true });
      expect(rest.launches).toBeGreaterThan(0);
      expect(rest.numbers).toEqual(eager.numbers.slice(7));
      expect(Buffer.compare(rest.bytes, eager.bytes)).toBe(0);
    },
    patience,
  );

  it(
    "says what could not be recorded, and goes on op by op",
    async () => {
      const few = { steps: 4, data: { ...request.data, rows: Dataset.fromRows(toyRows(2)) } };
      const plain = await trained("plain", few);
      const capture = vi.spyOn(Device.prototype, "capture").mockImplementation(async (work) => {
        void work;
        throw new KernelError("capture: not today is not possible while a graph is recorded");
      });
      const refused = await trained("refused", few);
      expect(capture).not.toHaveBeenCalledTimes(0);
      expect(refused.launches).toBe(0);
      expect(refused.numbers).toEqual(plain.numbers);
      expect(Buffer.compare(refused.bytes, plain.bytes)).toBe(0);
      const warnings = refused.events.filter((e) => e.type === "warning");
      expect(warnings.map((w) => w.message)).toEqual([expect.stringMatching(/^step \d: a pass could not be recorded .*not today/)]);
    },
    patience,
  );

  it(
    "records a pass anew when rotary tables grow, and when the balancing loss begins",
    async () => {
      const losses = [];
      for (const graphs of ["0", "1"]) {
        process.env.ESFT_CUDA_GRAPH = graphs;
        await using model = await open(at("model"));
        const { params, transformer } = model;
        const state = params.train(fullTrainable(model.spec).keys);
        const seen: unknown[] = [];
        /** T tokens in documents of `length`. */
        const pass = async (length: number): Promise<void> => {
          const ids = Array.from({ length: T }, (_, i) => (i * 37 + length) % 97);
          const docStart = ids.map((_, t) => t - (t % length));
          const host = hostBatch([{ ids, targets: Int32Array.from(ids), docStart, positions: ids.map((_, t) => t % length) }]);
          ops.fill(model.device, { x: state.grad, value: 0 });
          transformer.resetLoss();
          await transformer.forwardBackwardAgain(host, 1 / T, T);
          seen.push(await transformer.readLoss(), Buffer.from(await state.grad.readBytes()).toString("base64"));
        };
        const T = 66; // tables begin with 64 positions
        for (const length of [16, 10, 66, 66]) await pass(length);
        transformer.balance = 0.1;
        for (let i = 0; i < 2; i++) await pass(16);
        losses.push(seen);
      }
      expect(losses[1]).toEqual(losses[0]);
    },
    patience,
  );
});

withCudaModel("a recorder on cuda", () => {
  it("records the second time, launches from then on, and again after it forgot", async () => {
    using device = new Device({ kind: "cuda" });
    using x = device.tensor("f32", [8], [1, 1, 1, 1, 1, 1, 1, 1]);
    const recorder = new Recorder(device, 2);
    const work = vi.fn(() => ops.scale(device, { x, factor: 2 }));
    const value = async (): Promise<number> => (await x.readF32())[0]!;
    for (let i = 0; i < 4; i++) await recorder.submit(["a", 1], work);
    expect([work.mock.calls.length, await value()]).toEqual([2, 16]);
    for (const key of ["b", "c", "b", "c"]) await recorder.submit([key, 1], work); // a is the oldest of three
    for (let i = 0; i < 2; i++) await recorder.submit(["a", 1], work);
    expect([work.mock.calls.length, await value()]).toEqual([8, 1024]);
    recorder.clear();
    await recorder.submit(["a", 1], work);
    await recorder.submit(["a", 2], work);
    expect([work.mock.calls.length, await value()]).toEqual([10, 4096]);
    expect(recorder.refusal).toBeNull();
  });

  it("passes on what went wrong for another reason", async () => {
    using device = new Device({ kind: "cuda" });
    using x = device.tensor("f32", [8], [1, 1, 1, 1, 1, 1, 1, 1]);
    const recorder = new Recorder(device);
    const bad = (): void => ops.add(device, { a: x, b: x.view(0, [4]), y: x });
    await expect(recorder.submit(["bad"], bad)).rejects.toThrow(/add: /);
    await expect(recorder.submit(["bad"], bad)).rejects.toThrow(/add: /);
    const fresh = (): void => device.empty("f32", [8]).dispose(); // takes memory: not while a graph is recorded
    await recorder.submit(["fresh"], fresh);
    await expect(recorder.submit(["fresh"], fresh)).rejects.toThrow(/alloc: not possible while a graph is recorded/);
    expect([...(await x.readF32())]).toEqual([1, 1, 1, 1, 1, 1, 1, 1]);
  });
});

it("records nothing where it is not worth it, or not wanted; refuses another word", async () => {
  using device = new Device({ threads: 1 });
  expect(new Recorder(device).records).toBe(false);
  expect(new Recorder(device, 8, "any").records).toBe(true);
  process.env.ESFT_CUDA_GRAPH = "maybe";
  const graphs = { info: { graphs: true } } as Device;
  expect(() => new Recorder(graphs)).toThrow(ConfigError);
  process.env.ESFT_CUDA_GRAPH = "0";
  expect(new Recorder(graphs).records).toBe(false);
  process.env.ESFT_CUDA_GRAPH = "1";
  expect(new Recorder(graphs).records).toBe(true);
});
