// The whole decoder: embedding → blocks → final norm → head. Knows which layers must keep activations (those above the lowest
// one that trains) and nothing about why something trains.

import { ConfigError } from "../errors.ts";
import * as ops from "../ops.ts";
import type { Precision } from "../ops.ts";
import type { Device, DType, Tensor } from "../tensor.ts";
import { BatchBuffers } from "./batch.ts";
import type { HostBatch } from "./batch.ts";
import { Block } from "./layers/block.ts";
import { act, f32, normBackward, normForward } from "./layers/layer.ts";
import type { Batch, RunContext } from "./layers/layer.ts";
import type { RouteObserver } from "./layers/moe.ts";
import type { Parameters } from "./weights/parameters.ts";
import { RopeTables } from "./layers/rope_table.ts";
import type { RopeTable } from "./layers/rope_table.ts";
import { ActivationPlan } from "./slots.ts";
import type { SlotTable, Slots } from "./slots.ts";
import type { ModelSpec } from "./spec.ts";

export interface ForwardHooks {
  /** Routing of every MoE layer, as it is computed. */
  readonly onRoute?: RouteObserver;
  /** hidden 0 = embedding output, i = output of layer i − 1 (the last one after the final norm). */
  readonly onHidden?: (index: number, x: Tensor) => void;
}

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
  readonly batch: Batch;
  readonly targets: Tensor;
  readonly ropes: (layer: number) => RopeTable;
}

/** Sums over what was run since `resetLoss`. */
export interface LossSums {
  readonly loss: number;
  readonly correct: number;
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
  private readonly blocks: Block[];
  private readonly ropes: RopeTables;
  private readonly outer: SlotTable;
  private readonly lossSum: Tensor;
  private readonly correct: Tensor;
  private plan: ActivationPlan | null = null;
  private buffers: BatchBuffers | null = null;
  private planned = { capacity: 0, keepFrom: Number.POSITIVE_INFINITY, epoch: -1 };

  constructor(spec: ModelSpec, device: Device, params: Parameters, precision: Precision = defaultPrecision(device)) {
    this.spec = spec;
    this.device = device;
    this.params = params;
    this.precision = precision;
    requirePrecision(device, precision);
    this.blocks = blocksOf(spec);
    this.ropes = new RopeTables(device);
    this.outer = outerSlots(spec.hidden);
    this.lossSum = device.empty("f64", [1]);
    this.correct = device.empty("i64", [1]);
  }

  /** Lowest layer whose activations a backward needs: 0 when the embedding trains, the layer count when only norm or head do. */
  lowestTrained(): number {
    if (!this.params.state) return Number.POSITIVE_INFINITY;
    if (this.params.trains(this.spec.embedding)) return 0;
    const l = this.blocks.findIndex((b) => b.trains(this.params));
    return l < 0 ? this.blocks.length : l;
  }
  /** The plan for batches of up to `capacity` tokens, not allocated: to print and to check against the machine. */
  describePlan(capacity: number, training: boolean): ActivationPlan {
    const keepFrom = training ? this.lowestTrained() : Number.POSITIVE_INFINITY;
    return planActivations(this.blocks, this.outer, capacity, keepFrom, this.device.info.activationDtype);
  }

  /** Allocates activations for batches of up to `capacity` tokens; cheap when nothing changed. */
  prepare(capacity: number, training: boolean): void {
    const keepFrom = training ? this.lowestTrained() : Number.POSITIVE_INFINITY;
    // A plan that keeps more than is asked for serves too: evaluation runs inside a training run's plan.
    if (this.plan && this.planned.capacity >= capacity && this.planned.keepFrom <= keepFrom && this.planned.epoch === this.params.epoch)
      return;
    this.release();
    const plan = this.describePlan(capacity, training);
    plan.allocate(this.device);
    this.plan = plan;
    this.buffers = new BatchBuffers(this.device, capacity);
    this.planned = { capacity, keepFrom, epoch: this.params.epoch };
  }

  /** Gives the activations' memory back; the next pass plans anew. */
  release(): void {
    this.plan?.dispose();
    this.buffers?.dispose();
    this.plan = null;
    this.buffers = null;
  }

