// The model that fixtures are compared with. All that the checkers know of the project's insides is in this file.

import { ConfigError } from "../../lib/errors.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import type { Checkpoint } from "../../lib/files/checkpoint.ts";
import { decodeFloats } from "../../lib/files/floats.ts";
import { placeSlice, sliceKey } from "../../lib/files/slice.ts";
import type { TensorSlice } from "../../lib/files/slice.ts";
import { PerftAttachments } from "../../lib/methods/perft.ts";
import type { PerftOptions } from "../../lib/methods/perft_options.ts";
import { RoutedAdapters } from "../../lib/methods/perft_routed.ts";
import { LoraAttachments } from "../../lib/methods/lora.ts";
import { loraMatrices } from "../../lib/methods/lora_targets.ts";
import type { LoraMatrix } from "../../lib/methods/lora_targets.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import type { HostBatch } from "../../lib/model/batch.ts";
import { checkpointSpec } from "../../lib/model/families/index.ts";
import type { Attachments, MoeAttachment } from "../../lib/model/layers/attachment.ts";
import { hasGradient, parameterShapes } from "../../lib/model/spec.ts";
import type { ModelSpec, ParameterRole } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import type { TrainingChoice } from "../../lib/model/transformer.ts";
import type { AttachedSpec, BaseParameter, Parameter } from "../../lib/model/weights/parameter.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import type { Device, Tensor } from "../../lib/tensor.ts";
import { AdamW } from "../../lib/train/optimizer.ts";
import { NotServed } from "./compare.ts";

export type { HostBatch } from "../../lib/model/batch.ts";
export { Device } from "../../lib/tensor.ts";

/** A batch as golden.json has it: labels are aligned with their tokens, −100 is not supervised. */
export interface GoldenBatch {
  readonly input_ids: readonly (readonly number[])[];
  readonly labels: readonly (readonly number[])[];
}

/** Shifts labels aligned with their tokens: position t predicts t + 1 of the same row. */
function shiftLabels(labels: ArrayLike<number>): Int32Array {
  const out = new Int32Array(labels.length).fill(-100);
  for (let t = 0; t + 1 < labels.length; t++) out[t] = labels[t + 1]!;
  return out;
}

export function batchOf({ input_ids, labels }: GoldenBatch): HostBatch {
  return hostBatch(input_ids.map((ids, i) => ({ ids, targets: shiftLabels(labels[i] ?? []) })));
}

/** Documents in one row that do not see each other. */
export function packedBatch(
  documents: readonly { readonly input_ids: readonly number[]; readonly labels: readonly number[] }[],
): HostBatch {
  const ids: number[] = [];
  const targets: number[] = [];
  const docStart: number[] = [];
  for (const d of documents) {
    const start = ids.length;
    ids.push(...d.input_ids);
    targets.push(...shiftLabels(d.labels));
    docStart.push(...d.input_ids.map(() => start));
  }
  return hostBatch([{ ids, targets, docStart }]);
}

/** The same tokens, with a loss over those that `keep` names only. */
export function restricted(host: HostBatch, keep: readonly boolean[]): HostBatch {
  const targets = host.targets.map((target, t) => (keep[t] ? target : -100));
  return { ...host, targets, supervised: targets.filter((t) => t >= 0).length };
}

/** Routing of one layer, the slots of each token in the order of the experts' ids. */
export interface Routes {
  readonly ids: Int32Array;
  readonly weights: Float32Array;
  /** Slots per token. */
  readonly k: number;
}

/** A forward with everything that can be seen of it. */
export interface Pass {
  readonly logits: Float32Array;
  /** 0 = embedding output, i = output of layer i − 1, the last one after the final norm. */
  readonly hidden: ReadonlyMap<number, Float32Array>;
  readonly routes: ReadonlyMap<number, Routes>;
}

/** torch's AdamW as golden.json has it. */
export interface GoldenOptimizer {
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weight_decay: number;
  readonly clip_norm: number;
}

/** Values of one parameter, and which part of a checkpoint tensor they are. */
export interface Part {
  readonly ref: TensorSlice;
  readonly values: Float32Array;
}

