// Frozen weights in device memory are the file's bytes, before, while and after others train or are replaced; what trained is put
// back. Weights of an f32 checkpoint are its values rounded once. Alone: npx vitest run test/cuda/frozen.test.ts

import { describe, expect, it } from "vitest";
import { f32ToBf16 } from "../../lib/floats.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import type { BaseParameter as Parameter } from "../../lib/model/weights/parameter.ts";
import type { MoeModel } from "../../lib/moe_model.ts";
import { AdamW } from "../../lib/train/optimizer.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { experts, open, patience, same, tinyCheckpoint, train, withCudaModel } from "./model.ts";

const ids = Array.from({ length: 24 }, (_, i) => (i * 37 + 11) % 97);
const batch = hostBatch([{ ids, targets: Int32Array.from(ids, (_, t) => (t + 1 < ids.length ? ids[t + 1]! : -100)) }]);

/** What the file says a parameter holds, in the dtype it has on the device. */
async function fileBytes(model: MoeModel, p: Parameter): Promise<Uint8Array> {
  const whole = await model.checkpoint.read(p.ref.name);
  if (p.base.dtype === p.stored) return whole;
  return new Uint8Array(f32ToBf16(new Float32Array(whole.slice().buffer)).buffer);
}
const held = async (p: Parameter): Promise<Uint8Array> => new Uint8Array(await p.value.readBytes());

async function differing(model: MoeModel): Promise<string[]> {
  const out: string[] = [];
  for (const p of model.params.all()) if (!same(await held(p), await fileBytes(model, p))) out.push(p.key);
  return out;
}

withCudaModel("frozen weights on cuda", () => {
  describe.each(["bf16", "f32"] as const)("of a checkpoint in %s", (dtype) => {
    const at = tinyCheckpoint({ dtype });

    it(
      "are the file's while others train; what trains is the rounded master, and the file's again afterwards",
      async () => {
        await using model = await open(at("model"));
        const { params, transformer, device } = model;
        expect(device.info.hostMemory).toBe(false);
        expect(await differing(model)).toEqual([]);
        const keys = [...esftTrainable(model.spec, experts).keys].sort();
        const state = params.train(keys);
        for (const p of params.all().filter((q) => q.trains)) expect(same(new Uint8Array((await p.master!.readF32()).buffer), new Uint8Array((await params.storedValues(p)).buffer)), p.key).toBe(true); // prettier-ignore
        const optimizer = new AdamW(device, state, { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1 });
        for (let step = 0; step < 2; step++) {
          transformer.forwardBackward(batch, 1 / batch.supervised, batch.ids.length, {}, false);
          optimizer.step(1e-2);
        }
        expect((await differing(model)).sort()).toEqual(keys);
        for (const p of params.all().filter((q) => q.trains))
          expect(same(await held(p), new Uint8Array(f32ToBf16(await p.master!.readF32()).buffer)), p.key).toBe(true);
        optimizer.dispose();
        params.freeze();
        expect(await differing(model)).toEqual([]);
      },
      patience,
    );

    it(
      "come back after a whole run, and after its adapter was applied and removed",
      async () => {
        await using model = await open(at("model"));
        const host = hostBatch([{ ids, targets: ids.map(() => -100) }]);
        const base = await model.transformer.lastLogits(host);
        await train(model, at("run"), { steps: 2 });
        expect(await differing(model)).toEqual([]);
        await model.applyAdapter(at("run"));
        expect(await differing(model)).toHaveLength(9);
        expect(await model.transformer.lastLogits(host)).not.toEqual(base);
        model.removeAdapter();
        expect(await differing(model)).toEqual([]);
        expect(await model.transformer.lastLogits(host)).toEqual(base);
      },
      patience,
    );
  });
});
