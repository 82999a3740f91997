// The committed family fixtures against the numbers of Hugging Face on the device "cuda", in bf16, on the kernels of this GPU and on
// those of any; tolerances and how a near-tie of a router is told from an error: test/golden/families/. On emulation the
// ESFT curves are cut short, but for one family of each kind of attention. Alone: npx vitest run test/cuda/golden.test.ts

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { checkFamily } from "../golden/families.ts";
import { patience, withCudaModel } from "./model.ts";
import { closeCuda, cudaDevice } from "./support.ts";

const root = "test/fixtures/families";
/** Trained to the end on emulation too. */
const whole: ReadonlySet<string> = new Set(["olmoe", "deepseek-v2-lite"]);
/**
 * Norms over outputs near zero amplify what bf16 rounds, until nearly every token is routed otherwise somewhere: nothing is left to
 * compare. The two layers of qwen3_5-moe-vl do the same arithmetic once.
 */
const exactOnly: ReadonlySet<string> = new Set(["qwen3-next", "qwen3_5-moe"]);

withCudaModel("golden numbers on cuda", () => {
  afterAll(closeCuda);
  describe.each([{}, { path: "portable" as const }])("%j", (variant) => {
    it.each(readdirSync(root).filter((name) => !exactOnly.has(name)))(
      "%s",
      async (name) => {
        const device = cudaDevice(variant)!;
        const steps = !device.info.emulated ? undefined : "path" in variant ? 2 : whole.has(name) ? undefined : 5;
        const { outcome, failures, checks } = await checkFamily(device, join(root, name), steps);
        expect({ outcome, failures }).toEqual({ outcome: "pass", failures: [] });
        expect(checks.length).toBeGreaterThan(12);
      },
      patience,
    );
  });
});
