// The check before a run allocates: what it counts, what it says. No GPU. Alone: npx vitest run test/train/memory_plan.test.ts

import { describe, expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { defaultMicroBatch, microBatchOf, planMemory, requireMemory, size } from "../../lib/train/memory_plan.ts";
import type { Available } from "../../lib/train/memory_plan.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import type { TrainOptions } from "../../lib/options.ts";
import { tinyDeepseek } from "../support/tiny_model.ts";

const spec = modelSpec(tinyDeepseek, "config.json");
const upper = esftTrainable(spec, new ExpertSet({ layers: [[2, { ranked: [1, 4] }]] }));
const both = esftTrainable(spec, new ExpertSet({ layers: [[1, { ranked: [0] }], [2, { ranked: [4] }]] })); // prettier-ignore
const full = fullTrainable(spec);
const room = (device: number, host = device): Available => ({ device, host });

describe("memory plan", () => {
  it("counts the state of what trains and the activations above the lowest trained layer", () => {
    expect([upper.lowestLayer, both.lowestLayer, full.lowestLayer]).toEqual([2, 1, 0]);
    const plans = [upper, both, full].map((t) => planMemory(spec, t, 512));
    for (const [i, t] of [upper, both, full].entries()) expect(plans[i]!.stateBytes).toBe(16 * t.parameters);
    expect(plans[0]!.activationBytes).toBeLessThan(plans[1]!.activationBytes);
    expect(requireMemory({ spec, trainable: both, microBatch: 8, maxLength: 64 }, room(2 ** 40))).toEqual(planMemory(spec, both, 512));
  });

  it("refuses with what is needed, what is there and three fixes in the order of their cost", () => {
    const request = { spec, trainable: both, microBatch: 64, maxLength: 256 };
    const { bytes } = planMemory(spec, both, 64 * 256);
    const tight = planMemory(spec, both, 10 * 256).bytes - 1;
    const error = refusal(() => requireMemory(request, room(tight)));
    expect(error).toMatchObject({ code: "ERR_MEMORY", where: { neededBytes: bytes, availableBytes: tight } });
    expect(error.message).toMatch(/needs .* are available\. Cheapest fixes: 1\. microBatch 8 instead of 64 .*; 2\. .*; 3\. /);
    const smallest = planMemory(spec, both, 256);
    const poor = refusal(() => requireMemory(request, room(smallest.activationBytes + smallest.hostBytes + 16 * 1000)));
    expect(poor.message).toMatch(
      /1\. microBatch 1 .*still too much; 2\. data\.maxLength \d+ instead of 256.*; 3\. fewer experts: select with maxTrainableParams 1000 /,
    );
    expect(refusal(() => requireMemory({ ...request, trainable: full }, room(tight))).message).toMatch(/3\. method esft instead of full/);
  });

  it("counts a GPU's activations in bf16, the working memory of its ops, and says whose memory is short", () => {
    const gpu = { hostMemory: false, activationDtype: "bf16" } as const;
    const [host, device] = [planMemory(spec, both, 4096), planMemory(spec, both, 4096, gpu)];
    expect(device.stateBytes).toBe(host.stateBytes);
    const workspace = 4096 * spec.vocab * 2 + 2 ** 28;
    expect((device.activationBytes - workspace) / host.activationBytes).toBeGreaterThan(0.5);
    expect((device.activationBytes - workspace) / host.activationBytes).toBeLessThan(0.6);
    const error = refusal(() => requireMemory({ spec, trainable: upper, microBatch: 1, maxLength: 16, where: gpu }, room(1000)));
    expect(error.message).toMatch(/activations and working memory .*, 0\.98 KiB of device memory are available/);
    expect(error.message).toMatch(/end other programs on this GPU, a GPU with more memory, or device "cpu"/);
  });

  it("counts the host's share: what is held already, orders of epochs, rows under way, what is copied to save", () => {
    const none = planMemory(spec, both, 512);
    expect(none.bytes).toBe(none.activationBytes + none.stateBytes + none.hostBytes);
    // 136 bytes a token; the largest trained tensor twice, as f32.
    const largest = 24 * 48;
    expect(both.parameters).toBeGreaterThan(largest);
    expect(none.hostBytes).toBe(512 * 136 + 8 * both.parameters);
    const huge = { ...both, allocated: 2 ** 30 };
    expect(planMemory(spec, huge, 512).hostBytes).toBe(512 * 136 + 8 * 2 ** 24);
    expect(planMemory(spec, { ...both, allocated: 1 }, 512).hostBytes).toBe(512 * 136 + 8 * largest);
    const data = { held: 5000, examples: 100, repacked: false };
    expect(planMemory(spec, both, 512, undefined, data).hostBytes).toBe(none.hostBytes + 5000 + 28 * 100);
    expect(planMemory(spec, both, 512, undefined, { ...data, repacked: true }).hostBytes).toBe(none.hostBytes + 4 * 5000 + 28 * 100);
    const attachments = { parameters: [{ key: "a", shape: [300, 1000] }] } as unknown as typeof both.attachments;
    expect(planMemory(spec, { ...both, attachments }, 512).hostBytes).toBe(512 * 136 + 8 * 300_000);
  });

  it("needs what is not held yet, on the host and beside a GPU", () => {
    const data = { held: 10 ** 9, examples: 1000, repacked: false };
    const request = { spec, trainable: both, microBatch: 8, maxLength: 64, data };
    const plan = planMemory(spec, both, 512, undefined, data);
    const needed = plan.bytes - data.held;
    expect(requireMemory(request, room(needed))).toEqual(plan);
    expect(refusal(() => requireMemory(request, room(needed - 1)))).toMatchObject({
      where: { neededBytes: needed, availableBytes: needed - 1, stateBytes: plan.stateBytes, activationBytes: plan.activationBytes, hostBytes: plan.hostBytes - data.held },
      message: expect.stringMatching(/MiB of activations for 8 × 64 tokens, .* on the host for rows, their order and saving\), .* are available\./) as string,
    }); // prettier-ignore
    const gpu = { ...request, where: { hostMemory: false, activationDtype: "bf16" } as const };
    const there = planMemory(spec, both, 512, gpu.where, data);
    const [device, host] = [there.stateBytes + there.activationBytes, there.hostBytes - data.held];
    expect(requireMemory(gpu, room(device, host))).toEqual(there);
    expect(refusal(() => requireMemory(gpu, room(device - 1, host))).message).toMatch(/of device memory are available/);
    expect(refusal(() => requireMemory(gpu, room(device, host - 1)))).toMatchObject({
      where: { neededBytes: host, availableBytes: host - 1 },
      message: expect.stringMatching(
        /on the host .* beside the GPU's memory \(8 × 64 tokens, 1000 examples\), .* are available\. Cheapest fixes: 1\. microBatch 1/,
      ) as string,
    });
  });

  it("offers the largest micro-batch and length by halves that fit, and experts only where fewer would do", () => {
    const at = (tokens: number): number => planMemory(spec, both, tokens).bytes;
    const message = (microBatch: number, maxLength: number, available: number): string =>
      refusal(() => requireMemory({ spec, trainable: both, microBatch, maxLength }, room(available))).message;
    expect(message(10, 64, at(5 * 64))).toContain("1. microBatch 5 instead of 10 (same result up to rounding)");
    expect(message(10, 64, at(5 * 64) - 1)).toContain("1. microBatch 2 instead of 10");
    expect(message(10, 64, at(320))).toContain("2. data.maxLength 32 instead of 64: ");
    expect(message(1, 64, at(33) - 1)).toContain("1. data.maxLength 32 instead of 64: ");
    expect(message(1, 64, at(33) - 1)).not.toContain("still too much");
    expect(message(64, 64, at(20))).toMatch(/2\. data\.maxLength 16 instead of 64 with microBatch 1: [^;]*;/);
    expect(message(1, 16, at(16) - 1)).toMatch(
      /fixes: 1\. fewer experts: select with maxTrainableParams \d+ instead of \d+ parameters, or a smaller p; 2\. a machine/,
    );
    const poor = message(64, 64, at(1) / 2);
    expect(poor).toMatch(/1\. microBatch 1 .*, still too much; 2\. data\.maxLength 16 .*, still too much; 3\. a machine/);
    expect(message(10, 64, at(5 * 64))).not.toContain("still too much"); // as much as there is
    expect(message(64, 64, at(20))).not.toContain("4."); // three at most
    expect(message(1, 16, 10)).toMatch(/fixes: 1\. a machine \(or a memory limit of its container\) with more memory$/);
  });
});

