// Decoding with caches against the whole forward, for every family: greedy tokens alone and in ragged batches, prompts in pieces, logits.
// No GPU. Alone: npx vitest run test/generate/families.test.ts

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Transformer } from "../../lib/model/transformer.ts";
import { Device } from "../../lib/tensor.ts";
import { Random } from "../ops/host.ts";
import { closeModel, decoded, greedy, openModel, wholeLogits } from "./support.ts";

/** All of them where they are, else those that the project carries. */
const shared = "../shared/golden/families";
const root = existsSync(shared) ? shared : "test/fixtures/families";
const TOKENS = 10;

const device = new Device({ kind: "cpu", threads: 2 });
afterAll(() => device.dispose());

describe.each(readdirSync(root))("%s", (family) => {
  let model: Transformer;
  const prompts: number[][] = [];
  beforeAll(async () => {
    model = await openModel(device, join(root, family));
    const random = new Random(family);
    for (const n of [11, 1, 3, 30, 7]) prompts.push(Array.from({ length: n }, () => random.below(model.spec.vocab)));
  });
  afterAll(() => closeModel(model));

  it("greedy tokens are those of whole forwards, alone, together and in pieces", async () => {
    const alone: number[][] = [];
    for (const prompt of prompts) alone.push((await greedy(model, [prompt], TOKENS))[0]!);
    for (const [i, prompt] of prompts.entries()) {
      const V = model.spec.vocab;
      const whole = await wholeLogits(model, [...prompt, ...alone[i]!]);
      const best = alone[i]!.map((_, j) => {
        const row = whole.subarray((prompt.length - 1 + j) * V, (prompt.length + j) * V);
        return row.reduce((b, x, id) => (x > row[b]! ? id : b), 0);
      });
      expect(alone[i]).toEqual(best);
    }
    expect(await greedy(model, prompts, TOKENS)).toEqual(alone);
    expect(await greedy(model, prompts, TOKENS, { piece: 4, maxBatch: 3 })).toEqual(alone);
  });

  it("logits are those of the whole forward within 3e-6", async () => {
    const ids = prompts[3]!;
    const V = model.spec.vocab;
    const whole = await wholeLogits(model, ids);
    const size = whole.reduce((m, x) => Math.max(m, Math.abs(x)), 1);
    const pieces = [9, 1, 1, 5, 1, 1, 1, 1, 10];
    let end = 0;
    for (const [i, made] of (await decoded(model, ids, pieces, "f32")).entries()) {
      end += pieces[i]!;
      const row = whole.subarray((end - 1) * V, end * V);
      const error = made.reduce((m, x, c) => Math.max(m, Math.abs(x - row[c]!)), 0);
      expect(error / size).toBeLessThan(3e-6);
    }
  });
});
