// A training run as the caller sees it: an async iterable of events with a result. It owns the run directory:
//
//   outDir/ adapter.safetensors, adapter.json, README.md   what the run delivers
//           checkpoint/                                    full state for exact resume
//           best/                                          adapters with the lowest held-out loss so far
//           events.jsonl                                   what happened
//           request.json, experts.json                     what was asked for: enough to resume by the directory alone

import type { Adapter } from "../adapter/adapter.ts";
import { isAdapterDir } from "../adapter/folder.ts";
import type { Examples } from "../data/examples.ts";
import { remarks } from "../data/dataset.ts";
import { isList, type DataFile } from "../data/mixture.ts";
import { encodeFiles, encodeSource } from "../data/source.ts";
import type { DataSource } from "../data/source.ts";
import { requireApart } from "../files/apart.ts";
import { debug } from "../debug.ts";
import { ConfigError, DisposedError, EsftError } from "../errors.ts";
import type { TrainableSpec } from "../methods/method.ts";
import { withStages } from "../methods/stages.ts";
import type { AskedOptions } from "../options.ts";
import type { LongTask } from "../task.ts";
import { hasCheckpoint } from "./checkpoint.ts";
import { checkBest, deliver, keepBest } from "./deliver.ts";
import { requireHeldOut } from "./early_stop.ts";
import { requireEffects } from "./effects.ts";
import { driftOf } from "./drift.ts";
import { Guard } from "./guard.ts";
import { EventQueue } from "./events.ts";
import type { TrainEvent } from "./events.ts";
import { availableMemory, availableOn, requireRoomForExamples } from "./available_memory.ts";
import { rowsOf, stepsAsked } from "./length.ts";
import { microBatchOf, requireMemory } from "./memory_plan.ts";
import type { DataSize, MemoryPlan } from "./memory_plan.ts";
import { CheckedRequest, keepRequest } from "./request.ts";
import type { RunControl, TrainRequest } from "./request.ts";
import { resolveMethod, split } from "./resolve_method.ts";
import { lockRun } from "./run_lock.ts";
import { Sampler } from "./samples.ts";
import { requireRates } from "./schedule.ts";
import type { TrainSession } from "./session.ts";
import { trainingStream } from "./streams.ts";
import { TimeLimit } from "./time_limit.ts";
import { runTraining } from "./trainer.ts";
import type { TrainerInit, TrainSummary } from "./trainer.ts";

export interface TrainResult extends TrainSummary {
  readonly outDir: string;
  /** What the run delivers, as saved in outDir; null when it was interrupted before the end. */
  readonly adapter: Adapter | null;
  readonly trainable: TrainableSpec;
}

/** Carries the run out as the only user of its session; the signal it hands over fires when the run is to stop. */
type Alone = <T>(work: (signal: AbortSignal) => Promise<T>) => Promise<T>;

/**
 * A run in progress: iterate its events, await its `result`, or both. It goes on whether or not anyone does. An error, with everything
 * up to the last checkpoint on disk, rejects `result`, and is thrown by the iteration after the events before it. A run that fails
 * while nobody has asked for either is told of by a process warning; asked later, both still give the error.
 */
export class TrainingRun implements AsyncIterable<TrainEvent> {
  private readonly ended: Promise<TrainResult>;
  private readonly queue = new EventQueue(() => this.tellUnread());
  private resultRead = false;
  private failure: { readonly error: unknown } | null = null;
  private told = false;

  constructor(session: TrainSession, request: TrainRequest | CheckedRequest, alone: Alone) {
    this.ended = alone((signal) => execute(session, request, signal, (e) => this.queue.push(e)));
    this.ended.then(
      () => this.queue.end(),
      (error: unknown) => {
        this.failure = { error };
        this.queue.end(this.failure);
        this.tellUnread();
      },
    );
  }

  /** @throws whatever ended the run */
  get result(): Promise<TrainResult> {
    this.resultRead = true;
    return this.ended;
  }

  [Symbol.asyncIterator](): AsyncIterator<TrainEvent> {
    return this.queue[Symbol.asyncIterator]();
  }

  private tellUnread(): void {
    // A moment later: who started a run that fails at once, or left its events, may ask for the result next.
    setImmediate(() => {
      if (this.failure === null || this.resultRead || this.queue.heard || this.told) return;
      this.told = true;
      const { error } = this.failure;
      if (error instanceof DisposedError) return; // whoever disposed of the model meant to end the run
      const text = error instanceof EsftError ? `${error.name} [${error.code}]: ${error.message}` : String(error);
      process.emitWarning(`a training run failed, and neither its events nor its result were read: ${text}`, {
        type: "EsftWarning",
        code: "ESFT_RUN_UNREAD",
      });
    });
  }
}

