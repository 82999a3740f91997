// A training run as the caller sees it: an async iterable of events with a result. It owns the run directory:
//
//   outDir/ adapter.safetensors, adapter.json, README.md   what the run delivers
//           checkpoint/                                    full state for exact resume
//           best/                                          adapter with the lowest held-out loss so far
//           events.jsonl, run.json                         what happened, and the options it was started with

import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError } from "../errors.ts";
import { Adapter } from "../esft/adapter.ts";
import type { AdapterTensor } from "../esft/adapter.ts";
import { frozenDigest } from "../esft/digest.ts";
import { ExpertSet } from "../esft/expert_set.ts";
import { writeFileAtomic } from "../io/atomic_file.ts";
import { f32ToBf16 } from "../io/bf16.ts";
import { formatJson } from "../io/json_file.ts";
import type { DataSource, MoeModel } from "../moe_model.ts";
import type { TrainableSpec } from "../tune/trainable.ts";
import { esftTrainable, fullTrainable } from "../tune/trainable.ts";
import { EventQueue } from "./events.ts";
import type { TrainEvent } from "./events.ts";
import { parseOptions } from "./parse.ts";
import { trainSchema } from "./options.ts";
import type { TrainInput, TrainOptions } from "./options.ts";
import { runTraining } from "./trainer.ts";
import type { TrainSummary } from "./trainer.ts";

export interface TrainRequest extends TrainInput {
  readonly dataset: DataSource;
  /** Held-out data; absent: `evalFraction` of the dataset. */
  readonly evalDataset?: DataSource;
  readonly method:
    | { readonly type: "esft"; readonly experts: ExpertSet | string; readonly sharedExperts?: boolean; readonly nonExpertModules?: boolean }
    | { readonly type: "full" };
  readonly outDir: string;
  /** true: go on from outDir's checkpoint when there is one. */
  readonly resume?: boolean;
  /** Fires = checkpoint, then stop. */
  readonly signal?: AbortSignal;
}

export interface TrainResult extends TrainSummary {
  readonly outDir: string;
  /** What the run delivers; null when it was interrupted before the end. */
  readonly adapter: Adapter | null;
  readonly trainable: TrainableSpec;
}

export class TrainingRun implements AsyncIterable<TrainEvent> {
  readonly result: Promise<TrainResult>;
  private readonly queue = new EventQueue();

  constructor(model: MoeModel, request: TrainRequest, release: () => void) {
    this.result = execute(model, request, (e) => this.queue.push(e)).finally(() => {
      release();
      this.queue.end();
    });
    // The error reaches whoever awaits `result`; a caller that only iterates must not crash the process.
    this.result.catch(() => undefined);
  }

  [Symbol.asyncIterator](): AsyncIterator<TrainEvent> {
    return this.queue[Symbol.asyncIterator]();
  }
}

async function trainableOf(model: MoeModel, method: TrainRequest["method"]): Promise<TrainableSpec> {
  if (method.type === "full") return fullTrainable(model.spec);
  const set = typeof method.experts === "string" ? await ExpertSet.load(method.experts) : method.experts;
  return esftTrainable(
    model.spec,
    set.with({ sharedExperts: method.sharedExperts ?? set.sharedExperts, nonExpertModules: method.nonExpertModules ?? set.nonExpertModules }),
  );
}

async function execute(model: MoeModel, request: TrainRequest, emit: (e: TrainEvent) => void): Promise<TrainResult> {
  const { dataset, evalDataset, method, outDir, resume, signal, ...rest } = request;
  const options = parseOptions(trainSchema, rest, "train");
  if (options.data.maxLength > model.spec.maxPositions)
    throw new ConfigError(`train.data.maxLength ${options.data.maxLength} exceeds the model's ${model.spec.maxPositions} positions`, { where: { key: "data.maxLength" } });
  const trainable = await trainableOf(model, method);
  const task = signal ? { signal } : {};
  const all = (await model.encode(dataset, options.data, task)).examples;
  let train = all;
  let heldOut = null;
  if (evalDataset !== undefined) heldOut = (await model.encode(evalDataset, options.data, task)).examples;
  else if (options.evalFraction > 0) {
    const parts = all.split(options.evalFraction, options.seed);
    train = parts.train;
    heldOut = parts.heldOut.length > 0 ? parts.heldOut : null;
  }
  const identity = await model.identity();
  const tokenizer = await model.tokenizer();
  const build = (summary: Partial<TrainSummary>, digest?: string): Adapter => makeAdapter(model, trainable, options, identity, summary, digest);
  try {
    const summary = await runTraining({
      model: model.transformer, trainable, train, heldOut, options, outDir, base: identity.contents ?? identity.fingerprint,
      padId: tokenizer.padId ?? tokenizer.eosId ?? 0, resume: resume ?? false, signal, emit,
      keepBest: async (step) => {
        await build({ step }).save(join(outDir, "best"));
      },
    });
    if (summary.reason === "interrupted") return { ...summary, outDir, adapter: null, trainable };
    const digest = await frozenDigest(model.checkpoint, trainable.keys.map((k) => model.params.byName(k)!.ref));
    const useBest = options.keep === "best" && summary.best !== null && summary.best.step > 0 && summary.best.step < summary.step;
    if (useBest) {
      const best = await Adapter.load(join(outDir, "best"));
      await new Adapter({ ...best, tensors: best.tensors.values(), training: facts(options, { ...summary, step: summary.best!.step }), frozenDigest: digest }).save(outDir);
    } else await build(summary, digest).save(outDir);
    await rm(join(outDir, "best"), { recursive: true, force: true });
    await writeFileAtomic(join(outDir, "options.json"), formatJson({ ...options, method: trainable.type }));
    return { ...summary, outDir, adapter: await Adapter.load(outDir), trainable };
  } finally {
    await model.device.synchronize().catch(() => undefined);
    model.params.freeze();
  }
}

/** What goes into the manifest: the same for the same run, whenever and however often it was interrupted. */
function facts(options: TrainOptions, summary: Partial<TrainSummary>): Record<string, never> {
  const { best, firstEval, lastEval, step, tokens } = summary;
  return JSON.parse(JSON.stringify({ options, step, tokens, best, firstEval, lastEval })) as Record<string, never>;
}

function makeAdapter(
  model: MoeModel,
  trainable: TrainableSpec,
  options: TrainOptions,
  identity: Awaited<ReturnType<MoeModel["identity"]>>,
  summary: Partial<TrainSummary>,
  digest: string | undefined,
): Adapter {
  const tensors = trainable.keys.map((key): AdapterTensor => {
    const p = model.params.byName(key)!;
    const asBf16 = options.adapterDtype === "base" && p.base.dtype === "bf16";
    return {
      ...p.ref,
      dtype: asBf16 ? "BF16" : "F32",
      shape: p.shape,
      read: async () => {
        const values = await p.master!.readF32();
        const out = asBf16 ? f32ToBf16(values) : values;
        return new Uint8Array(out.buffer, out.byteOffset, out.byteLength);
      },
    };
  });
  return new Adapter({
    method: { type: trainable.type },
    base: { name: model.name, identity },
    experts: trainable.experts,
    tensors,
    training: facts(options, summary),
    ...(digest ? { frozenDigest: digest } : {}),
  });
}

/** True when outDir holds a finished adapter. */
export async function isFinished(outDir: string): Promise<boolean> {
  return stat(join(outDir, "adapter.json")).then(
    () => true,
    () => false,
  );
}
