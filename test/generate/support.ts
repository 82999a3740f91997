// Fixtures of families through the engine: greedy answers, and the logits of pieces that are taken in one by one.

import { vi } from "vitest";
import { Engine } from "../../lib/generate/engine.ts";
import type { EngineOptions } from "../../lib/generate/engine.ts";
import { SequenceCache } from "../../lib/generate/sequence_cache.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { checkpointSpec } from "../../lib/model/families/index.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import type { Sampling } from "../../lib/generate/sequence.ts";
import { OneAtATime } from "../../lib/task.ts";
import { Device, Graph } from "../../lib/tensor.ts";

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

export const greedySampling: Sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, logprobs: 0, uniform: () => 0 };

/** Greedy answers of `tokens` tokens to all prompts, submitted together. */
export function greedy(model: Transformer, prompts: readonly Ids[], tokens: number, options: EngineOptions = {}): Promise<number[][]> {
  const engine = new Engine(model, new OneAtATime("the model"), options);
  return Promise.all(
    prompts.map(
      (prompt) =>
        new Promise<number[]>((resolve, reject) => {
          const ids: number[] = [];
          engine.submit(
            { prompt, maxTokens: tokens, stop: new Set(), sampling: greedySampling, adapter: null },
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

/**
 * Answers of up to `tokens` tokens with their likelihoods, decoded with recordings and without: prompts of several lengths that come one
 * after another and end one after another, sampled in several ways, in batches of three at most.
 */
export async function recordedAndNot(model: Transformer, tokens: number) {
  const uniform = (i: number): number => ((i * 7919) % 1000) / 1000;
  const ways: Partial<Sampling>[] = [{}, { temperature: 0.8, topP: 0.9, logprobs: 3 }, { repetitionPenalty: 1.3 }, { temperature: 1, topK: 5, minP: 0.01 }]; // prettier-ignore
  const answers = async (): Promise<unknown[][]> => {
    const engine = new Engine(model, new OneAtATime("the model"), { piece: 8, maxBatch: 3 });
    const start = (i: number): Promise<unknown[][]> =>
      new Promise((resolve, reject) => {
        const told: unknown[] = [];
        let next: Promise<unknown[][]> = Promise.resolve([]);
        const prompt = Array.from({ length: [5, 1, 11, 3][i]! }, (_, j) => (i * 13 + j * 5) % model.spec.vocab);
        engine.submit(
          { prompt, maxTokens: tokens - 3 * i, stop: new Set(), sampling: { ...greedySampling, uniform, ...ways[i] }, adapter: null },
          {
            token: (id, { logprob, top }) => {
              told.push([id, logprob, top]);
              if (told.length === 6 && i + 1 < ways.length) next = start(i + 1);
              return false;
            },
            end: () => resolve(next.then((later) => [told, ...later])),
            fail: reject,
          },
        );
      });
    return start(0);
  };
  const [launch, dispose, capture] = [vi.spyOn(Graph.prototype, "launch"), vi.spyOn(Graph.prototype, "dispose"), vi.spyOn(Device.prototype, "capture")]; // prettier-ignore
  const recorded = await answers();
  const counts = { launches: launch.mock.calls.length, captures: capture.mock.calls.length, disposals: dispose.mock.calls.length };
  const { records } = model.decoding;
  Object.assign(model.decoding, { records: false });
  const eager = await answers();
  if (launch.mock.calls.length > counts.launches) throw new Error("recorded all the same");
  Object.assign(model.decoding, { records });
  vi.restoreAllMocks();
  return { recorded, eager, ...counts };
}