async function execute(
  session: TrainSession,
  asked: TrainRequest | CheckedRequest,
  signal: AbortSignal,
  emit: (event: TrainEvent) => void,
): Promise<TrainResult> {
  const request = asked instanceof CheckedRequest ? asked : CheckedRequest.parse(asked);
  await using _ = await lockRun(request.outDir);
  return await carryOut(session, request, { ...request.control, signal }, emit);
}

async function carryOut(
  session: TrainSession,
  request: CheckedRequest,
  task: RunControl & { readonly signal: AbortSignal },
  emit: (event: TrainEvent) => void,
): Promise<TrainResult> {
  const { outDir } = request;
  using limit = new TimeLimit(request.options.maxHours);
  const warnAt = (step: number) => (message: string) => emit({ type: "warning", step, message });
  const prepared = await prepare(session, request, task, warnAt(0));
  const { trainable, identity, resuming, options } = prepared;
  // A run to resume keeps its request until its checkpoint was accepted ("start").
  const keep = (): Promise<void> => keepRequest(session, request, trainable);
  if (!resuming) await keep();
  let kept = Promise.resolve();
  try {
    const delivery = { session, trainable, options, identity, outDir, files: prepared.stream?.shares ?? undefined };
    const summary = await runTraining({
      ...prepared,
      model: session.transformer,
      outDir,
      base: identity.contents ?? identity.fingerprint,
      roundedBase: session.params.roundedBase,
      signal: task.signal,
      timeUp: limit.signal,
      emit: (event) => {
        if (event.type === "start" && resuming) (kept = keep()).catch(() => undefined);
        emit(event);
      },
      beforeSave: async () => void (await session.checkpoint.files.requireUnchanged()),
      keepBest: (step, ranks) => keepBest(delivery, step, ranks),
      checkBest: (best) => checkBest(delivery, best),
      extend: task.extend,
    });
    await kept;
    const adapter = summary.reason === "finished" ? await deliver(delivery, summary, warnAt(summary.step), task) : null;
    return { ...summary, reason: adapter ? "finished" : "interrupted", outDir, adapter, trainable };
  } catch (error) {
    await session.checkpoint.files.requireUnchanged(); // weights that changed explain any other failure
    throw error;
  } finally {
    await session.device.synchronize().catch(() => undefined);
    session.transformer.freeze();
    session.transformer.release();
  }
}

/** All that can refuse a run: nothing is allocated or written yet. `resuming`: outDir holds a checkpoint to go on from. */
async function prepare(session: TrainSession, request: CheckedRequest, task: LongTask, warn: (message: string) => void) {
  const { options, outDir, control } = request;
  await requireApart(outDir, session.dir, "the model");
  if (options.data.maxLength > session.spec.maxPositions)
    throw new ConfigError(`train.data.maxLength ${options.data.maxLength} exceeds the model's ${session.spec.maxPositions} positions`, {
      where: { key: "data.maxLength" },
    });
  const resuming = await resumes(outDir, control.resume ?? false);
  const method = await resolveMethod(session, request.method, options.seed, warn);
  const targets = options.stages?.map(({ targets: of }) => (typeof of === "string" ? split(of) : of));
  const trainable = targets ? withStages(session.spec, method, targets) : method;
  requireEffects(session.spec, trainable, options);
  const { train, heldOut, held, others } = await readExamples(session, request, task, warn);
  requireHeldOut(options, heldOut);
  const identity = await session.identity(task);
  await session.checkpoint.files.requireUnchanged();
  const tokenizer = options.data.packing === "esft" ? await session.tokenizer() : null; // the paper's packing pads
  const padId = tokenizer?.padId ?? tokenizer?.eosId ?? 0;
  const examples = [train, heldOut, ...others].reduce((n, of) => n + (of?.length ?? 0), 0);
  const data = { held, examples, repacked: options.data.packing === "esft" };
  const plan = await requireRoom(session, trainable, options, data);
  const { steps, ...counted } = await measureLength(options, train, padId, task);
  requireEffects(session.spec, trainable, { ...options, steps });
  const guarded = request.guard?.files.map(({ name }, i) => ({ name, examples: others[i]! })) ?? [];
  const guard = request.guard && new Guard({ ...request.guard, files: guarded }, options, padId);
  const drift = options.driftEvery > 0 ? await driftOf(session, request.method, method, options) : null;
  const { sampleEvery, sampleRows, sampleTokens } = options;
  const sampler = sampleEvery > 0 ? new Sampler(session, await session.tokenizer(), heldOut, sampleRows, sampleTokens) : null;
  if (sampler?.length === 0)
    throw new ConfigError(
      `train.sampleEvery ${sampleEvery}: expected held-out rows with a question and an answer, found none in ${heldOut?.length ?? 0} held-out rows; ` +
        "hold some out (evalFraction, or eval data), or leave sampleEvery out",
      { where: { key: "sampleEvery" } },
    );
  return {
    resuming,
    trainable,
    options: { ...options, steps },
    train,
    heldOut,
    identity,
    padId,
    hostBytes: plan.hostBytes,
    sampler,
    guard,
    drift,
    ...counted,
  };
}

