// A training run as the caller sees it: an async iterable of events with a result. It owns the run directory:
//
//   outDir/ adapter.safetensors, adapter.json, README.md   what the run delivers
//           checkpoint/                                    full state for exact resume
//           best/                                          adapter with the lowest held-out loss so far
//           events.jsonl                                   what happened
//           request.json, experts.json                     what was asked for: enough to resume by the directory alone

import { mkdir, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { AbortError, ConfigError, LayoutError } from "../errors.ts";
import { Adapter } from "../adapter/adapter.ts";
import type { AdapterTensor } from "../adapter/adapter.ts";
import { frozenDigest } from "../adapter/digest.ts";
import { ExpertSet } from "../experts/expert_set.ts";
import { Profile } from "../experts/profile.ts";
import type { LongTask } from "../task.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { f32ToBf16 } from "../files/floats.ts";
import { Dataset } from "../data/dataset.ts";
import { Examples } from "../data/examples.ts";
import { formatJson } from "../files/json.ts";
import { expertParameters } from "../model/spec.ts";
import type { DataSource, MoeModel } from "../moe_model.ts";
import type { TrainableSpec } from "../methods/trainable.ts";
import { esftTrainable, fullTrainable } from "../methods/trainable.ts";
import { hasCheckpoint } from "./checkpoint.ts";
import { EventQueue } from "./events.ts";
import type { TrainEvent } from "./events.ts";
import { availableOn, microBatchOf, requireMemory } from "./memory_plan.ts";
import { parseOptions } from "../options.ts";
import { methodSchema, trainSchema } from "../options.ts";
import type { DataInput, SelectInput, TrainInput, TrainOptions } from "../options.ts";
import { runTraining } from "./trainer.ts";
import type { TrainSummary } from "./trainer.ts";

export interface EsftMethod {
  readonly type: "esft";
  /** The experts, or a file that holds them. */
  readonly experts?: ExpertSet | string;
  /** Instead: a profile (or its file) and how to select from it. */
  readonly profile?: Profile | string;
  readonly select?: SelectInput;
  readonly sharedExperts?: boolean;
  readonly nonExpertModules?: boolean;
}

export interface TrainRequest extends Omit<TrainInput, "data"> {
  /** Rows to train on, or how to read them: `file` and the data options. */
  readonly data?: DataSource | (DataInput & { readonly file?: string });
  /** The rows, when `data` holds options only. */
  readonly dataset?: DataSource;
  /** Held-out rows; absent: `evalFraction` of the data. */
  readonly evalData?: DataSource;
  readonly evalDataset?: DataSource;
  readonly method: EsftMethod | { readonly type: "full" };
  readonly outDir: string;
  /** true: go on from outDir's checkpoint when there is one. */
  readonly resume?: boolean;
  /** Fires = checkpoint, then stop: the result says "interrupted". Before the first step, AbortError. */
  readonly signal?: AbortSignal | undefined;
  /** Hashing the base, before and after; the run itself tells its progress by events. */
  readonly onProgress?: LongTask["onProgress"];
}

export interface TrainResult extends TrainSummary {
  readonly outDir: string;
  /** What the run delivers, as saved in outDir; null when it was interrupted before the end. */
  readonly adapter: Adapter | null;
  readonly trainable: TrainableSpec;
}

export const REQUEST = "request.json";
export const EXPERTS = "experts.json";

/**
 * A run in progress: iterate its events, await its `result`. It goes on whether or not anyone iterates; an error ends the iteration
 * and rejects `result`, with everything up to the last checkpoint on disk.
 */
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

const isSource = (x: TrainRequest["data"]): x is DataSource => typeof x === "string" || x instanceof Dataset || x instanceof Examples;
const fileOf = (source: DataSource): string | null => (typeof source === "string" ? source : source.file);

async function expertsOf(model: MoeModel, method: EsftMethod, warn: (message: string) => void): Promise<ExpertSet> {
  const { experts, profile, select } = method;
  if ((experts === undefined) === (profile === undefined))
    throw new ConfigError(
      `train.method: expected either experts (a set or its file) or profile and select, found ${experts === undefined ? "neither" : "both"}`,
      { where: { key: "method.experts" } },
    );
  if (experts !== undefined) {
    if (select !== undefined)
      throw new ConfigError("train.method.select: expected with a profile only, found experts too", { where: { key: "method.select" } });
    const set = typeof experts === "string" ? await ExpertSet.load(experts) : experts;
    if (set.base !== undefined && set.base !== (await model.identity()).fingerprint)
      warn("the experts were selected on another checkpoint than the one to train");
    return set;
  }
  const loaded = typeof profile === "string" ? await Profile.load(profile) : profile!;
  const measured = loaded.data.model?.fingerprint;
  if (measured !== undefined && measured !== (await model.identity()).fingerprint)
    warn("the profile was measured on another checkpoint than the one to train");
  const rule = { ...select, expertParams: expertParameters(model.spec) };
  return loaded.select(rule as Parameters<Profile["select"]>[0]);
}

async function trainableOf(model: MoeModel, method: TrainRequest["method"], warn: (message: string) => void): Promise<TrainableSpec> {
  const { experts, profile, ...plain } = method as EsftMethod;
  const file = (x: unknown): string | undefined => (x === undefined ? undefined : typeof x === "string" ? x : "(given)");
  parseOptions(methodSchema, JSON.parse(JSON.stringify({ ...plain, experts: file(experts), profile: file(profile) })), "train.method");
  if (method.type === "full") return fullTrainable(model.spec);
  const set = await expertsOf(model, method, warn);
  for (const w of set.warnings) warn(w);
  return esftTrainable(
    model.spec,
    set.with({
      sharedExperts: method.sharedExperts ?? set.sharedExperts,
      nonExpertModules: method.nonExpertModules ?? set.nonExpertModules,
    }),
  );
}

/** request.json: a job (lib/options.ts jobSchema) with absolute paths; null where rows came from memory. */
async function keepRequest(
  model: MoeModel,
  trainable: TrainableSpec,
  options: TrainOptions,
  files: { data: string | null; evalData: string | null | undefined },
  outDir: string,
): Promise<void> {
  const path = (file: string | null): string | null => (file === null ? null : resolve(file));
  const { template } = options.data;
  const request = {
    model: model.dir,
    ...options,
    data: {
      ...options.data,
      template: template === "tokenizer" || template === "esft" ? template : resolve(template),
      file: path(files.data),
    },
    ...(files.evalData === undefined ? {} : { evalData: path(files.evalData) }),
    method: { type: trainable.type, ...(trainable.experts ? { experts: EXPERTS } : {}) },
    outDir: ".",
    ...(model.device.info.backend === "ref" ? {} : { device: model.device.info.backend }), // a resumed run computes where it began
    precision: model.transformer.precision,
  };
  await mkdir(outDir, { recursive: true });
  if (trainable.experts) await trainable.experts.save(join(outDir, EXPERTS));
  await writeFileAtomic(join(outDir, REQUEST), formatJson(request));
}

/** What outDir holds decides whether a run may begin there. @returns true: go on from its checkpoint */
async function resumes(outDir: string, resume: boolean): Promise<boolean> {
  const place = { where: { key: "outDir", file: outDir } };
  const checkpoint = await hasCheckpoint(outDir);
  if (checkpoint && !resume)
    throw new ConfigError(
      `${outDir} holds a run already; resume it ("esft resume ${outDir}", resume: true), or choose another outDir`,
      place,
    );
  if (!checkpoint && (await isFinished(outDir)))
    throw new ConfigError(`${outDir} holds an adapter already and no checkpoint to go on from; choose another outDir`, place);
  return checkpoint;
}

async function execute(model: MoeModel, request: TrainRequest, emit: (e: TrainEvent) => void): Promise<TrainResult> {
  const { data, dataset, evalData, evalDataset, method, outDir, resume, signal, onProgress, ...rest } = request;
  const { file, ...dataOptions } = isSource(data) || data === undefined ? { file: undefined } : data;
  const source = isSource(data) ? data : (dataset ?? file);
  if (source === undefined)
    throw new ConfigError("train.data: expected rows to train on (a JSONL file, a Dataset or Examples), found none", {
      where: { key: "data" },
    });
  const evalSource = evalData ?? evalDataset;
  const options = parseOptions(trainSchema, { ...rest, data: dataOptions }, "train");
  if (options.data.maxLength > model.spec.maxPositions)
    throw new ConfigError(`train.data.maxLength ${options.data.maxLength} exceeds the model's ${model.spec.maxPositions} positions`, {
      where: { key: "data.maxLength" },
    });
  const warn = (message: string): void => emit({ type: "warning", step: 0, message });
  const resuming = await resumes(outDir, resume ?? false);
  const trainable = await trainableOf(model, method, warn);
  const task = { signal, onProgress };
  const all = (await model.encode(source, options.data, task)).examples;
  let train = all;
  let heldOut = null;
  if (evalSource !== undefined) heldOut = (await model.encode(evalSource, options.data, task)).examples;
  else if (options.evalFraction > 0) {
    const parts = all.split(options.evalFraction, options.seed);
    train = parts.train;
    heldOut = parts.heldOut.length > 0 ? parts.heldOut : null;
  }
  const identity = await model.identity(task);
  const tokenizer = options.data.packing === "esft" ? await model.tokenizer() : null; // the paper's packing pads
  const memory = {
    spec: model.spec,
    trainable,
    microBatch: microBatchOf(options),
    maxLength: options.data.maxLength,
    where: model.device.info,
  };
  model.transformer.release();
  requireMemory(memory, await availableOn(model.device));
  const build = (summary: Partial<TrainSummary>, digest?: string): Adapter =>
    makeAdapter(model, trainable, options, identity, summary, digest);
  const files = { data: fileOf(source), evalData: evalSource === undefined ? undefined : fileOf(evalSource) };
  const keep = (): Promise<void> => keepRequest(model, trainable, options, files, outDir);
  // A run to resume keeps its request until its checkpoint was accepted ("start").
  if (!resuming) await keep();
  let kept = Promise.resolve();
  try {
    const summary = await runTraining({
      model: model.transformer,
      trainable,
      train,
      heldOut,
      options,
      outDir,
      base: identity.contents ?? identity.fingerprint,
      padId: tokenizer?.padId ?? tokenizer?.eosId ?? 0,
      signal,
      emit: (e) => {
        if (e.type === "start" && resuming) (kept = keep()).catch(() => undefined);
        emit(e);
      },
      keepBest: async (step) => {
        await build({ step }).save(join(outDir, "best"));
      },
    });
    await kept;
    const interrupted = (): TrainResult => ({ ...summary, reason: "interrupted", outDir, adapter: null, trainable });
    if (summary.reason === "interrupted") return interrupted();
    let digest: string;
    try {
      digest = await frozenDigest(
        model.checkpoint,
        trainable.keys.map((k) => model.params.byName(k)!.ref),
        task,
      );
    } catch (error) {
      if (error instanceof AbortError) return interrupted(); // all steps are done and kept: a resumed run delivers
      throw error;
    }
    if (options.keep === "best" && summary.best?.step === 0)
      emit({
        type: "warning",
        step: summary.step,
        message: "the held-out loss never fell below the base model's; the adapter is that of the last step",
      });
    const useBest = options.keep === "best" && summary.best !== null && summary.best.step > 0 && summary.best.step < summary.step;
    if (useBest) {
      // Delivered already when the run was finished once (and resumed, perhaps with more steps): best/ is gone then.
      const best = await Adapter.load((await isFinished(join(outDir, "best"))) ? join(outDir, "best") : outDir);
      if (best.training?.["step"] !== summary.best!.step)
        throw new LayoutError(
          `${outDir}: expected the best adapter of step ${summary.best!.step}, found ${best.training?.["step"] === undefined ? "none" : `step ${JSON.stringify(best.training["step"])}`}; train again, or resume with keep "last"`,
          { where: { file: outDir } },
        );
      await new Adapter({
        ...best,
        tensors: best.tensors.values(),
        training: facts(options, { ...summary, step: summary.best!.step }),
        frozenDigest: digest,
      }).save(outDir);
    } else await build(summary, digest).save(outDir);
    await rm(join(outDir, "best"), { recursive: true, force: true });
    return { ...summary, outDir, adapter: await Adapter.load(outDir), trainable };
  } finally {
    await model.device.synchronize().catch(() => undefined);
    model.params.freeze();
    model.transformer.release();
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
    const asBf16 = options.adapterDtype === "base" && p.stored === "bf16";
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