  private upload(host: HostBatch): StagedBatch {
    const { batch, targets, maxPosition } = this.buffers!.upload(host, this.spec.vocab);
    if (maxPosition >= this.spec.maxPositions)
      throw new ConfigError(
        `a document of ${maxPosition + 1} tokens exceeds the model's ${this.spec.maxPositions} positions; use a shorter maxLength`,
        {
          where: { key: "maxLength" },
        },
      );
    return { batch, targets, ropes: (l) => this.ropes.get(this.spec.layers[l]!.attention.rope, maxPosition + 1) };
  }

  private bind(owner: string, table: SlotTable, T: number): Slots {
    return this.plan!.bind(owner, table, T);
  }

  private runForward(run: RunContext, ropes: (l: number) => RopeTable, outer: Slots, hooks: ForwardHooks): void {
    const { device, params, spec } = this;
    const T = run.batch.tokens;
    const L = this.blocks.length;
    const inputOf = (l: number): Tensor => {
      if (l === L) return outer["xFinal"]!;
      if (run.keep && l >= this.planned.keepFrom) return this.bind(`layer ${l}`, this.blocks[l]!.slots, T)["x"]!;
      return l % 2 === 0 ? outer["xEven"]! : outer["xOdd"]!;
    };
    let x = inputOf(0);
    ops.embedding(device, { ids: run.batch.ids, table: params.value(spec.embedding), y: x });
    hooks.onHidden?.(0, x);
    this.blocks.forEach((block, l) => {
      const out = inputOf(l + 1);
      const layerRun = run.keep && l < this.planned.keepFrom ? { ...run, keep: false } : run;
      block.forward(layerRun, ropes(l), x, this.bind(`layer ${l}`, block.slots, T), out, hooks.onRoute);
      if (l + 1 < L) hooks.onHidden?.(l + 1, out);
      x = out;
    });
    normForward(run, spec.finalNorm, x, outer["xf"]!, outer["finalRstd"]!);
    hooks.onHidden?.(L, outer["xf"]!);
  }

  /** Forward without keeping anything; the normalised final hidden states [T, D] stay valid until the next call. */
  forward(host: HostBatch, hooks: ForwardHooks = {}): Tensor {
    this.prepare(host.ids.length, false);
    const { batch, ropes } = this.upload(host);
    const outer = this.bind("model", this.outer, batch.tokens);
    this.runForward(this.context(batch, false), ropes, outer, hooks);
    return outer["xf"]!;
  }

  private context(batch: Batch, keep: boolean, gradScale = 0): RunContext {
    return { device: this.device, params: this.params, batch, precision: this.precision, keep, balance: this.balance * gradScale };
  }

  /** Forward and loss of the supervised positions; adds to the loss sums. */
  evaluate(host: HostBatch, hooks: ForwardHooks = {}): void {
    this.prepare(host.ids.length, false);
    const { batch, targets, ropes } = this.upload(host);
    const outer = this.bind("model", this.outer, batch.tokens);
    this.runForward(this.context(batch, false), ropes, outer, hooks);
    ops.linearCrossEntropy(this.device, {
      x: outer["xf"]!,
      w: this.params.value(this.spec.head),
      labels: targets,
      loss: this.lossSum,
      correct: this.correct,
      precision: this.precision,
    });
  }

  /**
   * Forward, loss and backward of one micro-batch: adds to the loss sums and to the gradients of what trains.
   * @param gradScale factor on the summed loss in the gradients: 1 / supervised tokens of the whole step
   */
  forwardBackward(host: HostBatch, gradScale: number, capacity = host.ids.length, hooks: ForwardHooks = {}): void {
    this.forwardBackwardStaged(this.stage(host, capacity), gradScale, hooks);
  }

  /** The first half of `forwardBackward`: takes the memory of a step and sends the batch to the device. */
  stage(host: HostBatch, capacity = host.ids.length): StagedBatch {
    this.prepare(Math.max(capacity, host.ids.length), true);
    return this.upload(host);
  }