/** A checkpoint tensor from its parts; what no part holds is 0. */
export function assemble(shape: readonly number[], parts: readonly Part[]): Float32Array {
  const out = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (const { ref, values } of parts) out.set(values, placeSlice(ref, { dtype: "F32", shape }).begin / 4);
  return out;
}

/** A family's description. @throws NotServed the project refuses the configuration */
function specOf(checkpoint: Checkpoint): ModelSpec {
  try {
    return checkpointSpec(checkpoint);
  } catch (error) {
    if (error instanceof ConfigError) throw new NotServed(error.message.replace(/^.*config\.json: /, ""));
    throw error;
  }
}

export class TestModel {
  readonly spec: ModelSpec;
  private readonly checkpoint: Checkpoint;
  private readonly transformer: Transformer;
  private training: Training | null = null;
  private readonly added = new AddedRoutes();

  private constructor(checkpoint: Checkpoint, transformer: Transformer) {
    this.spec = transformer.spec;
    this.checkpoint = checkpoint;
    this.transformer = transformer;
  }

  /** @throws NotServed no such family, or flags that it is not served with */
  static async open(device: Device, dir: string): Promise<TestModel> {
    const checkpoint = await openCheckpoint(dir);
    const spec = specOf(checkpoint);
    return new TestModel(checkpoint, new Transformer(spec, device, await Parameters.load(device, spec, checkpoint)));
  }

  async observe(host: HostBatch): Promise<Pass> {
    const hidden = new Map<number, Promise<Float32Array>>();
    const routes = new Map<number, { ids: Promise<Int32Array>; weights: Promise<Float32Array>; k: number }>();
    using logits = this.transformer.logits(host, {
      onHidden: (i, x) => hidden.set(i, x.readF32()),
      onRoute: (l, ids, weights) => routes.set(l, { ids: ids.readI32(), weights: weights.readF32(), k: ids.shape[1] ?? 0 }),
    });
    const out = { logits: await logits.readF32(), hidden: new Map<number, Float32Array>(), routes: new Map<number, Routes>() };
    for (const [i, x] of hidden) out.hidden.set(i, await x);
    for (const [l, { ids, weights, k }] of routes) out.routes.set(l, sorted({ ids: await ids, weights: await weights, k }));
    return out;
  }

  /** Mean over the supervised tokens. */
  async loss(host: HostBatch): Promise<number> {
    this.transformer.resetLoss();
    this.transformer.evaluate(host);
    return (await this.transformer.readLoss()).loss / host.supervised;
  }

  /** The likeliest token after `ids`. */
  async nextToken(ids: readonly number[]): Promise<number> {
    const logits = await this.transformer.lastLogits(hostBatch([{ ids, targets: ids.map(() => -100) }]));
    return logits.reduce((best, x, i) => (x > logits[best]! ? i : best), 0);
  }

