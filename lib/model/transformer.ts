// The whole decoder: embedding → blocks → final norm → head. Knows which layers must keep activations (those above the lowest
// one that trains) and nothing about why something trains.

import { ConfigError } from "../errors.ts";
import * as ops from "../ops.ts";
import type { Precision } from "../ops.ts";
import type { Device, Tensor } from "../tensor.ts";
import { Recorder } from "../tensor/recorder.ts";
import { BatchBuffers } from "./batch.ts";
import type { HostBatch } from "./batch.ts";
import { Decoder } from "./decoder.ts";
import type { ForwardHooks } from "./decoder.ts";
import type { Attachments } from "./layers/attachment.ts";
import { RopeTables } from "./rope_table.ts";
import { Run } from "./run.ts";
import type { PooledBalance } from "./run.ts";
import type { ActivationPlan } from "./slots.ts";
import type { ModelSpec } from "./spec.ts";
import type { Continued, StateSpec } from "./states.ts";
import type { Parameters } from "./weights/parameters.ts";
import { PlannedParameters } from "./weights/planned.ts";
import type { TrainingState } from "./weights/training_state.ts";

export type { ForwardHooks } from "./decoder.ts";

/** What this device computes with unless asked: bf16 where activations are bf16, else exact f32. */
export function defaultPrecision(device: Device): Precision {
  return device.info.activationDtype === "bf16" ? "bf16" : "f32";
}

/** @throws ConfigError this device does not compute in that precision */
export function requirePrecision({ info }: Device, precision: Precision): void {
  const refuse = (why: string): never => {
    throw new ConfigError(`precision "${precision}" ${why}`, { where: { key: "precision" } });
  };
  if (precision === "f32" && info.activationDtype === "bf16")
    refuse(`is computed on the CPU; ${info.backend} computes in bf16: use precision "bf16", or device "cpu"`);
  if (precision === "bf16" && !info.bf16Compute) refuse(`needs AVX512-BF16; this device runs ${info.instructionSet}: use precision "f32"`);
}

/** A micro-batch on the device (Transformer.stage), valid until the next one is staged. */
export interface StagedBatch {
  readonly run: Run;
  readonly targets: Tensor;
}

/** Ops that come after those of a pass: on the same memory while `key` is the same. */
export interface Work {
  readonly key: readonly unknown[];
  readonly submit: () => void;
}

/** Sums over what was run since `resetLoss`. */
export interface LossSums {
  readonly loss: number;
  readonly correct: number;
  /** Of the backward passes: load-balancing losses that a method weighs, of the base's routers and of its own, with their weights. */
  readonly balance: readonly [base: number, added: number];
}

/** What trains: keys of base parameters, and what a method attaches. */
export interface TrainingChoice {
  readonly keys: readonly string[];
  readonly attachments?: Attachments | null;
}

/** A model as it is composed now, and what that was composed for. */
interface Composed {
  readonly decoder: Decoder;
  readonly ropes: RopeTables;
  readonly keepFrom: number;
  readonly epoch: number;
}

export class Transformer {
  readonly spec: ModelSpec;
  readonly device: Device;
  readonly params: Parameters;
  precision: Precision;
  /**
   * Weight of the load-balancing loss of routers that train, per token and in units of `gradScale` (0 = off, the default: a frozen
   * router needs none): its gradient is balance · gradScale · tokens · ∂loss_b of each micro-batch.
   */
  balance = 0;
  /** Tokens of a step, over which losses that a method weighs are means; null: those of the batch, which is a step by itself. */
  stepTokens: number | null = null;
  /** Number of the pass to come, that masks of dropout are functions of: another one for every micro-batch of a run. */
  pass = 0;
  /** Of passes that come again, on devices with graphs. Forgets when the memory goes that they use. */
  readonly recorder: Recorder;
  /** Of passes that decode, on every device. Its graphs keep the states of their sequences: cleared when one of these goes. */
  readonly decoding: Recorder;
  private attachments: readonly Attachments[] = [];
  private lowest = { epoch: -1, layer: Number.POSITIVE_INFINITY };
  private readonly lossSum: Tensor;
  private readonly correct: Tensor;
  /** gradScale, balance · gradScale, and those of a method's losses, read on the device: a recorded graph takes those of its launch. */
  private readonly scales: Tensor;
  private readonly gradScale: Tensor;
  private readonly balanceScale: Tensor;
  private readonly passNumber: Tensor;
  /** Of the two losses that a method weighs, and sums of their layers. */
  private readonly balanceSums: Tensor;
  private readonly balances: readonly [PooledBalance, PooledBalance];
  private sent: readonly number[] = [];
  private composed: Composed | null = null;
  private buffers: BatchBuffers | null = null;

