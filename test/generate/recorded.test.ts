// Decoding passes that are recorded give the bits of ops one by one: sequences that join and leave, caches that move, every kind of
// sampling. Recordings go when what they keep goes, and an error in one is the answer's. No GPU.
// Alone: npx vitest run test/generate/recorded.test.ts

import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";
import { KernelError, NonFiniteError } from "../../lib/errors.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { Engine } from "../../lib/generate/engine.ts";
import { OneAtATime } from "../../lib/task.ts";
import { Device, Graph } from "../../lib/tensor.ts";
import { closeModel, greedy, greedySampling, openModel, recordedAndNot } from "./support.ts";

const device = new Device({ kind: "cpu", threads: 2 });
afterAll(() => device.dispose());
afterEach(() => void vi.restoreAllMocks());
const fixture = (family: string): string => join("test/fixtures/families", family);

describe.each(["olmoe", "gpt-oss", "deepseek-v2-lite", "qwen3-next", "lfm2-moe", "phimoe", "llama4"])("%s", (family) => {
  it("answers, likelihoods and all, are the same bits", async () => {
    const model = await openModel(device, fixture(family));
    const { recorded, eager, launches, captures, disposals } = await recordedAndNot(model, 40);
    expect(recorded).toEqual(eager);
    expect(launches).toBeGreaterThan(40);
    expect(captures).toBeGreaterThan(3); // sequences joined and left, caches moved
    expect(disposals).toBe(captures);
    expect(model.decoding.refusal).toBeNull();
    closeModel(model);
  });
});

it("what cannot be recorded is told once, and goes op by op", async () => {
  const model = await openModel(device, fixture("olmoe"));
  const want = await greedy(model, [[5, 6, 7]], 12);
  const warn = vi.spyOn(process, "emitWarning").mockImplementation(() => undefined);
  vi.spyOn(Device.prototype, "capture").mockRejectedValue(new KernelError("capture: not today"));
  const launch = vi.spyOn(Graph.prototype, "launch");
  expect(await greedy(model, [[5, 6, 7]], 12)).toEqual(want);
  expect(launch).not.toHaveBeenCalled();
  expect(warn.mock.calls.map(([text]) => text)).toEqual([
    expect.stringMatching(/could not be recorded .* same results, slower \(capture: not today\)/),
  ]);
  closeModel(model);
});

it("a sequence that is cancelled, and one whose logits are no numbers, end alone", async () => {
  const model = await openModel(device, fixture("olmoe"));
  const { finalNorm, hidden } = model.spec;
  const norm = device.tensor("f32", [hidden], new Float32Array(hidden).fill(1));
  model.override(new Map([[sliceKey(finalNorm.weight!), norm]]));
  const launch = vi.spyOn(Graph.prototype, "launch");
  const engine = new Engine(model, new OneAtATime("the model"), {});
  const told: string[] = [];
  const ended = (name: string, token: (n: number) => void) =>
    new Promise<void>((resolve) => {
      let n = 0;
      const sequence = engine.submit(
        { prompt: [3, 4, 5], maxTokens: 30, stop: new Set(), sampling: greedySampling, adapter: null },
        {
          token: () => {
            token(++n);
            if (name === "cancelled" && n === 5) engine.cancel(sequence);
            return false;
          },
          end: (reason) => resolve(void told.push(`${name}: ${reason} after ${n}`)),
          fail: (error) => {
            expect(error).toBeInstanceOf(NonFiniteError);
            resolve(void told.push(`${name}: ${(error as Error).message}`));
          },
        },
      );
    });
  const poison = (n: number): void => {
    if (n === 12) norm.write(new Float32Array(hidden).fill(Number.NaN));
  };
  await Promise.all([ended("cancelled", () => undefined), ended("poisoned", poison)]);
  expect(told).toEqual(["cancelled: cancelled after 5", "poisoned: generation: the logits after 15 tokens are not finite"]);
  expect(launch.mock.calls.length).toBeGreaterThan(5);
  model.restore();
  norm.dispose();
  closeModel(model);
});