  private begin(choice: TrainingChoice, optimizer: GoldenOptimizer): Training {
    this.endTraining();
    this.training = new Training(this.transformer, choice, optimizer);
    return this.training;
  }
  /** Everything that has a gradient. */
  trainAll(): Training {
    const keys = this.transformer.params.all().flatMap((p) => (hasGradient(p.role) ? [p.key] : []));
    return this.begin({ keys }, { lr: 0, betas: [0, 0], eps: 1, weight_decay: 0, clip_norm: 0 });
  }
  /** The experts of an ESFT selection: layer → ids. */
  trainExperts(experts: Readonly<Record<string, readonly number[]>>, optimizer: GoldenOptimizer): Training {
    const keys = parameterShapes(this.spec).flatMap(({ ref, layer, expert }) =>
      expert !== undefined && experts[layer]?.includes(expert) ? [sliceKey(ref)] : [],
    );
    return this.begin({ keys }, optimizer);
  }
  /** What a method attaches. */
  trainAttached(attachments: Attachments, optimizer: GoldenOptimizer): Training {
    return this.begin({ keys: [], attachments }, optimizer);
  }
  /**
   * LoRA from its tensors: lora.<checkpoint tensor>.A [r, in] and .B [out, r], or of gate over up of an expert, which the checkpoint
   * does not have.
   */
  lora(tensors: FixtureTensors, scaling: number): Attachments {
    const keyOf = (name: string): string => /^lora\.(.+)\.[AB]$/.exec(name)?.[1] ?? name;
    const beside = new Set([...tensors.keys()].map(keyOf));
    const expertTerms = [...beside].some((key) => key.endsWith("gate_up_proj.weight")) ? "fused" : "matrix";
    const matrices = loraMatrices(this.spec, { rank: 1, alpha: 1, targets: ["all-linear"], expertTerms }).flatMap((m): LoraMatrix[] => {
      if (!beside.delete(m.key)) return [];
      const rank = tensors.get(`lora.${m.key}.A`)?.shape[0];
      return rank === undefined ? [] : [{ ...m, rank, scaling }];
    });
    if (beside.size > 0) throw new Error(`adapter tensors beside ${[...beside].join(", ")}, which the model does not have`);
    return withValues(new LoraAttachments(matrices, "kaiming", 0), tensors);
  }
  /** PERFT from its tensors. */
  perft(options: PerftOptions, tensors: FixtureTensors): Attachments {
    return withValues(new PerftAttachments(this.spec, options, 0), tensors);
  }
  /** Routing of routers that a method attached, as the last forward of such an `observed` one made it. */
  addedRoutes(): Promise<ReadonlyMap<number, Routes>> {
    return this.added.read();
  }
  /** The same attachments; what their routers choose can be asked for. */
  observed(attachments: Attachments): Attachments {
    return {
      ...attachments,
      moe: (site, context) => {
        const own = attachments.moe?.(site, context) ?? null;
        return own instanceof RoutedAdapters ? this.added.watch(site.layer, own) : own;
      },
    };
  }
  /** Back to the checkpoint's values. */
  endTraining(): void {
    this.training?.dispose();
    this.training = null;
    this.transformer.freeze();
  }

  /** Role of a checkpoint tensor; undefined where the model has no such tensor. */
  roleOf(tensor: string): ParameterRole | undefined {
    return this.transformer.params.all().find((p) => p.ref.name === tensor)?.role;
  }
  /** The parts of a checkpoint tensor: what the model computes with now, what the checkpoint holds, or gradients. */
  async parts(tensor: string, what: "now" | "stored" | "gradient"): Promise<Part[]> {
    const out: Part[] = [];
    const { params } = this.transformer;
    for (const p of params.all()) {
      if (p.ref.name !== tensor) continue;
      const source = what === "gradient" ? p.grad : (p.master ?? p.value);
      if (!source) throw new Error(`"${p.key}" has no gradient`);
      out.push({ ref: p.ref, values: what === "stored" ? await params.storedValues(p) : await params.inFileOrder(p, source) });
    }
    return out;
  }
  /** Checkpoint tensors that hold trained parameters with other values than the file's, and frozen ones that are not the file's. */
  async moved(): Promise<{ trained: string[]; frozen: string[] }> {
    const out = { trained: new Set<string>(), frozen: new Set<string>() };
    for (const p of this.transformer.params.all()) {
      const now = await this.transformer.params.inFileOrder(p, p.master ?? p.value);
      const stored = await this.storedValues(p);
      // Where products read a rounded copy, the bits of a frozen matrix are those of its own base.
      const exact = !p.inPlace && p.base.dtype === p.stored;
      const want = p.trains || exact ? stored : await this.transformer.params.inFileOrder(p, p.base);
      if (now.some((x, i) => !Object.is(x, want[i])) || (!p.trains && p.value !== p.base))
        out[p.trains ? "trained" : "frozen"].add(p.ref.name);
    }
    return { trained: [...out.trained], frozen: [...out.frozen] };
  }

  /** Of the file, read here again, save where reading means decoding: then the model's own. */
  private async storedValues(p: BaseParameter): Promise<Float32Array> {
    const info = this.checkpoint.weights.get(p.ref.name);
    if (!info) throw new Error(`no tensor "${p.ref.name}"`);
    if (info.packed) return this.transformer.params.storedValues(p);
    const { begin, end } = placeSlice(p.ref, info);
    return decodeFloats((await this.checkpoint.read(p.ref.name)).subarray(begin, end), info.dtype);
  }

