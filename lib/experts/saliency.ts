// The gradient score of experts: ‖W ⊙ dW‖, the norm of an expert's matrices times their gradients, element by element (first-order Taylor
// importance), on the data of a profile. Batch by batch, dW the gradient of the summed loss of the batch's supervised tokens; a score is the
// sum of its norms over batches, so that partial profiles add up. Biases of experts do not count.
//
// It sits where a method's modules do, inside the experts, adds nothing and reads what passes: one backward gives every layer's
// scores, and nothing trains. A weight gradient lives until it was multiplied and summed; as many experts are taken at a
// time as DW_BYTES hold (at least one), whatever the model's size, in scratch that all layers share.

import * as ops from "../ops.ts";
import type { AttachmentContext, Attachments, ExpertRows, ExpertsAttachment, ExpertsSite, Hidden } from "../model/layers/attachment.ts";
import type { Run } from "../model/run.ts";
import type { Slot } from "../model/slots.ts";
import type { ModelSpec, RoutedExpertWeights } from "../model/spec.ts";
import { inputWeights, moeLayers } from "../model/spec.ts";
import type { ParameterList } from "../model/weights/parameter.ts";
import type { Device, Tensor } from "../tensor.ts";
import { TensorList } from "../tensor.ts";
import type { ExpertLayout } from "./expert_set.ts";

/** Weight gradients of one kind (gate and up, or down) that are held at a time. */
const DW_BYTES = 2 ** 27;

/** Σ (W ⊙ dW)² of a layer's experts: of gate and up (one or two numbers each), and of down. */
interface Squares {
  readonly input: Tensor;
  readonly down: Tensor;
  readonly segments: number;
}

export class ExpertSaliency implements Attachments {
  readonly parameters = [];
  /** Lowest layer whose backward is read. */
  readonly lowestLayer: number;
  private readonly device: Device;
  private readonly squares = new Map<number, Squares>();
  private readonly sums: Map<number, number[]>;
  private readonly probes = new Set<Probe>();

  private readonly bytes: number;

  /** @param bytes of the weight gradients of one kind that are held at a time */
  constructor(device: Device, spec: ModelSpec, layout: ExpertLayout, bytes = DW_BYTES) {
    this.device = device;
    this.bytes = bytes;
    this.lowestLayer = Math.min(...moeLayers(spec));
    this.sums = new Map([...layout].map(([layer, E]) => [layer, new Array<number>(E).fill(0)]));
  }

  experts(site: ExpertsSite, context: AttachmentContext): ExpertsAttachment | null {
    const { routed, layer, experts } = site;
    if (!routed) return null;
    let squares = this.squares.get(layer);
    if (!squares) {
      const segments = inputWeights(experts[0]!).length;
      const of = (n: number): Tensor => this.device.empty("f64", [n]);
      squares = { input: of(experts.length * segments), down: of(experts.length), segments };
      this.squares.set(layer, squares);
    }
    const probe = new Probe(site, squares, this.bytes, context.named("saliency"));
    this.probes.add(probe);
    return probe;
  }

  /** Adds the norms of the backward that was submitted last. Waits for it. */
  async collect(): Promise<void> {
    for (const [layer, { input, down, segments }] of this.squares) {
      const [inputs, downs] = await Promise.all([input.readF64(), down.readF64()]);
      const sums = this.sums.get(layer)!;
      downs.forEach((square, e) => {
        let sum = square;
        for (let s = 0; s < segments; s++) sum += inputs[e * segments + s]!;
        sums[e]! += Math.sqrt(sum);
      });
    }
  }

  /** Goes on from sums that were read before. */
  write(of: (layer: number) => readonly number[]): void {
    for (const layer of this.sums.keys()) this.sums.set(layer, [...of(layer)]);
  }
  read(layer: number): readonly number[] {
    return this.sums.get(layer)!;
  }

