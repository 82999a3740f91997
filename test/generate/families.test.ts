// Decoding with caches against the whole forward, for every family: greedy tokens alone and in ragged batches, prompts in pieces, logits.
// No GPU. Alone: npx vitest run test/generate/families.test.ts

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Engine } from "../../lib/generate/engine.ts";
import type { EngineOptions } from "../../lib/generate/engine.ts";
import { SequenceCache } from "../../lib/generate/sequence_cache.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { checkpointSpec } from "../../lib/model/families/index.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { Random } from "../ops/host.ts";
import { OneAtATime } from "../../lib/task.ts";
import { Device } from "../../lib/tensor.ts";

const own = "test/fixtures/families";
/** All of them, not only those that the project carries; skipped where they are not. */
const shared = "../shared/golden/families";
const root = existsSync(shared) ? shared : own;
const TOKENS = 10;

const device = new Device({ kind: "cpu", threads: 2 });
afterAll(() => device.dispose());

async function open(dir: string): Promise<Transformer> {
  const checkpoint = await openCheckpoint(dir);
  const spec = checkpointSpec(checkpoint);
  return new Transformer(spec, device, await Parameters.load(device, spec, checkpoint, {}), "f32");
}

/** Greedy answers of all prompts, submitted together. */
function greedy(model: Transformer, prompts: readonly (readonly number[])[], options: EngineOptions = {}): Promise<number[][]> {
  const engine = new Engine(model, new OneAtATime("the model"), options);
  return Promise.all(
    prompts.map(
      (prompt) =>
        new Promise<number[]>((resolve, reject) => {
          const ids: number[] = [];
          const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, logprobs: 0, uniform: () => 0 };
          engine.submit(
            { prompt, maxTokens: TOKENS, stop: new Set(), sampling, adapter: null },
            { token: (id) => (ids.push(id), false), end: () => resolve(ids), fail: reject },
          );
        }),
    ),
  );
}

async function logitsOf(model: Transformer, ids: readonly number[]): Promise<Float32Array> {
  using all = model.logits(hostBatch([{ ids, targets: ids.map(() => -100) }]));
  return all.readF32();
}

describe.each(readdirSync(root))("%s", (family) => {
  let model: Transformer;
  const prompts: number[][] = [];
  beforeAll(async () => {
    model = await open(join(root, family));
    const random = new Random(family);
    for (const n of [11, 1, 3, 30, 7]) prompts.push(Array.from({ length: n }, () => random.below(model.spec.vocab)));
  });
  afterAll(() => {
    model.dispose();
    model.params.dispose();
  });

  it("greedy tokens are those of whole forwards, alone, together and in pieces", async () => {
    const alone: number[][] = [];
    for (const prompt of prompts) alone.push((await greedy(model, [prompt]))[0]!);
    for (const [i, prompt] of prompts.entries()) {
      const V = model.spec.vocab;
      const whole = await logitsOf(model, [...prompt, ...alone[i]!]);
      const best = alone[i]!.map((_, j) => {
        const row = whole.subarray((prompt.length - 1 + j) * V, (prompt.length + j) * V);
        return row.reduce((b, x, id) => (x > row[b]! ? id : b), 0);
      });
      expect(alone[i]).toEqual(best);
    }
    expect(await greedy(model, prompts)).toEqual(alone);
    expect(await greedy(model, prompts, { piece: 4, maxBatch: 3 })).toEqual(alone);
  });

  it("logits are those of the whole forward within 3e-6", async () => {
    const ids = prompts[3]!;
    const V = model.spec.vocab;
    const whole = await logitsOf(model, ids);
    const size = whole.reduce((m, x) => Math.max(m, Math.abs(x)), 1);
    using cache = new SequenceCache(device, model.states(16), "f32", 8, 16);
    using logits = device.empty("f32", [1, V]);
    for (const count of [9, 1, 1, 5, 1, 1, 1, 1, 10]) {
      const { kept } = cache;
      cache.reserve(kept + count);
      const part = ids.slice(kept, kept + count);
      const host = {
        ...hostBatch([{ ids: part, targets: part.map(() => -100), positions: part.map((_, i) => kept + i) }]),
        lastPositions: new Int32Array(count).fill(ids.length - 1),
      };
      model.advance(host, { lists: cache.lists(), fresh: kept === 0 }, logits);
      cache.kept += count;
      const made = await logits.readF32();
      const row = whole.subarray((cache.kept - 1) * V, cache.kept * V);
      const error = made.reduce((m, x, i) => Math.max(m, Math.abs(x - row[i]!)), 0);
      expect(error / size).toBeLessThan(3e-6);
    }
  });
});
