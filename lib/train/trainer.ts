// The training loop: batches → gradients → AdamW, with held-out loss, checkpoints, exact resume and safe interrupts.
// It knows neither the method (a TrainableSpec says what trains) nor where adapters go (the caller delivers).

import { join } from "node:path";
import { mkdir } from "node:fs/promises";
import { ConfigError, NonFiniteError } from "../errors.ts";
import { throwIfAborted } from "../io/atomic_file.ts";
import { sha256 } from "../io/hash.ts";
import type { Examples } from "../io/dataset_examples.ts";
import { BatchStream } from "../io/packing_batches.ts";
import type { PackedRow } from "../io/packing.ts";
import { hostBatch } from "../model/batch.ts";
import type { Transformer } from "../model/transformer.ts";
import type { TrainingState } from "../model/parameters.ts";
import type { TrainableSpec } from "../tune/trainable.ts";
import { hasCheckpoint, restoreCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import type { RunState } from "./checkpoint.ts";
import { Coverage } from "./coverage.ts";
import { EventLog } from "./events.ts";
import type { TrainEvent } from "./events.ts";
import { evaluateRows } from "./evaluate.ts";
import { AdamW } from "./optimizer.ts";
import type { TrainOptions } from "./options.ts";
import { learningRate } from "./schedule.ts";

/** Steps in a row that may be skipped for a non-finite gradient before the run gives up. */
const MAX_SKIPPED = 5;

export interface TrainerInit {
  readonly model: Transformer;
  readonly trainable: TrainableSpec;
  readonly train: Examples;
  readonly heldOut: Examples | null;
  readonly options: TrainOptions;
  readonly outDir: string;
  /** Identity of the base model, for the run fingerprint. */
  readonly base: string;
  readonly padId: number;
  readonly resume: boolean;
  readonly signal?: AbortSignal | undefined;
  readonly emit: (event: TrainEvent) => void;
  /** Called when the held-out loss reached a new minimum: keeps the trained values. */
  readonly keepBest: (step: number) => Promise<void>;
}

export interface TrainSummary {
  readonly reason: "finished" | "interrupted";
  readonly step: number;
  readonly best: { step: number; loss: number } | null;
  readonly firstEval: number | null;
  readonly lastEval: number | null;
  readonly tokens: number;
  readonly seconds: number;
}

export async function runTraining(init: TrainerInit): Promise<TrainSummary> {
  const { model, trainable, options, outDir } = init;
  const { device } = model;
  await mkdir(outDir, { recursive: true });
  const state = model.params.train(trainable.keys);
  const o = options.optimizer;
  const optimizer = new AdamW(device, state, { beta1: o.beta1, beta2: o.beta2, eps: o.eps, weightDecay: o.weightDecay, clipNorm: o.clipNorm });
  const coverage = Coverage.of(model);
  if (options.auxLoss > 0 && !state.parameters.some((p) => p.role === "router"))
    throw new ConfigError(`auxLoss ${options.auxLoss} has no effect: the router does not train; set it to 0, or train the non-expert modules`, { where: { key: "auxLoss" } });
  model.balance = options.auxLoss;
  try {
    return await new Loop(init, state, optimizer, coverage).run();
  } finally {
    await device.synchronize().catch(() => undefined);
    model.balance = 0;
    optimizer.dispose();
    coverage?.dispose();
  }
}

class Loop {
  private readonly init: TrainerInit;
  private readonly state: TrainingState;
  private readonly optimizer: AdamW;
  private readonly coverage: Coverage | null;
  private readonly stream: BatchStream;
  private readonly heldOut: readonly PackedRow[];
  private readonly microBatch: number;
  private readonly log: EventLog;
  private readonly fingerprint: string;
  private step = 0;
  private best: RunState["best"] = null;
  private firstEval: number | null = null;
  private lastEval: number | null = null;
  private tokens = 0;
  private secondsBefore = 0;
  private startedAt = 0;
  private skipped = 0;

  constructor(init: TrainerInit, state: TrainingState, optimizer: AdamW, coverage: Coverage | null) {
    const { options, train, heldOut } = init;
    this.init = init;
    this.state = state;
    this.optimizer = optimizer;
    this.coverage = coverage;
    const { packing, maxLength, onOverflow } = options.data;
    const esft = packing === "esft" ? { esft: { padId: init.padId, seed: options.seed, ratio: 0.2 } } : {};
    const stream = { packing, maxLength, onOverflow, seed: options.seed, ...esft };
    this.stream = new BatchStream(train, { ...stream, rowsPerBatch: options.rowsPerStep });
    const evalRows = heldOut ? [...new BatchStream(heldOut, { ...stream, rowsPerBatch: 1, shuffle: false }).rows()] : [];
    this.heldOut = options.evalRows > 0 ? evalRows.slice(0, options.evalRows) : evalRows;
    this.microBatch = Math.min(options.rowsPerStep, options.microBatch ?? Math.max(1, Math.floor(4096 / maxLength)));
    this.log = new EventLog(join(init.outDir, "events.jsonl"));
    // Steps may be extended on resume with a constant schedule; everything else must stay.
    const { steps: _steps, saveEvery: _saveEvery, ...fixed } = options;
    const scheduleSteps = options.optimizer.schedule === "constant" ? null : options.steps;
    this.fingerprint = sha256(
      JSON.stringify([fixed, scheduleSteps, init.base, init.trainable.type, init.trainable.keys, this.stream.fingerprint, init.model.precision]),
    );
  }

  private async emit(event: TrainEvent): Promise<void> {
    await this.log.append(event);
    this.init.emit(event);
  }
  private get seconds(): number {
    return this.secondsBefore + (performance.now() - this.startedAt) / 1000;
  }

  async run(): Promise<TrainSummary> {
    const { init, state } = this;
    const { options, outDir, trainable, model, signal } = init;
    if (await hasCheckpoint(outDir)) {
      if (!init.resume)
        throw new ConfigError(`${outDir} holds a run already; resume it ("esft resume ${outDir}", resume: true), or choose another outDir`, {
          where: { key: "outDir", file: outDir },
        });
      await this.restore(await restoreCheckpoint(outDir, state, this.fingerprint));
    }
    this.startedAt = performance.now();
    const capacity = this.microBatch * options.data.maxLength;
    model.prepare(capacity, true);
    await this.emit({
      type: "start", step: this.step, steps: options.steps, method: trainable.type,
      trainedParameters: trainable.parameters, totalParameters: trainable.totalParameters,
      activationBytes: model.describePlan(capacity, true).bytes, stateBytes: state.size * 16,
      examples: init.train.length, heldOut: init.heldOut?.length ?? 0,
      device: model.device.info.instructionSet, precision: model.precision,
    });
    if (this.step === 0) await this.evaluate();
    let reason: TrainSummary["reason"] = "finished";
    while (this.step < options.steps) {
      if (signal?.aborted) {
        reason = "interrupted";
        break;
      }
      await this.update();
      const last = this.step === options.steps;
      if (last || (options.evalEvery > 0 && this.step % options.evalEvery === 0)) await this.evaluate();
      if (last || this.step % options.saveEvery === 0) await this.save();
    }
    if (reason === "interrupted") await this.save();
    const seconds = this.seconds;
    await this.emit({ type: "done", step: this.step, reason, seconds });
    const { best, firstEval, lastEval, tokens } = this;
    return { reason, step: this.step, best, firstEval, lastEval, tokens, seconds };
  }

  private async restore(run: RunState): Promise<void> {
    this.stream.restore(run.cursor);
    this.optimizer.steps = run.optimizerSteps;
    this.step = run.step;
    this.best = run.best;
    this.firstEval = run.firstEval;
    this.lastEval = run.lastEval;
    this.tokens = run.tokens;
    this.secondsBefore = run.seconds;
    await this.log.rewind(run.step);
  }

  private async save(): Promise<void> {
    const { step, best, firstEval, lastEval, tokens, seconds, fingerprint } = this;
    const { cursor } = this.stream;
    const path = await saveCheckpoint(this.init.outDir, this.state, {
      step, optimizerSteps: this.optimizer.steps, cursor, fingerprint, best, firstEval, lastEval, tokens, seconds,
    });
    await this.emit({ type: "checkpoint", step, path });
  }

  private async update(): Promise<void> {
    const { model, options } = this.init;
    const began = performance.now();
    const batch = this.stream.next();
    const lr = learningRate(
      { kind: options.optimizer.schedule, lr: options.optimizer.lr, warmupSteps: options.optimizer.warmupSteps, totalSteps: options.steps, minRatio: options.optimizer.minLrRatio },
      this.step,
    );
    model.resetLoss();
    this.coverage?.reset();
    this.optimizer.zeroGrad();
    // The loss is the mean over all supervised tokens of the step, however they fall into micro-batches.
    const hooks = this.coverage ? { onRoute: this.coverage.observe } : {};
    for (let at = 0; at < batch.rows.length; at += this.microBatch) {
      const host = hostBatch(batch.rows.slice(at, at + this.microBatch));
      model.forwardBackward(host, 1 / Math.max(1, batch.supervised), this.microBatch * options.data.maxLength, hooks);
    }
    this.optimizer.step(lr);
    const [{ loss, correct }, gradNorm, coverage] = await Promise.all([model.readLoss(), this.optimizer.readNorm(), this.coverage?.read()]);
    this.step++;
    this.tokens += batch.tokens;
    if (!Number.isFinite(gradNorm) || !Number.isFinite(loss)) await this.handleNonFinite(loss, gradNorm);
    else this.skipped = 0;
    const seconds = (performance.now() - began) / 1000;
    const left = options.steps - this.step;
    await this.emit({
      type: "step", step: this.step, steps: options.steps, loss: loss / Math.max(1, batch.supervised), accuracy: correct / Math.max(1, batch.supervised),
      tokens: batch.tokens, supervised: batch.supervised, gradNorm, lr, epoch: batch.epoch,
      ...(coverage === undefined ? {} : { coverage }),
      seconds, tokensPerSecond: batch.tokens / seconds, etaSeconds: (this.seconds / this.step) * left,
    });
  }

  /** The update was skipped on the device; says which gradient is bad and gives up when it does not stop. */
  private async handleNonFinite(loss: number, gradNorm: number): Promise<void> {
    this.optimizer.steps--;
    this.skipped++;
    let bad = "the loss";
    for (const p of this.state.parameters) {
      const g = await p.grad!.readF32();
      if (g.some((x) => !Number.isFinite(x))) {
        bad = `the gradient of ${p.key}`;
        break;
      }
    }
    const message = `step ${this.step}: loss ${loss}, gradient norm ${gradNorm}; first non-finite value in ${bad}; the update was skipped`;
    await this.emit({ type: "warning", step: this.step, message });
    if (this.skipped >= MAX_SKIPPED)
      throw new NonFiniteError(`${message}. ${MAX_SKIPPED} steps in a row were skipped: lower the learning rate or check the data`, {
        where: { step: this.step, tensor: bad },
      });
  }

  private async evaluate(): Promise<void> {
    if (this.heldOut.length === 0) return;
    const { model, signal, options } = this.init;
    throwIfAborted(signal?.aborted && this.step === 0 ? signal : undefined, "training");
    const { loss, accuracy, supervised } = await evaluateRows(model, this.heldOut, this.microBatch * options.data.maxLength);
    const best = Number.isFinite(loss) && (this.best === null || loss < this.best.loss);
    if (best) this.best = { step: this.step, loss };
    this.firstEval ??= loss;
    this.lastEval = loss;
    await this.emit({ type: "eval", step: this.step, loss, accuracy, supervised, best });
    if (best && this.step > 0) await this.init.keepBest(this.step);
  }
}
