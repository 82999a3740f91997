// The training loop: batches → gradients → AdamW, with held-out loss, checkpoints, exact resume and safe interrupts.
// It knows neither the method (a TrainableSpec says what trains) nor where adapters go (the caller delivers).

import { join } from "node:path";
import { mkdir } from "node:fs/promises";
import { AbortError, ConfigError, NonFiniteError } from "../errors.ts";
import { sha256 } from "../files/hash.ts";
import { sliceKey } from "../files/slice.ts";
import type { Examples } from "../data/examples.ts";
import { BatchStream } from "../data/stream.ts";
import type { PackedRow } from "../data/packing.ts";
import { hostBatch } from "../model/batch.ts";
import { CHECK_WEIGHTS, explainNonFinite } from "../model/non_finite.ts";
import type { Transformer } from "../model/transformer.ts";
import { STATE_BYTES_PER_PARAMETER } from "../model/weights/parameters.ts";
import type { TrainingState } from "../model/weights/parameters.ts";
import type { TrainableSpec } from "../methods/trainable.ts";
import { hasCheckpoint, restoreCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import type { RunState } from "./checkpoint.ts";
import { Coverage } from "./coverage.ts";
import { EventLog } from "./events.ts";
import type { TrainEvent } from "./events.ts";
import { evaluateRows } from "./evaluate.ts";
import type { Evaluation } from "./evaluate.ts";
import { microBatchOf } from "./memory_plan.ts";
import { AdamW } from "./optimizer.ts";
import type { TrainOptions } from "../options.ts";
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
  /** Fires = checkpoint, then stop. */
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
  if (options.auxLoss > 0) requireBalancedRouter(model, trainable, options.auxLoss);
  await mkdir(outDir, { recursive: true });
  const state = model.params.train(trainable.keys);
  const o = options.optimizer;
  const optimizer = new AdamW(device, state, {
    beta1: o.beta1,
    beta2: o.beta2,
    eps: o.eps,
    weightDecay: o.weightDecay,
    clipNorm: o.clipNorm,
  });
  const coverage = Coverage.of(model);
  try {
    return await new Loop(init, state, optimizer, coverage).run();
  } finally {
    await device.synchronize().catch(() => undefined);
    model.balance = 0;
    optimizer.dispose();
    coverage?.dispose();
  }
}

