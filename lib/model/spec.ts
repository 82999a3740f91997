// ModelSpec: a neutral description of a Mixture-of-Experts decoder. Layers are written once over it; a model family is a
// data file (families/*.ts) that turns config.json into a ModelSpec. Nothing outside families/ knows a family's name.

import type { TensorSlice } from "../files/slice.ts";
import { sliceKey } from "../files/slice.ts";
import type { Activation, RouteRule } from "../ops.ts";

export interface LinearSpec {
  readonly weight: TensorSlice;
  readonly bias?: TensorSlice;
  readonly in: number;
  readonly out: number;
}

/** x / rms(x) · weight (RMSNorm), or (x − mean) / deviation · weight + bias (LayerNorm). */
export type NormSpec = RmsNormSpec | LayerNormSpec;

export interface RmsNormSpec {
  readonly kind: "rms";
  /** Absent: the factor is 1. */
  readonly weight?: TensorSlice;
  readonly size: number;
  readonly eps: number;
  /** The factor is 1 + weight. */
  readonly zeroCentred?: boolean;
}

export interface LayerNormSpec {
  readonly kind: "layer";
  readonly weight: TensorSlice;
  readonly bias: TensorSlice;
  readonly size: number;
  readonly eps: number;
}

/** Rotary embedding: inverse frequencies (length rotaryDim / 2) and the factor on cos and sin (yarn). */
export interface RopeSpec {
  readonly inverseFrequencies: readonly number[];
  readonly factor: number;
  readonly interleaved: boolean;
  /** What documents of more than `length` tokens have in the place of both (longrope). */
  readonly beyond?: { readonly length: number; readonly inverseFrequencies: readonly number[]; readonly factor: number };
}

/** Grouped-head attention: q, k, v projections, then what is there of norm, clipping and rotation. */
export interface HeadsAttentionSpec {
  readonly kind: "heads";
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly q: LinearSpec;
  readonly k: LinearSpec;
  /** "with k": what the projection of k makes, before its norm; all three norms then stand before the rotation. */
  readonly v: LinearSpec | "with k";
  readonly o: LinearSpec;
  /** Over the whole projection, or over each head where their size is headDim. */
  readonly qNorm?: NormSpec;
  readonly kNorm?: NormSpec;
  readonly vNorm?: NormSpec;
  /** Where the norms of q and k stand. */
  readonly norms: "before rotation" | "after rotation";
  /** Clamp of q, k, v to ±clip after the norms; absent = none. */
  readonly clip?: number;
  readonly scale: number;
  /** null: no positions. Its dimensions are the first of each head; the others pass. */
  readonly rope: RopeSpec | null;
  /** Keys that a query sees, its own included; 0 = all of its document. */
  readonly window: number;
  /** A query sees no key of an earlier chunk: chunks of so many tokens, counted from the start of its document; absent = none. */
  readonly chunk?: number;
  /** A score per head that every query sees beside its keys, without a value. */
  readonly sinks?: TensorSlice;
  /**
   * Gated attention: its output times σ of this, element by element. "with q": the rows of each head in q are followed by those of its
   * gate; q then has a norm of each head.
   */
  readonly outputGate?: LinearSpec | "with q";
  readonly queryFactor?: QueryFactorSpec;
}

/** Queries at position t are multiplied by 1 + beta · ln(1 + ⌊(t + offset) / length⌋). */
export interface QueryFactorSpec {
  readonly beta: number;
  readonly length: number;
  readonly offset: number;
}

/** Multi-head latent attention: keys and values come from a low-rank latent, plus one rotary key shared by all heads. */
export interface LatentAttentionSpec {
  readonly kind: "latent";
  readonly heads: number;
  readonly nopeDim: number;
  readonly ropeDim: number;
  readonly vDim: number;
  readonly kvRank: number;
  /** Direct query projection, or its low-rank form a → norm → b. */
  readonly q: LinearSpec | { readonly a: LinearSpec; readonly norm: NormSpec; readonly b: LinearSpec };
  readonly kvA: LinearSpec;
  readonly kvNorm: NormSpec;
  readonly kvB: LinearSpec;
  readonly o: LinearSpec;
  readonly scale: number;
  readonly rope: RopeSpec;
  readonly queryFactor?: QueryFactorSpec;
}

/** Depthwise causal convolution; the weight is [channels, 1, taps]. */
export interface ConvSpec {
  readonly weight: TensorSlice;
  readonly bias?: TensorSlice;
  readonly channels: number;
  readonly taps: number;
}