  constructor(spec: ModelSpec, device: Device, params: Parameters, precision: Precision = defaultPrecision(device)) {
    this.spec = spec;
    this.device = device;
    this.params = params;
    this.precision = precision;
    requirePrecision(device, precision);
    this.recorder = new Recorder(device);
    this.decoding = new Recorder(device, 2, "any");
    this.lossSum = device.empty("f64", [1]);
    this.correct = device.empty("i64", [1]);
    this.scales = device.empty("f64", [5]);
    this.gradScale = this.scales.view(0, [1]);
    this.balanceScale = this.scales.view(1, [1]);
    this.passNumber = this.scales.view(4, [1]);
    this.balanceSums = device.empty("f64", [2]);
    const pooled = (i: number): PooledBalance => ({ scale: this.scales.view(2 + i, [1]), sum: this.balanceSums.view(i, [1]) });
    this.balances = [pooled(0), pooled(1)];
  }

  /** Chooses what trains, and composes the model for it. Replaces an earlier choice; undo with `freeze`. @throws see Parameters.train */
  train({ keys, attachments }: TrainingChoice): TrainingState {
    this.freeze();
    const state = this.params.train(keys, attachments?.parameters);
    this.attachments = attachments ? [attachments] : [];
    return state;
  }
  /** Of what trains, these alone do from here on; the others keep the values that they have. */
  activate(keys: ReadonlySet<string>): void {
    this.forget();
    this.params.activate(keys);
  }
  /** Nothing trains, nothing is attached: the base again, or what `override` made of it. */
  freeze(): void {
    if (!this.params.state) return;
    this.forget();
    this.params.freeze();
    this.attachments = [];
  }

  /** Other values of base parameters, and what a method attached with its values: an adapter at inference. See Parameters.override. */
  override(values: ReadonlyMap<string, Tensor>, attachments: Attachments | null = null, lent = false): void {
    this.forget();
    this.params.override(values, attachments?.parameters, lent);
    this.attachments = attachments ? [attachments] : [];
  }
  /** Undoes `override`. */
  restore(): void {
    this.forget();
    this.params.restore();
    if (!this.params.state) this.attachments = [];
  }

  private forget(): void {
    this.recorder.clear();
    this.decoding.clear();
  }

  /** Lowest layer whose activations a backward needs, of what trains or is attached: 0 when the embedding trains, the layer count when only norm or head do. */
  lowestTrained(): number {
    const { epoch, state } = this.params;
    if (this.lowest.epoch !== epoch) {
      const read = Math.min(...this.attachments.map((a) => a.lowestLayer ?? Number.POSITIVE_INFINITY));
      const trained = (state?.parameters ?? []).filter((p) => p.trains);
      const layer = trained.reduce((l, p) => Math.min(l, Math.max(0, p.layer)), read);
      this.lowest = { epoch, layer };
    }
    return this.lowest.layer;
  }

  private compose(keepFrom: number): Decoder {
    return new Decoder(this.spec, this.params, this.attachments, keepFrom, this.device.info.activationDtype);
  }
  /** The plan for a pass, not allocated: to print and to check against the machine. */
  describePlan(training: boolean): ActivationPlan {
    return this.compose(training ? this.lowestTrained() : Number.POSITIVE_INFINITY).plan;
  }

  /** Composes the model and allocates activations for batches of up to `capacity` tokens; cheap when nothing changed. */
  prepare(capacity: number, training: boolean): void {
    this.ready(capacity, training);
  }

  private ready(capacity: number, training: boolean, decoding = false): { composed: Composed; buffers: BatchBuffers } {
    const keepFrom = training ? this.lowestTrained() : Number.POSITIVE_INFINITY;
    const { composed, buffers } = this;
    // A plan that keeps more than is asked for serves too: evaluation runs inside a training run's plan.
    const serves = composed !== null && composed.keepFrom <= keepFrom && composed.epoch === this.params.epoch;
    const plan = composed?.decoder.plan;
    if (serves && buffers && plan && plan.capacity >= capacity && (plan.decodes || !decoding)) return { composed, buffers };
    this.release();
    const decoder = this.compose(keepFrom);
    decoder.plan.allocate(this.device, capacity, decoding);
    const ropes = new RopeTables(this.device, decoder.ropes);
    this.composed = { decoder, ropes, keepFrom, epoch: this.params.epoch };
    this.buffers = new BatchBuffers(this.device, capacity, decoder.ropes);
    return { composed: this.composed, buffers: this.buffers };
  }

