// The parameters of a model: where values come from, what training and adapters do to them, and that everything is undone. On the CPU,
// and on the device "cuda" (emulated, where it was built), whose products read bf16 copies in memory of their own. No GPU.
// Run alone: npx vitest run test/model/weights/parameters.test.ts

import { cp, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ConfigError, LayoutError } from "../../../lib/errors.ts";
import { openCheckpoint } from "../../../lib/files/checkpoint.ts";
import { decodeFloats } from "../../../lib/files/floats.ts";
import { openSafetensors } from "../../../lib/files/safetensors.ts";
import { writeSafetensors } from "../../../lib/files/safetensors_writer.ts";
import { bf16ToF32, f32ToBf16 } from "../../../lib/floats.ts";
import { checkpointSpec, modelSpec } from "../../../lib/model/families/index.ts";
import { parameterShapes } from "../../../lib/model/spec.ts";
import type { AttachedSpec, Parameter } from "../../../lib/model/weights/parameter.ts";
import { Parameters } from "../../../lib/model/weights/parameters.ts";
import { PlannedParameters } from "../../../lib/model/weights/planned.ts";
import { isProductWeight, locateWeights } from "../../../lib/model/weights/resident.ts";
import { allocateState, releaseState, STATE_BYTES_PER_PARAMETER } from "../../../lib/model/weights/training_state.ts";
import type { DType, Tensor } from "../../../lib/tensor.ts";
import { Device } from "../../../lib/tensor.ts";
import { cudaLibrary } from "../../cuda/support.ts";
import { tinyOlmoe, writeTinyModel } from "../../support/tiny_model.ts";

const config = { ...tinyOlmoe, vocab_size: 32 };
const spec = modelSpec(config, "config.json");
const NORM = "model.norm.weight";
const Q = "model.layers.0.self_attn.q_proj.weight";
const ROUTER = "model.layers.1.mlp.gate.weight";
const UP = "model.layers.1.mlp.experts.2.up_proj.weight";
const added: AttachedSpec = {
  key: "added",
  shape: [2, 3],
  place: { role: "attention", layer: 1 },
  initial: () => Float32Array.of(1, 2, 3, 4, 5, 1 + 2 ** -20),
};

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-parameters-"));
  await writeTinyModel(join(root, "f32"), config, { tokenizer: false, dtype: "f32" });
  await writeTinyModel(join(root, "bf16"), config, { tokenizer: false });
});
afterAll(() => rm(root, { recursive: true, force: true }));

const rounded = (x: Float32Array) => bf16ToF32(f32ToBf16(x));