  /** The second half: submits ops and nothing else, so that it can be recorded (Device.capture). */
  forwardBackwardStaged({ batch, targets, ropes }: StagedBatch, gradScale: number, hooks: ForwardHooks = {}): void {
    const { device, params, spec } = this;
    const run = this.context(batch, true, gradScale);
    const T = batch.tokens;
    const outer = this.bind("model", this.outer, T);
    this.runForward(run, ropes, outer, hooks);
    const L = this.blocks.length;
    const lowest = this.planned.keepFrom;
    const belowHead = lowest < L || params.trains(spec.finalNorm.weight);
    ops.linearCrossEntropy(device, {
      x: outer["xf"]!,
      w: params.value(spec.head),
      labels: targets,
      loss: this.lossSum,
      correct: this.correct,
      dx: belowHead ? outer["dxf"]! : null,
      dw: params.get(spec.head).grad,
      gradScale,
      precision: this.precision,
    });
    if (!belowHead) return;
    const dx = outer["dx"]!;
    normBackward(run, spec.finalNorm, outer["dxf"]!, outer["xFinal"]!, outer["finalRstd"]!, lowest < L ? dx : null, false);
    const embeddingTrains = params.trains(spec.embedding);
    for (let l = L - 1; l >= lowest; l--) {
      const block = this.blocks[l]!;
      const slots = this.bind(`layer ${l}`, block.slots, T);
      const scratch = this.bind(`layer ${l}`, block.backwardSlots, T);
      block.backward(run, ropes(l), dx, slots["x"]!, slots, scratch, l > lowest || embeddingTrains);
    }
    const dtable = params.get(spec.embedding).grad;
    if (dtable) ops.embeddingBackward(device, { ids: batch.ids, dy: dx, dtable });
  }

  /** Logits [T, V] of the whole batch as a new tensor (tests, generation); the caller disposes it. */
  logits(host: HostBatch, hooks: ForwardHooks = {}): Tensor {
    const xf = this.forward(host, hooks);
    const out = this.device.empty("f32", [host.ids.length, this.spec.vocab]);
    ops.gemm(this.device, "nt", { a: xf, b: this.params.value(this.spec.head), c: out, precision: this.precision });
    return out;
  }

  /** Logits [V] after the last token only. */
  async lastLogits(host: HostBatch): Promise<Float32Array> {
    const xf = this.forward(host);
    const out = this.device.empty("f32", [1, this.spec.vocab]);
    try {
      const last = xf.rows(host.ids.length - 1, host.ids.length);
      ops.gemm(this.device, "nt", { a: last, b: this.params.value(this.spec.head), c: out, precision: this.precision });
      return await out.readF32();
    } finally {
      out.dispose();
    }
  }

  resetLoss(): void {
    ops.fill(this.device, { x: this.lossSum, value: 0 });
    ops.fill(this.device, { x: this.correct, value: 0 });
  }

  /** Waits for everything submitted. */
  async readLoss(): Promise<LossSums> {
    const [loss, correct] = await Promise.all([this.lossSum.readF64(), this.correct.readI64()]);
    return { loss: loss[0]!, correct: Number(correct[0]!) };
  }

  dispose(): void {
    this.release();
    this.ropes.dispose();
    this.lossSum.dispose();
    this.correct.dispose();
  }
}

const blocksOf = (spec: ModelSpec): Block[] => spec.layers.map((layer, i) => new Block(layer, i, spec.hidden));
const outerSlots = (D: number): SlotTable => ({
  xEven: act(D),
  xOdd: act(D),
  xFinal: act(D),
  finalRstd: f32(0),
  xf: act(D),
  dx: act(D),
  dxf: act(D),
});

function planActivations(
  blocks: readonly Block[],
  outer: SlotTable,
  capacity: number,
  keepFrom: number,
  activation: DType,
): ActivationPlan {
  const plan = new ActivationPlan(capacity, activation);
  plan.add("model", outer, () => false);
  blocks.forEach((block, l) => {
    plan.add(`layer ${l}`, block.slots, (name) => l >= keepFrom && block.saved.has(name));
    if (l >= keepFrom) plan.add(`layer ${l}`, block.backwardSlots, () => false);
  });
  return plan;
}

/** The activation plan of a model that is not loaded; `lowestTrained` = the lowest layer that keeps activations, Infinity without training. */
export function estimateActivations(spec: ModelSpec, capacity: number, lowestTrained: number, activation: DType = "f32"): ActivationPlan {
  return planActivations(blocksOf(spec), outerSlots(spec.hidden), capacity, lowestTrained, activation);
}