  /** Gives the activations' memory back; the next pass plans anew. */
  release(): void {
    this.forget();
    this.composed?.decoder.plan.dispose();
    this.composed?.ropes.dispose();
    this.buffers?.dispose();
    this.composed = null;
    this.buffers = null;
  }

  private upload(
    host: HostBatch,
    capacity: number,
    keep: boolean,
    continued: Continued | null = null,
  ): { decoder: Decoder; run: Run; targets: Tensor } {
    const { composed, buffers } = this.ready(Math.max(capacity, host.ids.length), keep, continued !== null);
    const { batch, targets, maxPosition } = buffers.upload(host, this.spec.vocab);
    if (maxPosition >= this.spec.maxPositions)
      throw new ConfigError(
        `a document of ${maxPosition + 1} tokens exceeds the model's ${this.spec.maxPositions} positions; use a shorter maxLength`,
        { where: { key: "maxLength" } },
      );
    const { decoder } = composed;
    const ropes = composed.ropes.upTo(maxPosition + 1);
    const { device, precision } = this;
    return { decoder, run: new Run({ device, batch, precision, keep, plan: decoder.plan, ropes, continued }), targets };
  }

  /** Forward without keeping anything; the normalised final hidden states [T, D] stay valid until the next call. */
  forward(host: HostBatch, hooks: ForwardHooks = {}): Tensor {
    const { decoder, run } = this.upload(host, 0, false);
    return decoder.forward(run, hooks);
  }

  /** Forward and loss of the supervised positions; adds to the loss sums. */
  evaluate(host: HostBatch, hooks: ForwardHooks = {}): void {
    const { decoder, run, targets } = this.upload(host, 0, false);
    const { lossSum, correct } = this;
    const x = decoder.forward(run, hooks);
    decoder.head.loss(run, { x, labels: targets, loss: lossSum, correct });
  }

  /**
   * Forward, loss and backward of one micro-batch: adds to the loss sums, and to the gradients of what trains or overwrites them.
   * @param gradScale factor on the summed loss in the gradients: 1 / supervised tokens of the whole step
   */
  forwardBackward(host: HostBatch, gradScale: number, capacity = host.ids.length, hooks: ForwardHooks = {}, accumulate = true): void {
    const staged = this.stage(host, capacity);
    this.setGradScale(gradScale, host.ids.length);
    this.forwardBackwardStaged(staged, hooks, accumulate);
  }

  /**
   * `forwardBackward` where batches of the same size come again: one graph each from the second time on. `hooks` submit ops and nothing
   * else; the same ones are the same functions. Resolves when the pass is submitted.
   */
  async forwardBackwardAgain(
    host: HostBatch,
    gradScale: number,
    capacity: number,
    hooks: ForwardHooks = {},
    accumulate = true,
  ): Promise<void> {
    if (!this.recorder.records) return this.forwardBackward(host, gradScale, capacity, hooks, accumulate);
    const staged = this.stage(host, capacity);
    this.setGradScale(gradScale, host.ids.length);
    const { composed, precision, balance } = this;
    const key = [composed?.decoder, staged.run.ropes, host.ids.length, precision, balance > 0, hooks.onRoute, hooks.onHidden, accumulate];
    await this.recorder.submit(key, () => this.forwardBackwardStaged(staged, hooks, accumulate));
  }

  /**
   * What the gradients of the passes to come are multiplied by, with `balance` and `stepTokens` as they are now. Sent when it changes.
   * @param tokens of the batch
   */
  setGradScale(gradScale: number, tokens = 1): void {
    const [base, added] = this.composed?.decoder.balanceFactors ?? [0, 0];
    const perToken = 1 / (this.stepTokens ?? tokens);
    const next = [gradScale, this.balance * gradScale, base * perToken, added * perToken, this.dropsOut ? this.pass : 0];
    if (next.every((x, i) => x === this.sent[i])) return;
    this.scales.write(next);
    this.sent = next;
  }

  /** The first half of `forwardBackward`: takes the memory of a step and sends the batch to the device. */
  stage(host: HostBatch, capacity = host.ids.length): StagedBatch {
    return this.upload(host, capacity, true);
  }

  /** The second half, scaled by `setGradScale`: submits ops and nothing else, so that it can be recorded (Device.capture). */
  forwardBackwardStaged({ run, targets }: StagedBatch, hooks: ForwardHooks = {}, accumulate = true): void {
    const { composed, lossSum, correct } = this;
    if (!composed) throw new ConfigError("the staged batch is no longer valid: the model's activations were released");
    const { decoder } = composed;
    run.accumulate = accumulate;
    run.balance = this.balance > 0 ? this.balanceScale : null;
    run.balances = this.balances;
    run.dropout = this.dropsOut ? this.passNumber : null;
    const x = decoder.forward(run, hooks);
    const { head, needsDx } = decoder;
    const dx = needsDx ? run.at(decoder.dxf) : null;
    head.loss(run, { x, labels: targets, loss: lossSum, correct, backward: { dx, scale: this.gradScale } });
    if (dx) decoder.backward(run, dx);
  }

