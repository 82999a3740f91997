// The training state, flat tensors with a view for each parameter that trains, and parameters that are planned without values. No GPU.
// Run alone: npx vitest run test/model/weights/training_state.test.ts

import { describe, expect, it } from "vitest";
import { DisposedError, LayoutError } from "../../../lib/errors.ts";
import { modelSpec } from "../../../lib/model/families/index.ts";
import type { AttachedSpec } from "../../../lib/model/weights/parameter.ts";
import { PlannedParameters } from "../../../lib/model/weights/planned.ts";
import { allocateState, releaseState, STATE_BYTES_PER_PARAMETER } from "../../../lib/model/weights/training_state.ts";
import { Device } from "../../../lib/tensor.ts";
import { tinyOlmoe } from "../../support/tiny_model.ts";

const spec = modelSpec({ ...tinyOlmoe, vocab_size: 32 }, "config.json");
const NORM = "model.norm.weight";
const Q = "model.layers.0.self_attn.q_proj.weight";
const ROUTER = "model.layers.1.mlp.gate.weight";
const UP = "model.layers.1.mlp.experts.2.up_proj.weight";
const added: AttachedSpec = { key: "added", shape: [2, 3], place: { role: "attention", layer: 1 }, initial: () => new Float32Array(6) };

describe("the training state", () => {
  it("is flat, padded to cache lines, and given back", async () => {
    using device = new Device({ threads: 1 });
    const planned = new PlannedParameters(spec, [NORM, ROUTER], [added]);
    const parameters = [planned.get({ name: NORM }), planned.get({ name: ROUTER }), planned.attached("added")];
    const state = allocateState(device, parameters);
    expect(state).toMatchObject({ offsets: [0, 48, 288], size: 304 }); // 40, 6 × 40, 2 × 3 elements
    expect([state.master.shape, state.grad.shape, state.m.shape, state.v.shape]).toEqual([[304], [304], [304], [304]]);
    expect(STATE_BYTES_PER_PARAMETER).toBe(4 * 4);
    state.master.write(Float32Array.from({ length: 304 }, (_, i) => i));
    state.grad.write(Float32Array.from({ length: 304 }, (_, i) => -i));
    for (const [i, p] of parameters.entries()) {
      expect(p.trains).toBe(true);
      expect((await p.master!.readF32())[1]).toBe(state.offsets[i]! + 1);
      expect((await p.grad!.readF32())[1]).toBe(-state.offsets[i]! - 1);
    }
    releaseState(state);
    for (const p of parameters) expect([p.trains, p.master, p.grad]).toEqual([false, null, null]);
    expect(() => state.v.write(new Float32Array(304))).toThrow();
  });

  it("that does not fit is a MemoryError, and leaves nothing behind", () => {
    const made: { disposed: boolean }[] = [];
    const device = {
      empty: () => {
        if (made.length === 2) throw new Error("no memory");
        const tensor = { disposed: false, dispose: () => void (tensor.disposed = true) };
        made.push(tensor);
        return tensor;
      },
    } as unknown as Device;
    const { get } = new PlannedParameters(spec, [], []);
    const norm = get.call(new PlannedParameters(spec, [], []), { name: NORM });
    expect(() => allocateState(device, [norm])).toThrow(expect.objectContaining({ code: "ERR_MEMORY", message: expect.stringMatching(/GiB for 48 parameters .* train fewer experts/) as string }) as Error); // prettier-ignore
    expect(made.map((t) => t.disposed)).toEqual([true, true]);
    expect(norm.trains).toBe(false);
  });

  it("of a device that is gone says so", () => {
    const device = new Device({ threads: 1 });
    device.dispose();
    expect(() => allocateState(device, [])).toThrow(DisposedError);
  });

  it("is planned without values", () => {
    const planned = new PlannedParameters(spec, [Q], [added]);
    expect([planned.get({ name: Q }).trains, planned.attached("added").trains, planned.get({ name: NORM }).trains]).toEqual([true, true, false]); // prettier-ignore
    expect(planned.get({ name: UP }).place).toEqual({ role: "expert", layer: 1, expert: 2, part: "up" });
    expect(() => planned.get({ name: "nope" })).toThrow(/the model has no parameter "nope"/);
    expect(() => new PlannedParameters(spec, ["nope"], [])).toThrow(LayoutError);
    expect(() => planned.get({ name: Q }).value).toThrow(/parameter ".*q_proj.weight" has no values/);
    expect(() => planned.list([planned.get({ name: Q })], "value").tensors).toThrow(/no values/);
  });
});