/** Gated DeltaNet: linear attention with a state per value head, behind a short convolution. */
export interface DeltaAttentionSpec {
  readonly kind: "delta";
  readonly keyHeads: number;
  /** Value heads, a multiple of the key heads. */
  readonly heads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  /** Each on its own (q, k and v one after another), or rows grouped by key head: q, k, v and z of each; b and a of each. */
  readonly projections:
    | { readonly qkv: LinearSpec; readonly z: LinearSpec; readonly b: LinearSpec; readonly a: LinearSpec }
    | { readonly qkvz: LinearSpec; readonly ba: LinearSpec };
  /** Over q, k and v, SiLU behind it. */
  readonly conv: ConvSpec;
  /** One number per value head: log of the decay's rate, and what is added to a. */
  readonly aLog: TensorSlice;
  readonly dtBias: TensorSlice;
  /** Of the output of each head. */
  readonly norm: NormSpec;
  readonly o: LinearSpec;
  /** Under the root of the norms of q and k. */
  readonly unitEps: number;
}

/** Short convolution: out(C ⊙ conv(B ⊙ X)), B, C and X the thirds of the first projection. */
export interface ShortConvSpec {
  readonly kind: "conv";
  readonly bcx: LinearSpec;
  readonly conv: ConvSpec;
  readonly o: LinearSpec;
}

/** What mixes the tokens of a layer. */
export type AttentionSpec = HeadsAttentionSpec | LatentAttentionSpec | DeltaAttentionSpec | ShortConvSpec;

/** Gated MLP a = f(gate·x, up·x), y = down·a. */
export interface MlpSpec {
  readonly kind: "dense";
  readonly hidden: number;
  /** f; SwiGLU unless given. */
  readonly activation?: Activation;
  readonly gate: TensorSlice;
  readonly up: TensorSlice;
  readonly down: TensorSlice;
}

/** The MLP that every token visits beside the routed ones; its output times σ of the gate, where there is one. */
export interface SharedExpertSpec extends MlpSpec {
  readonly outputGate?: LinearSpec;
}

export interface ExpertWeights {
  readonly gate: TensorSlice;
  readonly up: TensorSlice;
  readonly down: TensorSlice;
}

/**
 * How a matrix lies in its file, where that is not as the model computes with it: as [in, out]; of "transposed pairs" a row holds its
 * outputs as gate, up, gate, up …, which the model has as rows of gate, then rows of up. A vector is one such row.
 */
export type FileLayout = "transposed" | "transposed pairs";

/** An expert whose gate and up are one parameter [2F, D], since its file mixes their bytes. */
export interface MixedExpertWeights {
  readonly gateUp: TensorSlice;
  readonly down: TensorSlice;
  /** Of gateUp; down is transposed. */
  readonly layout: FileLayout;
  /** Vectors that are added behind the products. That of gateUp lies in its file as gateUp's rows do. */
  readonly biases?: { readonly gateUp: TensorSlice; readonly down: TensorSlice };
}

/** The matrices of a routed expert. */
export type RoutedExpertWeights = ExpertWeights | MixedExpertWeights;

/** What is multiplied with an expert's input, in order: gate and up, or both in one. */
export function inputWeights(e: RoutedExpertWeights): readonly TensorSlice[] {
  return "gateUp" in e ? [e.gateUp] : [e.gate, e.up];
}

/** Its biases, where it has some. */
export function biasesOf(e: RoutedExpertWeights | undefined): MixedExpertWeights["biases"] {
  return e && "gateUp" in e ? e.biases : undefined;
}

export interface MoeSpec {
  readonly kind: "moe";
  readonly experts: readonly RoutedExpertWeights[];
  readonly topK: number;
  readonly expertHidden: number;
  /** Of the routed experts; SwiGLU unless given. */
  readonly activation?: Activation;
  readonly router: TensorSlice;
  /** Part of the router's logits. */
  readonly routerBias?: TensorSlice;
  /** Added to the scores for choosing only. */
  readonly selectionBias?: TensorSlice;
  readonly rule: RouteRule;
  /** Of the block's input: what the experts read, and what the router reads; absent: both read it as it is. */
  readonly inputNorms?: { readonly experts: NormSpec; readonly router: NormSpec };
  /** Of the router's logits; 1 unless given. */
  readonly logitsFactor?: number;
  /** A factor per expert on its weights [E]. */
  readonly expertScale?: TensorSlice;
  /** What the weights multiply, where it is not the experts' outputs. */
  readonly weighted?: "inputs";
  /** Added to the routed output. */
  readonly shared?: SharedExpertSpec;
}

/** Norms of a branch of a layer: x + after(f(before(x))); absent ones pass. */
export interface BranchNorms {
  readonly before?: NormSpec;
  readonly after?: NormSpec;
}

/** A dense MLP and experts beside each other: the sum of both, each between norms of its own. */
export interface ParallelSpec {
  readonly kind: "parallel";
  readonly dense: MlpSpec;
  readonly denseNorms: BranchNorms;
  readonly moe: MoeSpec;
  readonly moeNorms: BranchNorms;
}

