// A model is composed for what trains: what cannot train together is refused before an op is queued, parts of experts train alone to
// the gradients that full training gives them, and the plan has no memory for what nothing reads. No GPU.
// Run alone: npx vitest run test/model/composition.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { planActivations } from "../../lib/model/decoder.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { act, ActivationPlan } from "../../lib/model/slots.ts";
import { moeOf } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { Device } from "../../lib/tensor.ts";
import { apart, tinyDeepseek, writeTinyModel } from "../support/tiny_model.ts";

const spec = modelSpec(tinyDeepseek, "config.json");
const ids = Int32Array.from({ length: 40 }, (_, t) => (t * 131 + 7) % 2048);
const host = hostBatch([{ ids, targets: Int32Array.from(ids, (x) => (x + 1) % 2048) }]);

describe("what trains together", () => {
  let dir: string;
  let device: Device;
  let model: Transformer;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), "esft-compose-"));
    await writeTinyModel(dir, tinyDeepseek, { tokenizer: false });
    device = new Device({ kind: "cpu", threads: 2 });
    model = new Transformer(spec, device, await Parameters.load(device, spec, await openCheckpoint(dir)));
  });
  afterAll(async () => {
    model.dispose();
    model.params.dispose();
    device.dispose();
    await rm(dir, { recursive: true, force: true });
  });

  const routed = apart(moeOf(spec, 1)!.experts[3]!);
  const shared = moeOf(spec, 2)!.shared!;

  it.each([
    ["a routed expert", routed],
    ["the shared expert", shared],
  ])("gate of %s without up is refused when the model is composed", (_name, weights) => {
    model.train({ keys: [sliceKey(weights.gate)] });
    expect(() => model.forwardBackward(host, 1)).toThrow(/gate_proj\.weight" and ".*up_proj\.weight" train together or not at all/);
    model.freeze();
  });

  const gradients = async (keys: readonly string[]): Promise<Map<string, Buffer>> => {
    const state = model.train({ keys });
    model.forwardBackward(host, 1 / host.supervised);
    const out = new Map<string, Buffer>();
    for (const p of state.parameters) out.set(p.key, Buffer.from((await p.grad!.readF32()).buffer));
    model.freeze();
    return out;
  };

  it("gate and up, or down alone, get the gradients of full training, bit for bit", async () => {
    const full = await gradients(fullTrainable(spec).keys);
    for (const weights of [routed, shared])
      for (const refs of [[weights.gate, weights.up], [weights.down]])
        for (const [key, grad] of await gradients(refs.map(sliceKey))) expect(Buffer.compare(grad, full.get(key)!), key).toBe(0);
  });
});

describe("the plan", () => {
  const bytes = (lowestLayer: number): number => planActivations(spec, { keys: [], lowestLayer }).bytes(64);

  it("grows with the layers that keep, and keeps nothing at inference", () => {
    const sizes = [Number.POSITIVE_INFINITY, 3, 2, 1, 0].map(bytes);
    for (const [i, size] of sizes.entries()) if (i > 0) expect(size).toBeGreaterThan(sizes[i - 1]!);
    const rows = planActivations(spec, { keys: [], lowestLayer: Number.POSITIVE_INFINITY }).table(64);
    expect(rows.filter((r) => r.lifetime === "kept" || r.lifetime === "backward")).toEqual([]);
  });

  it("lays the passes of all layers over one region, and lasting slots apart from it", async () => {
    using device = new Device({ kind: "cpu", threads: 1 });
    const plan = new ActivationPlan("f32");
    const [a, b] = [plan.planner("layer 0", true), plan.planner("layer 1", true)];
    const slots = [a.kept(act(16), "x"), a.scratch(act(16), "s"), a.backward(act(32), "d"), b.scratch(act(16), "s"), b.kept(act(16), "x")];
    const view = plan.planner("layer 1", true).columns(slots[4]!, 4, 8);
    const idle = plan.planner("layer 2", false).saved(act(16), "h");
    plan.allocate(device, 8);
    const row = 16 * 8 * 4;
    expect(plan.bytes(8)).toBe(2 * row + 2 * row); // two kept, and the largest pass: the backward of layer 0
    const bound = plan.bind(4);
    expect(bound[idle.index]).toBeNull();
    expect(bound[view.index]!.shape).toEqual([4, 4]);
    expect(bound[view.index]!.ld).toBe(16);
    expect(plan.bind(4)).toBe(bound);
    expect(() => plan.bind(9)).toThrow(/exceeds the plan's 8/);
    bound[slots[0]!.index]!.write(new Float32Array(64).fill(1));
    bound[slots[2]!.index]!.write(new Float32Array(128).fill(2));
    expect(await bound[slots[0]!.index]!.readF32()).toEqual(new Float32Array(64).fill(1));
  });
});
