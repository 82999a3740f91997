// Kernels that begin before the one before them has ended (programmatic dependent launch) and the same ones after it: the bits of a
// training step are the same under every schedule. Alone: npx vitest run test/cuda/early_start.test.ts

import { afterEach, expect, it } from "vitest";
import { esftTrainable } from "../../lib/methods/esft.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { Device } from "../../lib/tensor.ts";
import { experts, open, patience, tinyCheckpoint, withCudaModel } from "./model.ts";

afterEach(() => {
  delete process.env.ESFT_CUDA_PDL;
  delete process.env.ESFT_EMU_SCHEDULE;
});

withCudaModel("early starts on cuda", () => {
  const at = tinyCheckpoint();

  it(
    "change no bit of a training step",
    async () => {
      const ids = Array.from({ length: 24 }, (_, i) => (i * 37 + 11) % 97);
      const batch = hostBatch([{ ids, targets: Int32Array.from(ids, (_, t) => (t + 1 < 24 ? ids[t + 1]! : -100)) }]);
      const seen = [];
      for (const [early, schedule] of [
        ["0", "eager"],
        ["1", "eager"],
        ["1", "late"],
        ["1", "random:5"],
      ] as const) {
        Object.assign(process.env, { ESFT_CUDA_PDL: early, ESFT_EMU_SCHEDULE: schedule });
        await using model = await open(at("model"));
        const { params, transformer } = model;
        const state = params.train(esftTrainable(model.spec, experts).keys);
        transformer.resetLoss();
        transformer.forwardBackward(batch, 1 / 23);
        seen.push({ ...(await transformer.readLoss()), grad: Buffer.from(await state.grad.readBytes()).toString("base64") });
      }
      for (const other of seen.slice(1)) expect(other).toEqual(seen[0]);
    },
    patience,
  );

  it("refuses another word", () => {
    process.env.ESFT_CUDA_PDL = "yes";
    expect(() => new Device({ kind: "cuda" })).toThrow(/ESFT_CUDA_PDL.*0 or 1.*yes/);
  });
});
