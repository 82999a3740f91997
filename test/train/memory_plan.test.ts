// The check before a run allocates: what it counts, what it says. No GPU. Alone: npx vitest run test/train/memory_plan.test.ts

import { describe, expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { availableMemory, planMemory, requireMemory } from "../../lib/train/memory_plan.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { tinyDeepseek } from "../support/tiny_model.ts";

const spec = modelSpec(tinyDeepseek, "config.json");
const upper = esftTrainable(spec, new ExpertSet({ layers: [[2, { ranked: [1, 4] }]] }));
const both = esftTrainable(spec, new ExpertSet({ layers: [[1, { ranked: [0] }], [2, { ranked: [4] }]] })); // prettier-ignore
const full = fullTrainable(spec);

describe("memory plan", () => {
  it("counts the state of what trains and the activations above the lowest trained layer", () => {
    expect([upper.lowestLayer, both.lowestLayer, full.lowestLayer]).toEqual([2, 1, 0]);
    const plans = [upper, both, full].map((t) => planMemory(spec, t, 512));
    for (const [i, t] of [upper, both, full].entries()) expect(plans[i]!.stateBytes).toBe(16 * t.parameters);
    expect(plans[0]!.activationBytes).toBeLessThan(plans[1]!.activationBytes);
    expect(requireMemory({ spec, trainable: both, microBatch: 8, maxLength: 64 }, 2 ** 40)).toEqual(planMemory(spec, both, 512));
  });

  it("refuses with what is needed, what is there and three fixes in the order of their cost", () => {
    const request = { spec, trainable: both, microBatch: 64, maxLength: 256 };
    const { bytes } = planMemory(spec, both, 64 * 256);
    const tight = planMemory(spec, both, 10 * 256).bytes - 1;
    const error = refusal(() => requireMemory(request, tight));
    expect(error).toMatchObject({ code: "ERR_MEMORY", where: { neededBytes: bytes, availableBytes: tight } });
    expect(error.message).toMatch(/needs .* are available\. Cheapest fixes: 1\. microBatch 8 instead of 64 .*; 2\. .*; 3\. /);
    const poor = refusal(() => requireMemory(request, planMemory(spec, both, 256).activationBytes + 16 * 1000));
    expect(poor.message).toMatch(
      /1\. microBatch 1 .*still too much; 2\. data\.maxLength \d+ instead of 256.*; 3\. fewer experts: select with maxTrainableParams 1000 /,
    );
    expect(refusal(() => requireMemory({ ...request, trainable: full }, tight)).message).toMatch(/3\. method esft instead of full/);
  });

  it("counts a GPU's activations in bf16, the working memory of its ops, and says whose memory is short", () => {
    const gpu = { hostMemory: false, activationDtype: "bf16" } as const;
    const [host, device] = [planMemory(spec, both, 4096), planMemory(spec, both, 4096, gpu)];
    expect(device.stateBytes).toBe(host.stateBytes);
    const workspace = 4096 * spec.vocab * 2 + 2 ** 28;
    expect((device.activationBytes - workspace) / host.activationBytes).toBeGreaterThan(0.5);
    expect((device.activationBytes - workspace) / host.activationBytes).toBeLessThan(0.6);
    const error = refusal(() => requireMemory({ spec, trainable: upper, microBatch: 1, maxLength: 16, where: gpu }, 1000));
    expect(error.message).toMatch(/activations and working memory .*, 0\.98 KiB of device memory are available/);
    expect(error.message).toMatch(/end other programs on this GPU, a GPU with more memory, or device "cpu"/);
  });

  it("knows how much this process may take", async () => {
    const bytes = await availableMemory();
    expect(bytes).toBeGreaterThan(2 ** 24);
    expect(bytes).toBeLessThan(2 ** 50);
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
