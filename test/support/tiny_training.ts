// A tiny model ready to train without a run directory or text: for tests of the training loop and its parts.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ExampleBuilder } from "../../lib/data/examples.ts";
import type { Examples } from "../../lib/data/examples.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { hashCheckpoint } from "../../lib/files/hash.ts";
import { esftTrainable } from "../../lib/methods/esft.ts";
import type { TrainableSpec } from "../../lib/methods/method.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { parseOptions, trainSchema } from "../../lib/options.ts";
import type { TrainOptions } from "../../lib/options.ts";
import { Device } from "../../lib/tensor.ts";
import type { TrainSession } from "../../lib/train/session.ts";
import { normals, tinyOlmoe, writeTinyModel } from "./tiny_model.ts";

export interface TinyTraining {
  readonly dir: string;
  readonly model: Transformer;
  /** Experts 0 and 3 of layer 0, expert 2 of layer 1. */
  readonly trainable: TrainableSpec;
  /** The model as runs see it, without a tokenizer. */
  readonly session: TrainSession;
  readonly close: () => Promise<void>;
}

export async function tinyTraining(vocab = 64): Promise<TinyTraining> {
  const dir = await mkdtemp(join(tmpdir(), "esft-tiny-"));
  await writeTinyModel(dir, { ...tinyOlmoe, vocab_size: vocab }, { tokenizer: false });
  const checkpoint = await openCheckpoint(dir);
  await checkpoint.files.hold(checkpoint.shards);
  const spec = modelSpec(checkpoint.config, dir);
  const device = new Device({ kind: "cpu", threads: 1 });
  const params = await Parameters.load(device, spec, checkpoint);
  const model = new Transformer(spec, device, params);
  const experts = new ExpertSet({ layers: [[0, { ranked: [0, 3] }], [1, { ranked: [2] }]] }); // prettier-ignore
  const close = async (): Promise<void> => {
    model.dispose();
    params.dispose();
    device.dispose();
    await checkpoint.files.close();
    await rm(dir, { recursive: true, force: true });
  };
  const identity = async () => (await hashCheckpoint(checkpoint)).identity;
  const tokenizer = (): Promise<never> => Promise.reject(new Error("a tiny model has no tokenizer"));
  const session = {
    dir,
    revision: null,
    name: "tiny",
    spec,
    checkpoint,
    device,
    transformer: model,
    params,
    tokenizer,
    identity,
    continuations: tokenizer,
  };
  return { dir, model, trainable: esftTrainable(spec, experts), session, close };
}

export function trainOptions(more: Record<string, unknown> = {}): TrainOptions {
  const given = {
    steps: 4,
    rowsPerStep: 5,
    microBatch: 2,
    optimizer: { lr: 0.01 },
    data: { packing: "none", maxLength: 16 },
    evalFraction: 0,
    ...more,
  };
  return parseOptions(trainSchema, given, "train") as TrainOptions; // steps are given
}

/** Examples of 4 to 15 tokens; the first few of each are not supervised. */
export function tinyExamples(count: number, seed = 1): Examples {
  const normal = normals(seed);
  const below = (n: number): number => Math.floor(Math.abs(normal()) * 1000) % n;
  const builder = new ExampleBuilder();
  for (let i = 0; i < count; i++) {
    const inputIds = Array.from({ length: 4 + below(12) }, () => below(64));
    const prompt = 1 + below(3);
    builder.add({ inputIds, labels: inputIds.map((id, t) => (t < prompt ? -100 : id)) }, i + 1);
  }
  return builder.build(null);
}