describe.each(cudaLibrary && cudaLibrary !== "ref" ? (["cpu", "cuda"] as const) : (["cpu"] as const))("on %s", (kind) => {
  describe.each(["f32", "bf16"] as const)("from %s", (dtype) => {
    let device: Device;
    let params: Parameters;
    const stored = new Map<string, Float32Array>();
    /** Products of a device that reads bf16 only. */
    const copied = (key: string) => kind === "cuda" && /embed|lm_head|_proj/.test(key);
    const value = (p: Parameter) => p.value.readF32();
    const shown = (key: string) => (copied(key) ? rounded(stored.get(key)!) : stored.get(key)!);
    const filled = (key: string, x: number, type: DType = "f32"): Tensor => {
      const { shape } = params.byName(key) ?? added;
      const tensor = device.empty(type, shape);
      const values = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(x);
      tensor.write(type === "bf16" ? f32ToBf16(values) : values);
      return tensor;
    };

    beforeAll(async () => {
      device = new Device({ kind, threads: 1 });
      const checkpoint = await openCheckpoint(join(root, dtype));
      for (const name of checkpoint.tensors.keys())
        stored.set(name, decodeFloats(await checkpoint.read(name), dtype === "f32" ? "F32" : "BF16"));
      params = await Parameters.load(device, checkpointSpec(checkpoint), checkpoint);
    });
    afterAll(() => {
      params.dispose();
      device.dispose();
    });
    const untouched = async () => {
      for (const p of params.all()) {
        expect(await value(p), p.key).toEqual(shown(p.key));
        expect([p.trains, p.master, p.grad]).toEqual([false, null, null]);
      }
      expect([params.state, params.overridden]).toEqual([null, false]);
      expect(() => params.attached("added")).toThrow(/no attached parameter "added"/);
    };

    it("holds the checkpoint's values, each in its place", async () => {
      await untouched();
      expect(params.all().map((p) => p.key)).toEqual(parameterShapes(spec).map(({ ref }) => ref.name));
      const p = params.get({ name: UP });
      expect(p).toMatchObject({ key: UP, role: "expert", layer: 1, ref: { name: UP }, stored: dtype, inPlace: copied(UP) });
      expect(p.place).toMatchObject({ expert: 2, part: "up" });
      expect(p).toBe(params.byName(UP));
      expect(params.byName("nope")).toBeUndefined();
      expect(() => params.get({ name: "nope" })).toThrow(/cannot find "nope": the model has no such parameter/);
      expect(await params.storedValues(p)).toEqual(stored.get(UP)); // not rounded
    });

    it("trains from the checkpoint's values, and freezes to them", async () => {
      const before = params.epoch;
      const state = params.train([Q, NORM, UP, Q], [added]);
      expect(state.parameters.map((p) => p.key)).toEqual([Q, NORM, UP, "added"]);
      expect(params.epoch).toBe(before + 1);
      for (const key of [Q, NORM, UP]) {
        const p = params.byName(key)!;
        expect(p.trains).toBe(true);
        expect(await p.master!.readF32()).toEqual(stored.get(key));
        expect(await value(p)).toEqual(shown(key));
        expect(p.value === p.master).toBe(!copied(key));
        expect(p.grad!.shape).toEqual(p.shape);
      }
      const own = params.attached("added");
      expect(await own.master!.readF32()).toEqual(added.initial());
      expect(await value(own)).toEqual(kind === "cuda" ? rounded(added.initial()) : added.initial());
      expect(params.byName(ROUTER)!.trains).toBe(false);
      expect(params.overridden).toBe(false);
      expect(() => params.override(new Map())).toThrow(/cannot replace values while parameters train/);

      // As after a resume: the masters were written.
      params.byName(Q)!.master!.write(new Float32Array(stored.get(Q)!.length).fill(1 + 2 ** -12));
      own.master!.write(new Float32Array(6).fill(3));
      params.refreshCopies();
      expect((await value(params.byName(Q)!))[5]).toBe(copied(Q) ? 1 : 1 + 2 ** -12);
      expect((await value(own))[5]).toBe(3);

      const other = params.train([ROUTER]); // replaces the choice
      expect(params.epoch).toBe(before + 3);
      expect(other.parameters.map((p) => p.key)).toEqual([ROUTER]);
      expect(await value(params.byName(Q)!)).toEqual(shown(Q));
      expect(params.byName(Q)!.master).toBeNull();
      expect(() => params.attached("added")).toThrow(LayoutError);
      params.freeze();
      await untouched();
      expect(params.epoch).toBe(before + 4);
      params.freeze(); // nothing to do
      params.refreshCopies();
      expect(params.epoch).toBe(before + 4);
      expect(() => params.train(["nope"])).toThrow(/cannot train "nope"/);
    });

    it("takes other values, all or none, and gives them back", async () => {
      const before = params.epoch;
      params.override(new Map([[Q, filled(Q, 2)], [NORM, filled(NORM, 3, "bf16")]])); // prettier-ignore
      expect((await value(params.byName(Q)!))[0]).toBe(2);
      expect((await value(params.byName(NORM)!))[0]).toBe(3);
      expect(await params.storedValues(params.byName(Q)!)).toEqual(stored.get(Q));
      expect([params.overridden, params.epoch]).toEqual([true, before]); // the same parameters
      expect(() => params.train([ROUTER])).toThrow(ConfigError);

      const wrong = device.empty("f32", [3]);
      expect(() => params.override(new Map([[UP, filled(UP, 5)], [Q, wrong]]))).toThrow(/cannot replace ".*q_proj.weight": expected shape \[40, 40\], found \[3\]/); // prettier-ignore
      expect(() => params.override(new Map([["nope", wrong]]))).toThrow(/cannot replace "nope"/);
      expect(() => params.override(new Map(), [added])).toThrow(/expected values of "added", found none/);
      expect((await value(params.byName(Q)!))[0]).toBe(2); // as before
      expect(await value(params.byName(UP)!)).toEqual(shown(UP));

      params.override(new Map([[UP, filled(UP, 4)], ["added", filled("added", 1 + 2 ** -12)]]), [added]); // prettier-ignore
      expect(await value(params.byName(Q)!)).toEqual(shown(Q)); // what was replaced before is restored
      expect((await value(params.byName(UP)!))[0]).toBe(4);
      expect((await value(params.attached("added")))[0]).toBe(kind === "cuda" ? 1 : 1 + 2 ** -12);
      expect([params.overridden, params.epoch]).toEqual([true, before + 1]);
      params.restore();
      await untouched();
      expect(params.epoch).toBe(before + 2);
      params.override(new Map([["added", filled("added", 7, "bf16")]]), [added]); // attached ones alone
      expect((await value(params.attached("added")))[5]).toBe(7);
      expect(params.overridden).toBe(true);
      expect(() => params.train([ROUTER])).toThrow(/remove the adapter, or merge it/);
      params.restore();
      params.restore();
      await untouched();
    });

    it("builds lists when they are used, and drops them when values change", () => {
      const [a, b] = [params.byName(UP)!, params.byName("model.layers.1.mlp.experts.3.up_proj.weight")!];
      const values = params.list([a, b], "value");
      const grads = params.list([a, b], "grad");
      const first = values.tensors;
      expect(values.tensors).toBe(first);
      expect(() => grads.tensors).toThrow(/parameter ".*experts.2.up_proj.weight" has no gradient/);
      params.train([a.key, b.key]);
      expect(values.tensors).not.toBe(first);
      const [second, g] = [values.tensors, grads.tensors];
      params.freeze();
      expect(values.tensors).not.toBe(second);
      expect(() => grads.tensors).toThrow(LayoutError);
      expect(g).not.toBe(second);
      const third = values.tensors;
      params.override(new Map([[a.key, filled(a.key, 1)]]));
      const fourth = values.tensors;
      expect(fourth).not.toBe(third);
      params.restore();
      expect(values.tensors).not.toBe(fourth);
    });

    it("finds the first value that is not finite", async () => {
      const seen: number[] = [];
      const words = new Set<string>();
      await params.checkFinite({
        onProgress: ({ phase, done, total, unit }) => {
          seen.push(done / total);
          words.add(`${phase}, ${unit}`);
        },
      });
      expect([...words]).toEqual(["check weights, bytes"]);
      expect(seen).toHaveLength(params.all().length);
      expect(seen[0]).toBe(0);
      expect(seen.toSorted((a, b) => a - b)).toEqual(seen);
      expect(seen.at(-1)).toBeLessThan(1);
      await expect(params.checkFinite({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "ERR_ABORTED" });
      const dir = join(root, `bad ${dtype} ${kind}`);
      await cp(join(root, dtype), dir, { recursive: true });
      const { begin } = (await openSafetensors(join(dir, "model.safetensors"))).tensors.get(UP)!;
      await using file = await open(join(dir, "model.safetensors"), "r+");
      await file.write(dtype === "f32" ? Uint8Array.of(0, 0, 128, 127) : Uint8Array.of(128, 127), 0, dtype === "f32" ? 4 : 2, begin + 7 * (dtype === "f32" ? 4 : 2)); // prettier-ignore
      const bad = await Parameters.load(device, spec, await openCheckpoint(dir));
      await expect(bad.checkFinite()).rejects.toMatchObject({ code: "ERR_NON_FINITE", where: { tensor: UP, element: 7 }, message: expect.stringContaining("Infinity at element 7") as string }); // prettier-ignore
      bad.dispose();
    });

    it("can be disposed of while something trains, or is replaced", async () => {
      for (const use of [
        (p: Parameters) => void p.train([Q, NORM], [added]),
        (p: Parameters) => p.override(new Map([[Q, filled(Q, 1)], ["added", filled("added", 1)]]), [added]), // prettier-ignore
      ]) {
        const own = await Parameters.load(device, spec, await openCheckpoint(join(root, dtype)));
        use(own);
        own.dispose();
        expect(own.state).toBeNull();
        expect(() => own.attached("added")).toThrow(LayoutError);
      }
    });
  });
});

describe("where weights lie", () => {
  it("is told for every parameter, and refused where a tensor is not as it must be", async () => {
    const checkpoint = await openCheckpoint(join(root, "bf16"));
    const located = locateWeights(spec, checkpoint);
    for (const w of located) {
      const info = checkpoint.tensors.get(w.key)!;
      expect(w).toMatchObject({ path: info.path, byteOffset: info.begin, stored: "bf16", ref: { name: w.key }, shape: info.shape });
    }
    const info = checkpoint.tensors.get(Q)!;
    for (const [change, message] of [
      [null, /: tensor ".*q_proj.weight" is missing; a olmoe checkpoint with 2 layers must have it \(found \d+ tensors\)/],
      [{ ...info, dtype: "F16" as const }, /must be F32 or BF16, found F16; convert the checkpoint to bf16 first/],
      [{ ...info, shape: [20, 80] }, /expected shape \[40, 40\], found \[20, 80\]/],
    ] as const) {
      const tensors = new Map(checkpoint.tensors);
      if (change) tensors.set(Q, change);
      else tensors.delete(Q);
      expect(() => locateWeights(spec, { ...checkpoint, tensors })).toThrow(message);
      expect(() => locateWeights(spec, { ...checkpoint, tensors })).toThrow(LayoutError);
    }
  });

  it("products are matrices of everything but routers, norms and biases", () => {
    const of = (role: "attention" | "router" | "norm" | "selectionBias" | "expert", ...shape: number[]) => isProductWeight({ role, shape });
    expect([of("attention", 2, 2), of("expert", 2, 2)]).toEqual([true, true]);
    expect([of("attention", 2), of("router", 2, 2), of("norm", 2, 2), of("selectionBias", 2, 2)]).toEqual([false, false, false, false]);
  });

  it("tensors at odd addresses are copied", async () => {
    const source = await openSafetensors(join(root, "f32/model.safetensors"));
    const dir = join(root, "odd");
    await cp(join(root, "f32"), dir, { recursive: true });
    const [one, ...rest] = [...source.tensors.values()].map((t) => ({ ...t, data: () => source.read(t.name) }));
    const odd = { name: "x.rotary_emb.inv_freq", dtype: "U8" as const, shape: [3], data: new Uint8Array(3) };
    await writeSafetensors(join(dir, "model.safetensors"), [one!, odd, ...rest]);
    using device = new Device({ threads: 1 });
    const checkpoint = await openCheckpoint(dir);
    expect(checkpoint.tensors.get(rest[0]!.name)!.begin % 4).toBe(3);
    const params = await Parameters.load(device, checkpointSpec(checkpoint), checkpoint);
    for (const p of params.all()) expect(await p.value.readF32()).toEqual(decodeFloats(await source.read(p.key), "F32"));
    params.dispose();
  });
});

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
