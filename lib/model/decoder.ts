// A composed model: embedding → blocks → final norm, over one activation plan. It is composed from the spec, what trains, what a
// method attached and the lowest layer that keeps activations, and composed anew when one of these changes: slots follow what
// trains by construction.

import * as ops from "../ops.ts";
import type { DType, Tensor } from "../tensor.ts";
import type { Attachments } from "./layers/attachment.ts";
import { BalancePools } from "./layers/balance.ts";
import { Block } from "./layers/block.ts";
import { Composer } from "./layers/composer.ts";
import { Head } from "./layers/head.ts";
import type { RouteObserver } from "./layers/moe.ts";
import { Norm } from "./layers/norm.ts";
import { RopeIndex } from "./rope_table.ts";
import type { Run } from "./run.ts";
import { act, ActivationPlan } from "./slots.ts";
import { StateIndex } from "./states.ts";
import type { Slot } from "./slots.ts";
import { moeLayers } from "./spec.ts";
import type { ModelSpec } from "./spec.ts";
import type { Parameter, ParameterSource } from "./weights/parameter.ts";
import { PlannedParameters } from "./weights/planned.ts";

export interface ForwardHooks {
  /** Routing of every MoE layer, as it is computed. */
  readonly onRoute?: RouteObserver;
  /** hidden 0 = embedding output, i = output of layer i − 1 (the last one after the final norm). */
  readonly onHidden?: (index: number, x: Tensor) => void;
}

export class Decoder {
  readonly plan: ActivationPlan;
  readonly ropes: RopeIndex;
  readonly states: StateIndex;
  /** Of its two load-balancing losses, pooled over layers: what the sum of their layers counts in the loss. */
  readonly balanceFactors: readonly [number, number];
  readonly head: Head;
  /** A backward below the head is needed. */
  readonly needsDx: boolean;
  /** Gradient of the final hidden states, where the head's backward writes it. */
  readonly dxf: Slot;
  private readonly embedding: Parameter;
  private readonly embeddingFactor: number;
  private readonly logitsFactor: number;
  private readonly blocks: readonly Block[];
  private readonly finalNorm: Norm;
  private readonly keepFrom: number;
  private readonly xFinal: Slot;
  private readonly xf: Slot;
  private readonly dx: Slot;

  /** @param keepFrom lowest layer whose activations a backward reads; the layer count: only norm or head train; Infinity: nothing trains */
  constructor(spec: ModelSpec, source: ParameterSource, attachments: readonly Attachments[], keepFrom: number, activation: DType) {
    this.plan = new ActivationPlan(activation);
    this.ropes = new RopeIndex();
    this.states = new StateIndex();
    this.keepFrom = keepFrom;
    const D = spec.hidden;
    const L = spec.layers.length;
    const pools = new BalancePools(this.plan.planner("model", keepFrom <= L), moeLayers(spec).length);
    const composer = (owner: string, keeps: boolean): Composer =>
      new Composer(this.plan.planner(owner, keeps), source, attachments, this.ropes, this.states, pools);
    const c = composer("model", keepFrom <= L);
    // Layers that keep nothing pass their outputs in two buffers that take turns.
    const passing = Array.from({ length: Math.min(2, keepFrom, L) }, (_, i) => c.plan.shared(act(D), i === 0 ? "xEven" : "xOdd"));
    this.xFinal = c.plan.shared(act(D), "xFinal");
    this.xf = c.plan.shared(act(D), "xf");
    this.dx = c.plan.sharedBackward(act(D), "dx");
    this.dxf = c.plan.sharedBackward(act(D), "dxf");
    this.embedding = c.parameter(spec.embedding);
    this.head = new Head(spec, c.named("head"));
    this.embeddingFactor = spec.embeddingFactor;
    this.logitsFactor = spec.logitsFactor;
    this.finalNorm = new Norm(spec.finalNorm, c.named("finalNorm"));
    this.needsDx = keepFrom < L || this.finalNorm.trains;
    this.blocks = spec.layers.map(
      (layer, l) => new Block(layer, l, D, passing[l % 2] ?? this.xFinal, composer(`layer ${l}`, l >= keepFrom)),
    );
    this.balanceFactors = pools.factors;
  }

  /** What the head is multiplied with [T, D]: the normalised final hidden states, times the factor of the logits. */
  forward(run: Run, hooks: ForwardHooks): Tensor {
    const { blocks } = this;
    const inputOf = (l: number): Tensor => run.at(blocks[l]?.x ?? this.xFinal);
    let x = inputOf(0);
    ops.embedding(run.device, { ids: run.batch.ids, table: this.embedding.value, y: x, scale: this.embeddingFactor });
    hooks.onHidden?.(0, x);
    blocks.forEach((block, l) => {
      const out = inputOf(l + 1);
      block.forward(run, x, out, hooks.onRoute);
      if (l + 1 < blocks.length) hooks.onHidden?.(l + 1, out);
      x = out;
    });
    const xf = run.at(this.xf);
    this.finalNorm.forward(run, x, xf);
    hooks.onHidden?.(blocks.length, xf);
    this.scale(run, xf, this.logitsFactor);
    return xf;
  }

  private scale(run: Run, x: Tensor, factor: number): void {
    if (factor !== 1) ops.scale(run.device, { x, factor });
  }

  /** After a forward that kept: gradients of everything that trains below the head. dxf: gradient of what `forward` returned; destroyed. */
  backward(run: Run, dxf: Tensor): void {
    const { blocks, keepFrom } = this;
    const dx = run.at(this.dx);
    this.scale(run, dxf, this.logitsFactor);
    this.finalNorm.backward(run, dxf, run.at(this.xFinal), keepFrom < blocks.length ? dx : null);
    for (let l = blocks.length - 1; l >= keepFrom; l--) blocks[l]?.backward(run, dx, l > keepFrom || this.embedding.trains);
    const { grad } = this.embedding;
    if (!grad) return;
    const dtable = this.embedding === this.head.weight ? grad : (run.addable(grad) ?? grad); // a tied table holds the head's gradient already
    ops.embeddingBackward(run.device, { ids: run.batch.ids, dy: dx, dtable, scale: this.embeddingFactor });
  }
}

/** The activation plan of a model that is not loaded. `lowestLayer`: the lowest one that keeps activations, Infinity without training. */
export function planActivations(
  spec: ModelSpec,
  choice: {
    readonly keys: Iterable<string>;
    readonly attachments?: Attachments | null;
    /** Those of both that train; absent: all. */
    readonly active?: ReadonlySet<string>;
    readonly lowestLayer: number;
  },
  activation: DType = "f32",
): ActivationPlan {
  const attachments = choice.attachments ? [choice.attachments] : [];
  const source = new PlannedParameters(
    spec,
    choice.keys,
    attachments.flatMap((a) => a.parameters),
    choice.active ?? null,
  );
  return new Decoder(spec, source, attachments, choice.lowestLayer, activation).plan;
}
