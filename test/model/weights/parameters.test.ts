// The parameters of a model: where values come from, what training and adapters do to them, and that everything is undone. On the CPU,
// and on the device "cuda" (emulated, where it was built), whose products read bf16 copies in memory of their own. No GPU.
// Run alone: npx vitest run test/model/weights/parameters.test.ts

import { cp, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { ConfigError, LayoutError } from "../../../lib/errors.ts";
import type { Checkpoint } from "../../../lib/files/checkpoint.ts";
import { openCheckpoint } from "../../../lib/files/checkpoint.ts";
import { decodeFloats } from "../../../lib/files/floats.ts";
import { openSafetensors } from "../../../lib/files/safetensors.ts";
import { bf16ToF32, f32ToBf16 } from "../../../lib/floats.ts";
import { modelSpec } from "../../../lib/model/families/index.ts";
import { parameterShapes } from "../../../lib/model/spec.ts";
import type { AttachedSpec, Parameter } from "../../../lib/model/weights/parameter.ts";
import { Parameters } from "../../../lib/model/weights/parameters.ts";
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
    let checkpoint: Checkpoint;
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
      checkpoint = await openCheckpoint(join(root, dtype));
      for (const name of checkpoint.tensors.keys())
        stored.set(name, decodeFloats(await checkpoint.read(name), dtype === "f32" ? "F32" : "BF16"));
    });
    beforeEach(async () => void (params = await Parameters.load(device, spec, checkpoint)));
    afterEach(() => params.dispose());
    afterAll(() => device.dispose());
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
      const seven = filled("added", 7, "bf16");
      params.override(new Map([["added", seven]]), [added]); // attached ones alone
      expect(params.attached("added").value).toBe(seven);
      expect((await seven.readF32())[5]).toBe(7);
      expect(params.overridden).toBe(true);
      expect(() => params.train([ROUTER])).toThrow(/remove the adapter, or merge it/);
      params.restore();
      params.restore();
      expect(seven.disposed).toBe(true);
      await untouched();
    });

    it("gives back all memory that training and other values took", async () => {
      const free = async () => {
        await device.synchronize();
        return device.memoryFree(); // 0 on the CPU
      };
      const before = await free();
      const given = [filled(Q, 1), filled(NORM, 1), filled("added", 1)] as const;
      const values = new Map([[Q, given[0]], [NORM, given[1]], ["added", given[2]]]); // prettier-ignore
      params.override(values, [added]);
      if (copied(Q)) expect(await free()).toBeLessThan(before);
      params.restore();
      expect(await free()).toBe(before);
      expect(given.map((t) => t.disposed)).toEqual([true, true, true]);
      params.train([Q, NORM, UP], [added]);
      if (copied(Q)) expect(await free()).toBeLessThan(before);
      params.freeze();
      expect(await free()).toBe(before);
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
      grads.drop(); // there is nothing to drop
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
      const aborted = params.checkFinite({ signal: AbortSignal.abort() });
      await expect(aborted).rejects.toMatchObject({ code: "ERR_ABORTED", message: "checking the weights was aborted" });
      const dir = join(root, `bad ${dtype} ${kind}`);
      await cp(join(root, dtype), dir, { recursive: true });
      const { begin } = (await openSafetensors(join(dir, "model.safetensors"))).tensors.get(UP)!;
      await using file = await open(join(dir, "model.safetensors"), "r+");
      const infinity = Uint8Array.from(dtype === "f32" ? [0, 0, 128, 127] : [128, 127]);
      await file.write(infinity, 0, infinity.length, begin + 7 * infinity.length);
      const refused = async (element: number) => {
        const bad = await Parameters.load(device, spec, await openCheckpoint(dir));
        await expect(bad.checkFinite()).rejects.toMatchObject({ code: "ERR_NON_FINITE", where: { tensor: UP, element }, message: expect.stringContaining(`Infinity at element ${element}`) as string }); // prettier-ignore
        bad.dispose();
      };
      await refused(7);
      await file.write(infinity, 0, infinity.length, begin);
      await refused(0);
    });

    it("can be disposed of while something trains, or is replaced", async () => {
      const given = [filled(Q, 1), filled(NORM, 1), filled("added", 1)] as const;
      const values = new Map([[Q, given[0]], [NORM, given[1]], ["added", given[2]]]); // prettier-ignore
      for (const use of [(p: Parameters) => void p.train([Q, NORM], [added]), (p: Parameters) => p.override(values, [added])]) {
        const own = await Parameters.load(device, spec, checkpoint);
        use(own);
        const held = [...own.all(), own.attached("added")].map((p) => p.value);
        own.dispose();
        expect(own.state).toBeNull();
        expect(() => own.attached("added")).toThrow(LayoutError);
        expect(held.filter((t) => !t.disposed)).toEqual([]);
      }
      expect(given.map((t) => t.disposed)).toEqual([true, true, true]);
    });
  });
});