  dispose(): void {
    this.endTraining();
    this.transformer.dispose();
    this.transformer.params.dispose();
  }
}

/** What routers choose that a method attached. */
class AddedRoutes {
  private readonly last = new Map<number, { ids: Promise<Int32Array>; weights: Promise<Float32Array>; k: number }>();

  watch(layer: number, attached: RoutedAdapters): MoeAttachment {
    return {
      dweights: attached.dweights,
      forward: (run, x, y) => {
        attached.forward(run, x, y);
        const { ids, weights } = attached.routes(run);
        this.last.set(layer, { ids: ids.readI32(), weights: weights.readF32(), k: ids.shape[1] ?? 0 });
      },
      backward: (run, dy, x, dx) => attached.backward(run, dy, x, dx),
    };
  }

  async read(): Promise<Map<number, Routes>> {
    const out = new Map<number, Routes>();
    for (const [l, { ids, weights, k }] of this.last) out.set(l, sorted({ ids: await ids, weights: await weights, k }));
    return out;
  }
}

/** Tensors of an adapter, by name. */
export type FixtureTensors = ReadonlyMap<string, { readonly shape: readonly number[]; readonly values: Float32Array }>;

/** The same attachments, beginning with the fixture's values. */
function withValues(attachments: Attachments, tensors: FixtureTensors): Attachments {
  const parameters = attachments.parameters.map((spec): AttachedSpec => {
    const from = tensors.get(spec.key);
    if (from?.shape.join() !== spec.shape.join())
      throw new Error(`adapter tensor "${spec.key}": expected [${spec.shape.join(", ")}], found [${from?.shape.join(", ") ?? ""}]`);
    return { ...spec, initial: () => from.values };
  });
  return {
    parameters,
    balance: attachments.balance,
    linear: (target, context) => attachments.linear?.(target, context) ?? null,
    experts: (site, context) => attachments.experts?.(site, context) ?? null,
    moe: (site, context) => attachments.moe?.(site, context) ?? null,
  };
}

/** A choice of what trains, with its optimizer, until the model's next one. */
export class Training {
  readonly parameters: readonly Parameter[];
  private readonly transformer: Transformer;
  private readonly optimizer: AdamW;
  private readonly lr: number;

  constructor(transformer: Transformer, choice: TrainingChoice, o: GoldenOptimizer) {
    this.transformer = transformer;
    this.lr = o.lr;
    const state = transformer.train(choice);
    this.parameters = state.parameters;
    const [beta1, beta2] = o.betas;
    this.optimizer = new AdamW(transformer.device, state, { beta1, beta2, eps: o.eps, weightDecay: o.weight_decay, clipNorm: o.clip_norm });
  }

  /** Gradients of one batch, in place of earlier ones; its loss, with the load-balancing losses that a method weighs. */
  async backward(host: HostBatch): Promise<number> {
    this.transformer.resetLoss();
    this.transformer.forwardBackward(host, 1 / host.supervised, host.ids.length, {}, false);
    const { loss, balance } = await this.transformer.readLoss();
    return loss / host.supervised + balance[0] + balance[1];
  }
  /** Clips and updates; the gradients' norm before clipping. */
  async update(): Promise<number> {
    this.optimizer.step(this.lr);
    return this.optimizer.readNorm();
  }
  private named(key: string): Parameter {
    const p = this.parameters.find((q) => q.key === key);
    if (!p) throw new Error(`"${key}" does not train`);
    return p;
  }
  gradient(key: string): Promise<Float32Array> {
    return (this.named(key).grad as Tensor).readF32();
  }
  value(key: string): Promise<Float32Array> {
    return (this.named(key).master as Tensor).readF32();
  }
  dispose(): void {
    this.optimizer.dispose();
  }
}

/** Orders the slots of each token by ascending id, as the fixtures store them. */
function sorted({ ids, weights, k }: Routes): Routes {
  for (let t = 0; t < ids.length; t += k) {
    const order = Array.from({ length: k }, (_, j) => [ids[t + j]!, weights[t + j]!] as const).sort((a, b) => a[0] - b[0]);
    order.forEach(([id, w], j) => {
      ids[t + j] = id;
      weights[t + j] = w;
    });
  }
  return { ids, weights, k };
}