describe("sizes", () => {
  it("of micro-batches are about 4096 tokens, and no more rows than a step has", () => {
    expect([1, 3, 1024, 4096, 5000].map(defaultMicroBatch)).toEqual([4096, 1365, 4, 1, 1]);
    const options = (rowsPerStep: number, microBatch?: number) => ({ rowsPerStep, microBatch, data: { maxLength: 512 } }) as TrainOptions;
    expect([microBatchOf(options(3)), microBatchOf(options(30)), microBatchOf(options(30, 20)), microBatchOf(options(3, 20))]).toEqual([3, 8, 20, 3]); // prettier-ignore
  });
  it("are told in words", () => {
    expect([0, -5, 1, 1000, 1024, 10_240, 2 ** 20, 2 ** 30 * 1.5, 2 ** 40 * 20, 2 ** 50 * 3].map(size)).toEqual(
      ["0.00 KiB", "0.00 KiB", "0.00 KiB", "0.98 KiB", "1.00 KiB", "10.0 KiB", "1.00 MiB", "1.50 GiB", "20.0 TiB", "3072.0 TiB"], // prettier-ignore
    );
  });
});

function refusal(f: () => unknown): Error {
  try {
    f();
  } catch (error) {
    return error as Error;
  }
  throw new Error("nothing was refused");
}