export interface LayerSpec {
  readonly attention: AttentionSpec;
  readonly attentionNorms: BranchNorms;
  readonly mlp: MlpSpec | MoeSpec | ParallelSpec;
  readonly mlpNorms: BranchNorms;
  /** Factor of both branches before they are added. */
  readonly residualFactor: number;
  /** The layer's output is multiplied with this number [1]; absent: not. */
  readonly outputFactor?: TensorSlice;
}

/** The routed experts of a layer. */
export function moePart({ mlp }: LayerSpec): MoeSpec | undefined {
  return mlp.kind === "moe" ? mlp : mlp.kind === "parallel" ? mlp.moe : undefined;
}
/** The MLP of a layer that is no expert. */
export function densePart({ mlp }: LayerSpec): MlpSpec | undefined {
  return mlp.kind === "dense" ? mlp : mlp.kind === "parallel" ? mlp.dense : undefined;
}

export interface ModelSpec {
  readonly modelType: string;
  readonly vocab: number;
  readonly hidden: number;
  readonly maxPositions: number;
  readonly embedding: TensorSlice;
  readonly layers: readonly LayerSpec[];
  readonly finalNorm: NormSpec;
  /** The embedding's ref when tied. */
  readonly head: TensorSlice;
  readonly headBias?: TensorSlice;
  /** The embedding's output is multiplied with it. */
  readonly embeddingFactor: number;
  /** The logits are. */
  readonly logitsFactor: number;
  /** The logits are then cap · tanh(logits / cap); absent: none. */
  readonly logitsCap?: number;
  readonly bosId?: number;
  readonly eosIds: readonly number[];
}

/** Decoder layer indices (0-based) that have routed experts. */
export function moeLayers(spec: ModelSpec): number[] {
  return spec.layers.flatMap((layer, i) => (moePart(layer) ? [i] : []));
}

/** The MoE part of layer `l`; throws nothing: undefined when the layer is dense or absent. */
export function moeOf(spec: ModelSpec, l: number): MoeSpec | undefined {
  const layer = spec.layers[l];
  return layer && moePart(layer);
}

/** Parameters of one routed expert (gate, up and down, biases), by sparse layer. */
export function expertParameters(spec: ModelSpec): Map<number, number> {
  const D = spec.hidden;
  const count = ({ experts, expertHidden: F }: MoeSpec): number => 3 * D * F + (biasesOf(experts[0]) ? 2 * F + D : 0);
  return new Map(moeLayers(spec).map((l) => [l, count(moeOf(spec, l)!)] as const));
}

/** "constant": read by the model, never trained. */
export type ParameterRole =
  | "embedding"
  | "attention"
  | "norm"
  | "router"
  | "selectionBias"
  | "expert"
  | "shared"
  | "dense"
  | "head"
  | "constant";

/** Parameters of this role have gradients. */
export function hasGradient(role: ParameterRole): boolean {
  return role !== "selectionBias" && role !== "constant";
}

/** The matrices of a routed expert, gateUp both in one, and their biases. */
export const EXPERT_PARTS = ["gate", "up", "gateUp", "down", "gateUpBias", "downBias"] as const;
export type ExpertPart = (typeof EXPERT_PARTS)[number];

/** What a parameter is to the model, whatever its tensor is called. */
export interface ParameterPlace {
  readonly role: ParameterRole;
  /** Decoder layer, −1 for the embedding, the layer count for final norm and head. */
  readonly layer: number;
  /** Routed expert of that layer, for role "expert". */
  readonly expert?: number;
  /** Which of the matrices or biases of a routed expert. */
  readonly part?: ExpertPart;
}

export interface ParameterShape extends ParameterPlace {
  readonly ref: TensorSlice;
  /** As the model computes with it. */
  readonly shape: readonly number[];
  readonly layout?: FileLayout;
}

/** The shape of a parameter in its file, and in an adapter. */
export function fileShape({ shape, layout }: Pick<ParameterShape, "shape" | "layout">): readonly number[] {
  return layout ? shape.toReversed() : shape;
}