function requireBalancedRouter(model: Transformer, trainable: TrainableSpec, auxLoss: number): void {
  const trained = new Set(trainable.keys);
  const routers = model.spec.layers.flatMap(({ mlp }) => (mlp.kind === "moe" && trained.has(sliceKey(mlp.router)) ? [mlp.rule.score] : []));
  const fail = (why: string): never => {
    throw new ConfigError(`auxLoss ${auxLoss} has no effect: ${why}`, { where: { key: "auxLoss" } });
  };
  if (routers.length === 0) fail("the router does not train; set it to 0, or train the non-expert modules");
  if (routers.some((score) => score !== "softmax"))
    fail(`the load-balancing loss is that of softmax routers, this model's score is ${routers[0]}; set it to 0`);
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
  /** The held-out loss of this step is still to be taken: before the first update, and where an interrupt cut it short. */
  private evalDue = true;
  private savedStep = -1;

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
    const chosen = options.evalRows > 0 ? evalRows.slice(0, options.evalRows) : evalRows;
    this.heldOut = chosen.some((row) => row.supervised > 0) ? chosen : [];
    this.microBatch = microBatchOf(options);
    this.log = new EventLog(join(init.outDir, "events.jsonl"));
    // Steps may be extended on resume with a constant schedule; everything else must stay.
    const { steps: _steps, saveEvery: _saveEvery, ...fixed } = options;
    const scheduleSteps = options.optimizer.schedule === "constant" ? null : options.steps;
    this.fingerprint = sha256(
      JSON.stringify([
        fixed,
        scheduleSteps,
        init.base,
        init.trainable.type,
        init.trainable.keys,
        this.stream.fingerprint,
        heldOut?.fingerprint() ?? null,
        init.model.precision,
      ]),
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
      await this.restore(await restoreCheckpoint(outDir, state, this.fingerprint));
      model.params.refreshCopies();
    } else await this.log.rewind(-1); // of a run that was killed before its first checkpoint
    this.startedAt = performance.now();
    const capacity = this.microBatch * options.data.maxLength;
    model.prepare(capacity, true);
    await this.emit({
      type: "start",
      step: this.step,
      steps: options.steps,
      method: trainable.type,
      trainedParameters: trainable.parameters,
      totalParameters: trainable.totalParameters,
      activationBytes: model.describePlan(capacity, true).bytes,
      stateBytes: state.size * STATE_BYTES_PER_PARAMETER,
      examples: init.train.length,
      heldOut: init.heldOut?.length ?? 0,
      device: model.device.info.instructionSet,
      precision: model.precision,
    });
    let reason: TrainSummary["reason"] = "finished";
    for (;;) {
      if (this.evalDue) await this.evaluate();
      const last = this.step === options.steps;
      const saveDue = last || (this.step > 0 && this.step % options.saveEvery === 0);
      if (!this.evalDue && saveDue && this.savedStep !== this.step) await this.save();
      if (!this.evalDue && last) break;
      if (this.evalDue || signal?.aborted) {
        reason = "interrupted";
        await this.save();
        break;
      }
      await this.update();
      this.evalDue = this.step === options.steps || (options.evalEvery > 0 && this.step % options.evalEvery === 0);
    }
    const seconds = this.seconds;
    await this.emit({ type: "done", step: this.step, reason, seconds });
    const { best, firstEval, lastEval, tokens } = this;
    return { reason, step: this.step, best, firstEval, lastEval, tokens, seconds };
  }

  private async restore(run: RunState): Promise<void> {
    const { steps } = this.init.options;
    if (run.step > steps)
      throw new ConfigError(
        `${this.init.outDir}: the run is at step ${run.step} already, beyond ${steps}; ask for at least ${run.step} steps`,
        { where: { key: "steps" } },
      );
    this.stream.restore(run.cursor);
    this.optimizer.steps = run.optimizerSteps;
    this.step = run.step;
    this.savedStep = run.step;
    this.evalDue = !run.evaluated;
    this.skipped = run.skipped;
    this.best = run.best;
    this.firstEval = run.firstEval;
    this.lastEval = run.lastEval;
    this.tokens = run.tokens;
    this.secondsBefore = run.seconds;
    await this.log.rewind(run.step);
  }

  private async save(): Promise<void> {
    const { step, best, firstEval, lastEval, tokens, seconds, fingerprint, skipped } = this;
    const { cursor } = this.stream;
    const path = await saveCheckpoint(this.init.outDir, this.state, {
      step,
      evaluated: !this.evalDue,
      skipped,
      optimizerSteps: this.optimizer.steps,
      cursor,
      fingerprint,
      best,
      firstEval,
      lastEval,
      tokens,
      seconds,
    });
    this.savedStep = step;
    await this.emit({ type: "checkpoint", step, path });
  }

  private async update(): Promise<void> {
    const { model, options } = this.init;
    const began = performance.now();
    const batch = this.stream.next();
    const lr = learningRate(
      {
        kind: options.optimizer.schedule,
        lr: options.optimizer.lr,
        warmupSteps: options.optimizer.warmupSteps,
        totalSteps: options.steps,
        minRatio: options.optimizer.minLrRatio,
      },
      this.step,
    );
    model.resetLoss();
    this.coverage?.reset();
    this.optimizer.zeroGrad();
    // The loss is the mean over all supervised tokens of the step, however they fall into micro-batches; the balancing loss is a
    // mean over all tokens.
    model.balance = (options.auxLoss * batch.supervised) / batch.tokens;
    const hooks = this.coverage ? { onRoute: this.coverage.observe } : {};
    for (let at = 0; at < batch.rows.length; at += this.microBatch) {
      const host = hostBatch(batch.rows.slice(at, at + this.microBatch));
      model.forwardBackward(host, 1 / Math.max(1, batch.supervised), this.microBatch * options.data.maxLength, hooks);
    }
    this.optimizer.step(lr);
    const [{ loss, correct }, gradNorm, coverage] = await Promise.all([
      model.readLoss(),
      this.optimizer.readNorm(),
      this.coverage?.read(),
    ]).catch((error: unknown) => {
      const during = explainNonFinite(error, `step ${this.step + 1}`, CHECK_WEIGHTS);
      throw this.step > 0 && during instanceof NonFiniteError ? this.diverged(during) : during;
    });
    this.step++;
    this.tokens += batch.tokens;
    if (Number.isFinite(gradNorm)) this.skipped = 0;
    else await this.handleNonFinite(loss / Math.max(1, batch.supervised), gradNorm);
    const seconds = (performance.now() - began) / 1000;
    const left = options.steps - this.step;
    await this.emit({
      type: "step",
      step: this.step,
      steps: options.steps,
      loss: loss / Math.max(1, batch.supervised),
      accuracy: correct / Math.max(1, batch.supervised),
      tokens: batch.tokens,
      supervised: batch.supervised,
      gradNorm,
      lr,
      epoch: batch.epoch,
      ...(coverage === undefined ? {} : { coverage }),
      seconds,
      tokensPerSecond: batch.tokens / seconds,
      etaSeconds: (this.seconds / this.step) * left,
    });
  }

  /** The device skipped the update: weights and moments are untouched. Says which gradient is bad, gives up when it does not stop. */
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

  private diverged(cause: NonFiniteError): NonFiniteError {
    const kept = this.savedStep < 0 ? "no checkpoint was written yet" : `the checkpoint of step ${this.savedStep} is intact`;
    return new NonFiniteError(
      `after ${this.step} steps the trained weights have diverged (${cause.message.split(":", 2).join(":")}); ${kept}. Lower the learning rate, or set clipNorm`,
      { where: { ...cause.where, step: this.step }, cause },
    );
  }

  /** Leaves `evalDue` set when the signal fired before the end. */
  private async evaluate(): Promise<void> {
    const { model, signal, options } = this.init;
    const measure = async (): Promise<Evaluation | null> => {
      try {
        return await evaluateRows(model, this.heldOut, this.microBatch * options.data.maxLength, { signal });
      } catch (error) {
        if (error instanceof AbortError) return null;
        throw this.step > 0 && error instanceof NonFiniteError ? this.diverged(error) : error;
      }
    };
    const result = this.heldOut.length === 0 ? "none" : await measure();
    if (result === null) return;
    this.evalDue = false;
    if (result === "none") return;
    const { loss, accuracy, supervised } = result;
    if (this.step === 0 && !Number.isFinite(loss))
      throw new NonFiniteError(`the held-out loss before the first step is ${loss}: ${CHECK_WEIGHTS}`, { where: { step: 0 } });
    const best = Number.isFinite(loss) && (this.best === null || loss < this.best.loss);
    if (best) this.best = { step: this.step, loss };
    this.firstEval ??= loss;
    this.lastEval = loss;
    await this.emit({ type: "eval", step: this.step, loss, accuracy, supervised, best });
    if (best && this.step > 0) await this.init.keepBest(this.step);
  }
}