  /** Logits [T, V] of the whole batch as a new tensor (tests, generation); the caller disposes it. */
  logits(host: HostBatch, hooks: ForwardHooks = {}): Tensor {
    const { decoder, run } = this.upload(host, 0, false);
    const x = decoder.forward(run, hooks);
    const c = this.device.empty("f32", [host.ids.length, this.spec.vocab]);
    decoder.head.logits(run, x, c);
    return c;
  }

  /** Logits [V] after the last token only. */
  async lastLogits(host: HostBatch): Promise<Float32Array> {
    const { decoder, run } = this.upload(host, 0, false);
    const xf = decoder.forward(run, {});
    using c = this.device.empty("f32", [1, this.spec.vocab]);
    using last = xf.rows(host.ids.length - 1, host.ids.length);
    decoder.head.logits(run, last, c);
    return await c.readF32();
  }

  /** What the model as it is composed now keeps of each sequence that `advance` takes. */
  states(capacity: number): readonly StateSpec[] {
    return this.ready(capacity, false, true).composed.decoder.states.specs;
  }
  /** What it would keep with these attachments in place of what it has. */
  statesWith(attachments: Attachments | null): readonly StateSpec[] {
    const source = new PlannedParameters(this.spec, [], attachments?.parameters ?? []);
    const all = attachments ? [attachments] : [];
    return new Decoder(this.spec, source, all, Number.POSITIVE_INFINITY, this.device.info.activationDtype).states.specs;
  }
  /** Tokens of a document from which on its rotary tables are others, so that nothing kept before serves; null: never. */
  get lengthLimit(): number | null {
    return this.composed?.decoder.ropes.length ?? null;
  }

  /**
   * The newest tokens of sequences whose states were kept, a document each: their states take them in. Logits [R, V] f32 of the last R
   * rows of the batch.
   */
  advance(host: HostBatch, continued: Continued, logits: Tensor): void {
    const { decoder, run } = this.upload(host, 0, false, continued);
    const xf = decoder.forward(run, {});
    const [T, R] = [host.ids.length, logits.shape[0]!];
    if (R === T) return decoder.head.logits(run, xf, logits);
    using last = xf.rows(T - R, T);
    decoder.head.logits(run, last, logits);
  }

  /**
   * `advance` by one token of each sequence, and what is done with the logits, where the same sequences go on again and again: recorded
   * from the second time on, while states and everything in `after.key` stay where they are. The same lists are the same sequences in the
   * same order, so that their shares are the same. Resolves when it is submitted.
   */
  async advanceAgain(host: HostBatch, continued: Continued, logits: Tensor, after: Work): Promise<void> {
    const { decoder, run } = this.upload(host, 0, false, continued);
    const key = [decoder, run.ropes, host.ids.length, this.precision, continued.lists, logits, ...after.key];
    await this.decoding.submit(key, () => {
      decoder.head.logits(run, decoder.forward(run, {}), logits);
      after.submit();
    });
  }

  resetLoss(): void {
    ops.fill(this.device, { x: this.lossSum, value: 0 });
    ops.fill(this.device, { x: this.correct, value: 0 });
    if (this.balanced) ops.fill(this.device, { x: this.balanceSums, value: 0 });
  }

  private get dropsOut(): boolean {
    return this.attachments.some((a) => a.dropsOut);
  }
  private get balanced(): boolean {
    return this.attachments.some(({ balance }) => balance && balance.base + balance.added > 0);
  }

  /** Waits for everything submitted. */
  async readLoss(): Promise<LossSums> {
    const pooled = this.balanced ? this.balanceSums.readF64() : [0, 0];
    const [loss, correct, sums] = await Promise.all([this.lossSum.readF64(), this.correct.readI64(), pooled]);
    const [base, added] = this.composed?.decoder.balanceFactors ?? [0, 0];
    return { loss: loss[0]!, correct: Number(correct[0]!), balance: [base * sums[0]!, added * sums[1]!] };
  }

  dispose(): void {
    this.release();
    this.lossSum.dispose();
    this.correct.dispose();
    const pooled = this.balances.flatMap(({ scale, sum }) => [scale, sum]);
    for (const t of [this.gradScale, this.balanceScale, this.passNumber, ...pooled, this.scales, this.balanceSums]) t.dispose();
  }
}