  dispose(): void {
    for (const probe of this.probes) probe.dispose();
    this.probes.clear();
    for (const { input, down } of this.squares.values()) [input, down].forEach((t) => t.dispose());
    this.squares.clear();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Experts that are taken together, their weights, and where their squares go. */
interface Chunk {
  readonly groups: Int32Array;
  readonly weights: ParameterList;
  readonly squares: Tensor;
}

/** The matrices of one kind of a layer: their gradients chunk by chunk into scratch, and from there into squares. */
class Matrices {
  private readonly slots: readonly Slot[];
  private readonly chunks: readonly Chunk[];
  /** Lists over the scratch of now, by length. */
  private lists = new Map<number, TensorList>();
  private first: Tensor | null = null;

  /** @param shapes of one expert's matrices */
  constructor(
    experts: readonly RoutedExpertWeights[],
    of: (e: RoutedExpertWeights) => readonly Parameters<AttachmentContext["parameter"]>[0][],
    shapes: readonly (readonly [number, number])[],
    squares: Tensor,
    room: number,
    context: AttachmentContext,
  ) {
    const bytes = 4 * shapes.reduce((n, [rows, columns]) => n + rows * columns, 0);
    const at = Math.min(experts.length, Math.max(1, Math.floor(room / bytes)));
    const { plan } = context;
    this.slots = Array.from({ length: at }, () => shapes.map((fixed) => plan.backward({ dtype: "f32", fixed }, "dW"))).flat();
    const chunks: Chunk[] = [];
    for (let begin = 0; begin < experts.length; begin += at) {
      const taken = experts.slice(begin, begin + at);
      const weights = context.values(taken.flatMap((e) => of(e).map((ref) => context.parameter(ref))));
      const n = taken.length * shapes.length;
      chunks.push({ groups: Int32Array.from(taken, (_, i) => begin + i), weights, squares: squares.view(begin * shapes.length, [n]) });
    }
    this.chunks = chunks;
  }

  /** @param gradient writes dW of the experts `groups` into `dw` */
  measure(run: Run, gradient: (groups: Int32Array, dw: TensorList) => void): void {
    for (const { groups, weights, squares } of this.chunks) {
      const grads = this.scratch(run, squares.shape[0]!);
      gradient(groups, grads);
      ops.saliency(run.device, { weights: weights.tensors, grads, squares });
    }
  }

  private scratch(run: Run, n: number): TensorList {
    const first = run.at(this.slots[0]!);
    if (first !== this.first) this.drop();
    this.first = first;
    let list = this.lists.get(n);
    if (!list) {
      list = new TensorList(this.slots.slice(0, n).map((slot) => run.at(slot)));
      this.lists.set(n, list);
    }
    return list;
  }

  private drop(): void {
    for (const list of this.lists.values()) list.dispose();
    this.lists = new Map();
  }
  dispose(): void {
    this.drop();
    for (const { squares } of this.chunks) squares.dispose();
  }
}

/** Inside one layer's experts. */
class Probe implements ExpertsAttachment {
  private readonly input: Matrices;
  private readonly down: Matrices;
  private readonly segments: number;

  constructor({ experts, width: D, hidden: F }: ExpertsSite, squares: Squares, room: number, context: AttachmentContext) {
    const { segments } = squares;
    this.segments = segments;
    const half = [F, D] as const;
    this.input = new Matrices(experts, inputWeights, segments === 2 ? [half, half] : [[2 * F, D]], squares.input, room, context);
    this.down = new Matrices(experts, (e) => [e.down], [[D, F]], squares.down, room, context);
  }

  readonly forward = { hidden: (): void => undefined, output: (): void => undefined };

  readonly backward = {
    output: (run: Run, dy: Tensor, _x: Tensor, { offsets }: ExpertRows, a: Tensor): void =>
      this.down.measure(run, (groups, dw) =>
        ops.groupedGemmTn(run.device, { dy, x: a, offsets, dw, groups, accumulate: false, precision: run.precision }),
      ),
    hidden: (run: Run, dh: Hidden, x: Tensor, { tokens, offsets }: ExpertRows): void => {
      const { segments } = this;
      this.input.measure(run, (groups, dw) =>
        ops.groupedGemmTn(run.device, {
          dy: dh.whole,
          x,
          xRows: tokens,
          offsets,
          dw,
          segments,
          groups,
          accumulate: false,
          precision: run.precision,
        }),
      );
    },
    input: (): void => undefined,
  };

  dispose(): void {
    this.input.dispose();
    this.down.dispose();
  }
}
