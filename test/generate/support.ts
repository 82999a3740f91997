// Fixtures of families through the engine: greedy answers, and the logits of pieces that are taken in one by one.

import { Engine } from "../../lib/generate/engine.ts";
import type { EngineOptions } from "../../lib/generate/engine.ts";
import { SequenceCache } from "../../lib/generate/sequence_cache.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { checkpointSpec } from "../../lib/model/families/index.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { OneAtATime } from "../../lib/task.ts";
import type { Device } from "../../lib/tensor.ts";

export async function openModel(device: Device, dir: string): Promise<Transformer> {
  const checkpoint = await openCheckpoint(dir);
  const spec = checkpointSpec(checkpoint);
  return new Transformer(spec, device, await Parameters.load(device, spec, checkpoint));
}
export function closeModel(model: Transformer): void {
  model.dispose();
  model.params.dispose();
}

type Ids = readonly number[];

/** Greedy answers of `tokens` tokens to all prompts, submitted together. */
export function greedy(model: Transformer, prompts: readonly Ids[], tokens: number, options: EngineOptions = {}): Promise<number[][]> {
  const engine = new Engine(model, new OneAtATime("the model"), options);
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, logprobs: 0, uniform: () => 0 };
  return Promise.all(
    prompts.map(
      (prompt) =>
        new Promise<number[]>((resolve, reject) => {
          const ids: number[] = [];
          engine.submit(
            { prompt, maxTokens: tokens, stop: new Set(), sampling, adapter: null },
            { token: (id) => (ids.push(id), false), end: () => resolve(ids), fail: reject },
          );
        }),
    ),
  );
}

/** Logits [T · V] of a whole forward. */
export async function wholeLogits(model: Transformer, ids: Ids): Promise<Float32Array> {
  using all = model.logits(hostBatch([{ ids, targets: ids.map(() => -100) }]));
  return all.readF32();
}

/** Logits behind the last token of each piece, taken in by a pass of its own. */
export async function decoded(model: Transformer, ids: Ids, pieces: readonly number[], cache: "f32" | "bf16"): Promise<Float32Array[]> {
  const { device } = model;
  const rows: Float32Array[] = [];
  using kept = new SequenceCache(device, model.states(16), cache, 8, 16);
  using logits = device.empty("f32", [1, model.spec.vocab]);
  for (const count of pieces) {
    const from = kept.kept;
    kept.reserve(from + count);
    const part = ids.slice(from, from + count);
    const host = {
      ...hostBatch([{ ids: part, targets: part.map(() => -100), positions: part.map((_, i) => from + i) }]),
      lastPositions: new Int32Array(count).fill(ids.length - 1),
    };
    model.advance(host, { lists: kept.lists(), fresh: from === 0 }, logits);
    kept.kept += count;
    rows.push(await logits.readF32());
  }
  return rows;
}
