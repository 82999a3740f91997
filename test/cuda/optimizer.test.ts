// grad_norm, saliency and adamw on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/optimizer.test.ts

import { expect, it } from "vitest";
import { adamwCases, gradNormCases, saliencyCases } from "../ops/cases/training.ts";
import { Random, toBf16 } from "../ops/host.ts";
import { pick, run } from "../ops/support.ts";
import { cudaDevice, describeCudaCases, withCuda } from "./support.ts";

describeCudaCases("optimizer", [...gradNormCases, ...saliencyCases, ...adamwCases]);

withCuda("bf16 copies on cuda", () => {
  it("each is its updated parameter rounded to nearest even", async () => {
    const c = adamwCases.find((x) => x.name === "bf16 copies")!;
    const outputs = await run(cudaDevice()!, "adamw", c.args(new Random("copies")));
    for (let i = 0; i < 6; i++) expect(pick(outputs, `copies[${i}]`)).toEqual(pick(outputs, `params[${i}]`).map(toBf16));
  });
});
