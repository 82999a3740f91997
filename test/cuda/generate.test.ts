// Greedy decoding through the engine on the device "cuda" (the emulation, or a GPU: npm run test:gpu), a family of each kind of state:
// keys and values, windows and sinks, latent keys, states of delta rules and of convolutions. Ragged batches give each sequence what it
// gets alone, and logits lie as near the CPU's exact forward as bf16 brings the whole forward of the same device.
// Alone: npx vitest run test/cuda/generate.test.ts

import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { Transformer } from "../../lib/model/transformer.ts";
import { Device } from "../../lib/tensor.ts";
import { closeModel, decoded, greedy, openModel, recordedAndNot, wholeLogits } from "../generate/support.ts";
import { relativeL2 } from "../golden/compare.ts";
import { Random } from "../ops/host.ts";
import { patience, withCudaModel } from "./model.ts";
import { closeCuda, cudaDevice } from "./support.ts";

const fixtures = "test/fixtures/families";
/** Those that are there: the folder for a GPU carries the first and the third. */
const families = ["olmoe", "gpt-oss", "deepseek-v2-lite", "qwen3-next", "lfm2-moe"].filter((f) => existsSync(join(fixtures, f)));
const TOKENS = 4;
const open = (device: Device, family: string): Promise<Transformer> => openModel(device, join(fixtures, family));

const median = (x: readonly number[]): number => x.toSorted((a, b) => a - b)[x.length >> 1]!;

withCudaModel("decoding on cuda", () => {
  const exact = new Device({ kind: "cpu", threads: 2 });
  afterAll(() => {
    exact.dispose();
    closeCuda();
  });

  describe.each(families)("%s", (family) => {
    const draw = (vocab: number, counts: readonly number[]): number[][] => {
      const random = new Random(family);
      return counts.map((n) => Array.from({ length: n }, () => random.below(vocab)));
    };

    it(
      "greedy tokens of a ragged batch are those of each sequence alone",
      async () => {
        const model = await open(cudaDevice()!, family);
        const prompts = draw(model.spec.vocab, [11, 1, 6]);
        const alone: number[][] = [];
        for (const prompt of prompts) alone.push((await greedy(model, [prompt], TOKENS, { piece: 16 }))[0]!);
        expect(await greedy(model, prompts, TOKENS, { piece: 16, maxBatch: 3 })).toEqual(alone);
        closeModel(model);
      },
      patience,
    );

    it(
      "recorded passes have the bits of ops one by one",
      async () => {
        const model = await open(cudaDevice()!, family);
        const { recorded, eager, launches, captures, disposals } = await recordedAndNot(model, 14);
        expect(recorded).toEqual(eager);
        expect(launches).toBeGreaterThan(8);
        expect(disposals).toBe(captures);
        expect(model.decoding.refusal).toBeNull();
        closeModel(model);
      },
      patience,
    );

    it(
      "logits are near those of the exact whole forward",
      async () => {
        const pieces = [9, 1, 1, 5, 1, 1, 1, 1, 4];
        const model = await open(cudaDevice()!, family);
        const twin = await open(exact, family);
        const V = model.spec.vocab;
        const ids = draw(V, [pieces.reduce((a, b) => a + b, 0)])[0]!;
        const [mine, want] = [await wholeLogits(model, ids), await wholeLogits(twin, ids)];
        let end = 0;
        const errors = (await decoded(model, ids, pieces, "bf16")).map((row, i) => {
          end += pieces[i]!;
          const at = (of: Float32Array): Float32Array => of.subarray((end - 1) * V, end * V);
          return { decoded: relativeL2(row, at(want)), whole: relativeL2(at(mine), at(want)) };
        });
        // Rows whose router stands near a tie are far off here and there: the median is not.
        expect(median(errors.map((e) => e.decoded))).toBeLessThan(Math.max(2.5e-2, 1.5 * median(errors.map((e) => e.whole))));
        closeModel(model);
        closeModel(twin);
      },
      patience,
    );
  });
});
