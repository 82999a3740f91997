// One update: a batch of rows → gradients over micro-batches → AdamW, and the figures of the step.

import type { Batch } from "../data/stream.ts";
import type { ExpertSums } from "../experts/counting.ts";
import type { CondenserRule } from "../methods/method.ts";
import { hostBatch } from "../model/batch.ts";
import type { ForwardHooks, Transformer } from "../model/transformer.ts";
import type { TrainingState } from "../model/weights/training_state.ts";
import type { TrainOptions } from "../options.ts";
import { throwIfAborted } from "../task.ts";
import { Condensing } from "./condensing.ts";
import { Coverage } from "./coverage.ts";
import { AHEAD, microBatchOf } from "./memory_plan.ts";
import type { Reallocator } from "./reallocator.ts";
import { AdamW } from "./optimizer.ts";
import { rateOf } from "./schedule.ts";

/** The next `n` of `source`, fewer at its end. */
function take<T>(source: Iterator<T>, n: number): T[] {
  const taken: T[] = [];
  while (taken.length < n) {
    const { value, done } = source.next();
    if (done === true) break;
    taken.push(value);
  }
  return taken;
}

/** A promise whose failure need not be seen: whoever awaits it still gets it. */
function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

/** More than a step has: passes are numbered by it. */
const MOST_MICRO_BATCHES = 2 ** 20;

export interface StepFigures {
  /** Mean over the supervised tokens of the step, before the update. */
  readonly loss: number;
  /** Share of supervised tokens predicted exactly. */
  readonly accuracy: number;
  readonly tokens: number;
  readonly supervised: number;
  /** Before clipping. Not finite: the device left weights and moments as they were. */
  readonly gradNorm: number;
  readonly lr: number;
  readonly epoch: number;
  /** Share of routed slots that met a trained expert; null when every expert trains. */
  readonly coverage: number | null;
  /** What it was counted from, by layer; null where it is. */
  readonly routing: ReadonlyMap<number, ExpertSums> | null;
  /** Experts of all layers that a bias makes always active; absent without condensers. */
  readonly alwaysActive?: number;
  /** Load-balancing losses that the method weighs, with their weights, mean over micro-batches; absent without. */
  readonly balanceLoss?: number;
}

export class Update {
  readonly optimizer: AdamW;
  /** Tokens of the largest micro-batch: what activations are planned for. */
  readonly capacity: number;
  private readonly model: Transformer;
  private readonly state: TrainingState;
  private readonly options: TrainOptions;
  private readonly coverage: Coverage | null;
  private readonly reallocator: Reallocator | null;
  private readonly condensing: Condensing | null;
  /** The same ones for every pass. */
  private readonly hooks: ForwardHooks;
  private readonly microBatch: number;

  /** @param reallocator sees every update @param condensing biases that move after each */
  constructor(
    model: Transformer,
    state: TrainingState,
    options: TrainOptions,
    reallocator: Reallocator | null = null,
    condensing: CondenserRule | null = null,
  ) {
    this.model = model;
    this.state = state;
    this.options = options;
    this.optimizer = new AdamW(model.device, state, options.optimizer);
    this.coverage = Coverage.of(model);
    this.reallocator = reallocator;
    this.condensing = condensing && new Condensing(model, condensing);
    const observers = [this.coverage, reallocator, this.condensing].flatMap((o) => o?.observe ?? []);
    this.hooks = observers.length > 0 ? { onRoute: (...route) => observers.forEach((observe) => observe(...route)) } : {};
    this.microBatch = microBatchOf(options);
    this.capacity = this.microBatch * options.data.maxLength;
  }

  /**
   * Update number `done` + 1. @throws KernelError what the device found while it computed · AbortError the signal fired between two
   * micro-batches: weights and moments are as before
   */
  async apply(batch: Batch, done: number, signal?: AbortSignal): Promise<StepFigures> {
    const lr = rateOf(this.options, done);
    const { tokens, supervised, epoch } = batch;
    await this.accumulate(batch, done, signal);
    this.reallocator?.submit();
    this.optimizer.prepare(lr);
    await this.model.recorder.submit([this.optimizer], () => this.optimizer.update());
    const [sums, gradNorm, covered = null, routed] = await Promise.all([
      this.model.readLoss(),
      this.optimizer.readNorm(),
      this.coverage?.read(),
      this.reallocator?.read(),
    ]);
    if (!Number.isFinite(gradNorm)) this.optimizer.steps--;
    else if (routed) this.reallocator?.average(routed, tokens);
    const n = Math.max(1, supervised);
    const plain = { loss: sums.loss / n, accuracy: sums.correct / n, tokens, supervised, gradNorm, lr, epoch, coverage: covered?.share ?? null, routing: covered?.sums ?? null }; // prettier-ignore
    const active = await this.condensing?.move(Number.isFinite(gradNorm));
    const balanceLoss = (sums.balance[0] + sums.balance[1]) / Math.ceil(batch.length / this.microBatch);
    const figures = active === undefined ? plain : { ...plain, alwaysActive: active };
    return balanceLoss === 0 ? figures : { ...figures, balanceLoss };
  }

  /**
   * Gradients and loss sums of a batch, in the training state and in the model. The one place where ranks would meet, each with its
   * share of the rows: the counts are to be summed over them where they are taken, before the passes that they scale; the flat
   * gradient and the loss sums where this ends. All else of a run is a function of these.
   *
   * The host is at most AHEAD micro-batches ahead of the device: their rows, uploads and queued ops are all that a step holds.
   */
  private async accumulate({ rows, length, tokens, supervised }: Batch, step: number, signal: AbortSignal | undefined): Promise<void> {
    const { model, options } = this;
    model.resetLoss();
    this.coverage?.reset();
    this.reallocator?.reset();
    await this.condensing?.reset();
    // The loss is the mean over all supervised tokens of the step, however they fall into micro-batches; the balancing loss is a
    // mean over all tokens.
    const gradScale = 1 / Math.max(1, supervised);
    model.balance = (options.auxLoss * supervised) / tokens;
    model.stepTokens = tokens;
    const microBatches = Math.ceil(length / this.microBatch);
    const source = rows[Symbol.iterator]();
    const done: Promise<void>[] = [];
    for (let i = 0; i < microBatches; i++) {
      if (i > AHEAD) await done.shift();
      if (i > 0) throwIfAborted(signal, "training");
      model.pass = step * MOST_MICRO_BATCHES + i;
      await model.forwardBackwardAgain(hostBatch(take(source, this.microBatch)), gradScale, this.capacity, this.hooks, i > 0);
      if (i + AHEAD + 1 < microBatches) done.push(quiet(model.device.synchronize()));
    }
  }

  /** Where the first NaN or infinity of the last step is. */
  async firstNonFinite(): Promise<string> {
    for (const p of this.state.parameters) {
      if (!p.grad) continue;
      const g = await p.grad.readF32();
      if (g.some((x) => !Number.isFinite(x))) return `the gradient of ${p.key}`;
    }
    return "the loss";
  }

  dispose(): void {
    this.model.balance = 0;
    this.model.stepTokens = null;
    this.model.recorder.clear();
    this.optimizer.dispose();
    this.coverage?.dispose();
    this.condensing?.dispose();
  }
}
