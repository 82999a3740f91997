// A base that is quantised on disk on the device "cuda": decoded on the host into device memory, masters from the exact values. Alone:
// npx vitest run test/cuda/quantised.test.ts

import { join } from "node:path";
import { expect, it } from "vitest";
import { decodeFloats, encodeFloats } from "../../lib/files/floats.ts";
import { Device } from "../../lib/tensor.ts";
import { checkQuantised } from "../golden/quantised.ts";
import { quantiseModel } from "../support/quantised_model.ts";
import { open, tinyCheckpoint, withCudaModel } from "./model.ts";

const fixtures = "test/fixtures/quantised";

withCudaModel("quantised weights on cuda", () => {
  const at = tinyCheckpoint();

  it.each(["bnb-nf4-double", "ct-int4-g32-asym", "fp8-fused", "mxfp4-extremes", "gguf"])("%s, bit for bit", async (name) => {
    using device = new Device({ kind: "cuda" });
    expect(await checkQuantised(device, join(fixtures, `${name}.safetensors`))).toMatchObject({ outcome: "pass", failures: [] });
  });

  it.each(["fp8", "int8"] as const)("a model stored as %s has its values, rounded where products read bf16", async (scheme) => {
    const values = await quantiseModel(at("model"), at(scheme), scheme);
    await using model = await open(at(scheme));
    const trains = [...values.keys()].filter((name) => name.includes(".1.mlp.experts.3."));
    for (const [name, wanted] of values) {
      const p = model.params.byName(name)!;
      expect(p.value.dtype).toBe("bf16");
      expect(await p.value.readF32(), name).toEqual(decodeFloats(encodeFloats(wanted, "BF16"), "BF16"));
    }
    model.params.train(trains);
    for (const name of trains) expect(await model.params.byName(name)!.master!.readF32(), name).toEqual(values.get(name));
    model.params.freeze();
    for (const name of trains)
      expect(await model.params.byName(name)!.value.readF32()).toEqual(decodeFloats(encodeFloats(values.get(name)!, "BF16"), "BF16"));
  });
});