/** What outDir holds decides whether a run may begin there. @returns true: go on from its checkpoint */
async function resumes(outDir: string, resume: boolean): Promise<boolean> {
  const place = { where: { key: "outDir", file: outDir } };
  const checkpoint = await hasCheckpoint(outDir);
  debug(
    "resume",
    () => `${outDir}: ${checkpoint ? "a checkpoint" : "no checkpoint"}, ${resume ? "to go on from where there is one" : "a new run"}`,
  );
  if (checkpoint && !resume)
    throw new ConfigError(
      `${outDir} holds a run already; resume it ("esft resume ${outDir}", resume: true), or choose another outDir`,
      place,
    );
  if (!checkpoint && (await isAdapterDir(outDir)))
    throw new ConfigError(`${outDir} holds an adapter already and no checkpoint to go on from; choose another outDir`, place);
  return checkpoint;
}

/** The rows to train on, those held out (evalData, or a share of the data), and the `others` of the guard. `held`: bytes of all. */
async function readExamples(
  session: TrainSession,
  request: CheckedRequest,
  task: LongTask,
  warn: (message: string) => void,
): Promise<Pick<TrainerInit, "train" | "heldOut"> & { readonly held: number; readonly others: readonly Examples[] }> {
  const { data, evalData, guard, options } = request;
  const reading = { signal: task.signal, room: requireRoomForExamples };
  const encode = async (source: DataSource): Promise<Examples> => {
    const { examples, report } = await encodeSource(source, options.data, () => session.tokenizer(), reading);
    if (report !== null) for (const remark of remarks(report)) warn(remark);
    return examples;
  };
  const encodeList = async (files: readonly DataFile[]): Promise<Examples> => {
    const { examples, reports } = await encodeFiles(files, options.data, () => session.tokenizer(), options.seed, reading);
    for (const remark of reports.flatMap(remarks)) warn(remark);
    return examples;
  };
  const all = isList(data) ? await encodeList(data) : await encode(data);
  const own = evalData === null ? null : await encode(evalData);
  const others: Examples[] = [];
  for (const { file } of guard?.files ?? []) others.push(await encode(file));
  const held = [all, own, ...others].reduce((n, of) => n + (of?.bytes ?? 0), 0);
  if (own !== null || options.evalFraction === 0) return { train: all, heldOut: own, held, others };
  const { train, heldOut } = all.split(options.evalFraction, options.seed);
  return { train, heldOut: heldOut.length > 0 ? heldOut : null, held: held + 4 * all.length, others };
}

/** The updates of the run: those of its epochs, where it asked for such; with the stream, where it was asked for rows or shares. */
async function measureLength(
  options: AskedOptions,
  train: Examples,
  padId: number,
  task: LongTask,
): Promise<{ readonly steps: number } & Pick<TrainerInit, "stream" | "epochRows">> {
  const asked = stepsAsked(options);
  if (asked !== undefined && train.origins.length === 1) return { steps: asked };
  const stream = trainingStream(train, options, padId);
  if (asked !== undefined) return { steps: asked, stream };
  const epochRows = await rowsOf(stream, options.epochs!, task.signal);
  const steps = Math.ceil(epochRows / options.rowsPerStep);
  requireRates({ ...options, steps });
  return { steps, stream, epochRows };
}

/** @throws MemoryError the plan of the run does not fit */
async function requireRoom(session: TrainSession, trainable: TrainableSpec, options: AskedOptions, data: DataSize): Promise<MemoryPlan> {
  const { spec, device, transformer } = session;
  transformer.release(); // what earlier passes hold counts as free
  const plan = { spec, trainable, microBatch: microBatchOf(options), maxLength: options.data.maxLength, where: device.info, data };
  return requireMemory(plan, { device: await availableOn(device), host: await availableMemory() });
}
