// The committed family fixtures against the numbers of Hugging Face on the device "cuda", in bf16, on the kernels of this GPU and on
// those of any; tolerances and how a near-tie of a router is told from an error: test/golden/families/. On emulation the
// second ESFT curve is cut short. Alone: npx vitest run test/cuda/golden.test.ts

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { checkFamily } from "../golden/families.ts";
import { patience, withCudaModel } from "./model.ts";
import { closeCuda, cudaDevice } from "./support.ts";

const root = "test/fixtures/families";

withCudaModel("golden numbers on cuda", () => {
  afterAll(closeCuda);
  describe.each([{}, { path: "portable" as const }])("%j", (variant) => {
    it.each(readdirSync(root))(
      "%s",
      async (name) => {
        const device = cudaDevice(variant)!;
        const steps = device.info.emulated && "path" in variant ? 2 : undefined;
        const { outcome, failures, checks } = await checkFamily(device, join(root, name), steps);
        expect({ outcome, failures }).toEqual({ outcome: "pass", failures: [] });
        expect(checks.length).toBeGreaterThan(12);
      },
      patience,
    );
  });
});