/** Every parameter of the model with its shape and place, in a fixed order, tied ones once. */
export function parameterShapes(spec: ModelSpec): ParameterShape[] {
  const out: ParameterShape[] = [];
  const D = spec.hidden;
  const seen = new Set<string>();
  const add = (
    ref: TensorSlice,
    shape: readonly number[],
    role: ParameterRole,
    layer: number,
    routed?: Pick<ParameterShape, "expert" | "part" | "layout">,
  ): void => {
    if (seen.has(sliceKey(ref))) return;
    seen.add(sliceKey(ref));
    out.push({ ref, shape, role, layer, ...routed });
  };
  const linear = (l: LinearSpec, role: ParameterRole, layer: number): void => {
    add(l.weight, [l.out, l.in], role, layer);
    if (l.bias) add(l.bias, [l.out], role, layer);
  };
  const norm = (n: NormSpec, layer: number): void => {
    if (n.weight) add(n.weight, [n.size], "norm", layer);
    if (n.kind === "layer") add(n.bias, [n.size], "norm", layer);
  };
  const mlp = (m: ExpertWeights, F: number, role: ParameterRole, layer: number, expert?: number): void => {
    for (const part of ["gate", "up", "down"] as const)
      add(m[part], part === "down" ? [D, F] : [F, D], role, layer, expert === undefined ? undefined : { expert, part });
  };
  const expert = (m: RoutedExpertWeights, F: number, layer: number, id: number): void => {
    if (!("gateUp" in m)) return mlp(m, F, "expert", layer, id);
    add(m.gateUp, [2 * F, D], "expert", layer, { expert: id, part: "gateUp", layout: m.layout });
    add(m.down, [D, F], "expert", layer, { expert: id, part: "down", layout: "transposed" });
    if (!m.biases) return;
    add(m.biases.gateUp, [2 * F], "expert", layer, { expert: id, part: "gateUpBias", layout: m.layout });
    add(m.biases.down, [D], "expert", layer, { expert: id, part: "downBias" });
  };
  const moe = (m: MoeSpec, layer: number): void => {
    const E = m.experts.length;
    if (m.inputNorms) norm(m.inputNorms.experts, layer);
    if (m.inputNorms?.router.weight) add(m.inputNorms.router.weight, [D], "router", layer);
    add(m.router, [E, D], "router", layer);
    if (m.routerBias) add(m.routerBias, [E], "router", layer);
    if (m.selectionBias) add(m.selectionBias, [E], "selectionBias", layer);
    if (m.expertScale) add(m.expertScale, [E], "router", layer);
    m.experts.forEach((e, id) => expert(e, m.expertHidden, layer, id));
    if (m.shared) mlp(m.shared, m.shared.hidden, "shared", layer);
    if (m.shared?.outputGate) linear(m.shared.outputGate, "shared", layer);
  };
  const norms = ({ before, after }: BranchNorms, layer: number): void => {
    if (before) norm(before, layer);
    if (after) norm(after, layer);
  };
  const conv = (v: ConvSpec, layer: number): void => {
    add(v.weight, [v.channels, 1, v.taps], "attention", layer);
    if (v.bias) add(v.bias, [v.channels], "attention", layer);
  };
  /** All but its last projection. */
  const attention = (a: AttentionSpec, layer: number): void => {
    const linears = (...all: LinearSpec[]): void => all.forEach((l) => linear(l, "attention", layer));
    switch (a.kind) {
      case "heads":
        linears(a.q, a.k);
        if (a.v !== "with k") linears(a.v);
        for (const n of [a.qNorm, a.kNorm, a.vNorm]) if (n) norm(n, layer);
        if (a.sinks) add(a.sinks, [a.heads], "attention", layer);
        if (a.outputGate && a.outputGate !== "with q") linears(a.outputGate);
        return;
      case "latent":
        if ("a" in a.q) {
          linears(a.q.a);
          norm(a.q.norm, layer);
          linears(a.q.b);
        } else linears(a.q);
        linears(a.kvA);
        norm(a.kvNorm, layer);
        linears(a.kvB);
        return;
      case "delta":
        linears(...Object.values(a.projections));
        conv(a.conv, layer);
        for (const ref of [a.aLog, a.dtBias]) add(ref, [a.heads], "attention", layer);
        norm(a.norm, layer);
        return;
      case "conv":
        linears(a.bcx);
        conv(a.conv, layer);
    }
  };
  add(spec.embedding, [spec.vocab, D], "embedding", -1);
  spec.layers.forEach((layer, i) => {
    norms(layer.attentionNorms, i);
    attention(layer.attention, i);
    linear(layer.attention.o, "attention", i);
    norms(layer.mlpNorms, i);
    const [dense, routed] = [densePart(layer), moePart(layer)];
    if (layer.mlp.kind === "parallel") norms(layer.mlp.denseNorms, i);
    if (dense) mlp(dense, dense.hidden, "dense", i);
    if (layer.mlp.kind === "parallel") norms(layer.mlp.moeNorms, i);
    if (routed) moe(routed, i);
    if (layer.outputFactor) add(layer.outputFactor, [1], "constant", i);
  });
  norm(spec.finalNorm, spec.layers.length);
  add(spec.head, [spec.vocab, D], "head", spec.layers.length);
  if (spec.headBias) add(spec.headBias, [spec.vocab], "head", spec.layers.length);
  return out;
}
