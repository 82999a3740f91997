// What a checkpoint is, from its headers alone: shape, experts, router, bytes by role, and what training would need.

import { join } from "node:path";
import type { Checkpoint } from "./files/checkpoint.ts";
import { quantizationConfig } from "./files/quantised/index.ts";
import { tensorBytes } from "./files/safetensors.ts";
import { sliceKey } from "./files/slice.ts";
import type { TrainableSpec } from "./methods/method.ts";
import { checkpointSpec } from "./model/families/index.ts";
import type { AttentionSpec, ModelSpec, MoeSpec, ParameterRole } from "./model/spec.ts";
import { bytesOf } from "./tensor.ts";
import { memoryDtype, packedOf } from "./quantised.ts";
import { expertParameters, inputWeights, moeLayers, moeOf, parameterShapes } from "./model/spec.ts";
import { planMemory } from "./train/memory_plan.ts";

/** @throws ConfigError unknown architecture · LayoutError a tensor that the architecture needs is missing or has another shape */
export function inspectCheckpoint(checkpoint: Checkpoint) {
  const spec = checkpointSpec(checkpoint);
  const sparse = moeLayers(spec);
  const moe = sparse.length > 0 ? moeOf(spec, sparse[0]!)! : null;
  const roles = new Map<ParameterRole, { role: ParameterRole; tensors: number; parameters: number; bytes: number }>();
  const used = new Set<string>();
  let parameters = 0;
  let expertTotal = 0;
  for (const { ref, shape, role } of parameterShapes(spec)) {
    const found = checkpoint.weights.get(ref.name)!; // as checkpointSpec checked
    used.add(ref.name);
    const n = shape.reduce((a, b) => a * b, 1);
    parameters += n;
    if (role === "expert") expertTotal += n;
    const size = roles.get(role) ?? { role, tensors: 0, parameters: 0, bytes: 0 };
    size.tensors++;
    size.parameters += n;
    size.bytes += found.packed ? found.packed.bytes * (n / elements(found.shape)) : (tensorBytes(found.dtype, shape) ?? 0);
    roles.set(role, size);
  }
  const dtypes: Record<string, number> = {};
  for (const t of checkpoint.tensors.values()) dtypes[t.dtype] = (dtypes[t.dtype] ?? 0) + 1;
  const perExpert = expertParameters(spec);
  const activeExperts = sparse.reduce((n, l) => n + perExpert.get(l)! * moeOf(spec, l)!.topK, 0);
  const head = sliceKey(spec.head) === sliceKey(spec.embedding) ? spec.vocab * spec.hidden : 0; // tied: the table is the head too
  return {
    dir: checkpoint.dir,
    modelType: spec.modelType,
    vocab: spec.vocab,
    hidden: spec.hidden,
    maxPositions: spec.maxPositions,
    layers: spec.layers.length,
    attention: attentionText(spec),
    /** 0-based decoder layers with routed experts; of the first of them: experts, top-k … */
    moeLayers: sparse,
    experts: moe?.experts.length ?? 0,
    topK: moe?.topK ?? 0,
    expertHidden: moe?.expertHidden ?? 0,
    sharedHidden: moe?.shared?.hidden ?? 0,
    /** Of one routed expert; of the largest, where layers differ. */
    expertParameters: Math.max(0, ...perExpert.values()),
    router: moe?.rule ?? null,
    routerText: moe ? routerText(moe) : "none",
    expertLayout: moe ? (inputWeights(moe.experts[0]!)[0]!.index === undefined ? "per expert" : "fused") : "none",
    dtypes,
    shards: checkpoint.shards.length,
    tensors: checkpoint.tensors.size,
    /** Of config.json's quantization_config; null: none. */
    quantMethod: quantMethod(checkpoint),
    decoded: decodedWeights(checkpoint, used),
    /** Known exceptions that the text model does not use (rotary buffers, vision towers …). */
    unusedTensors: [...checkpoint.weights.keys()].filter((name) => !used.has(name)).length,
    parameters,
    /** Those that one token meets, without the embedding table. */
    activeParameters: parameters - expertTotal + activeExperts - spec.vocab * spec.hidden + head,
    bytes: checkpoint.totalBytes,
    roles: [...roles.values()],
  };
}

const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

function quantMethod({ config, dir }: Checkpoint): string | null {
  const method = quantizationConfig(config, join(dir, "config.json"))?.["quant_method"];
  return typeof method === "string" ? method : null;
}

/** Weights of the model that are decoded when they are loaded, by how they are stored: bytes in the files, and in host memory. */
function decodedWeights({ weights }: Checkpoint, used: ReadonlySet<string>) {
  const schemes = new Map<string, { scheme: string; weights: number; bytes: number; memoryBytes: number; memoryDtype: string }>();
  for (const name of used) {
    const w = weights.get(name)!;
    const packed = packedOf(w);
    if (!packed) continue;
    const dtype = memoryDtype(w, packed, "exact");
    const key = `${packed.scheme} ${dtype}`;
    const size = schemes.get(key) ?? { scheme: packed.scheme, weights: 0, bytes: 0, memoryBytes: 0, memoryDtype: dtype };
    size.weights++;
    size.bytes += packed.bytes;
    size.memoryBytes += elements(w.shape) * bytesOf(dtype);
    schemes.set(key, size);
  }
  return [...schemes.values()];
}

/** Weights in memory: the mapped files, with what has to be decoded as it is then. */
export function residentBytes(checkpoint: Checkpoint, spec: ModelSpec): number {
  const decoded = decodedWeights(checkpoint, new Set(parameterShapes(spec).map(({ ref }) => ref.name)));
  return decoded.reduce((n, d) => n - d.bytes + d.memoryBytes, checkpoint.totalBytes);
}

/** Memory of training `trainable` with micro-batches of `tokensPerBatch` tokens, from headers alone. */
export function estimateTraining(checkpoint: Checkpoint, spec: ModelSpec, trainable: TrainableSpec, tokensPerBatch: number) {
  const trained = new Set(trainable.keys);
  const { stateBytes, activationBytes, hostBytes, bytes } = planMemory(spec, trainable, tokensPerBatch);
  const weightBytes = residentBytes(checkpoint, spec);
  return {
    method: trainable.type,
    trainedParameters: trainable.parameters,
    /** Of the model's parameters. */
    share: trainable.parameters / trainable.totalParameters,
    /** Frozen weights: in the mapped files without a copy, save what has to be decoded or turned. */
    weightBytes,
    stateBytes,
    activationBytes,
    /** Rows under way and what is copied to save; a run adds its encoded examples. */
    hostBytes,
    /** What must be in memory at once. */
    totalBytes: weightBytes + bytes,
    /** Trained tensors as the base stores them. */
    adapterBytes: parameterShapes(spec)
      .filter(({ ref }) => trained.has(sliceKey(ref)))
      .reduce((n, { ref, shape }) => n + (tensorBytes(checkpoint.weights.get(ref.name)!.dtype, shape) ?? 0), 0),
    /** The lowest layer that keeps activations. */
    lowestLayer: trainable.lowestLayer,
    tokensPerBatch,
  };
}

/** What mixes the tokens: of all layers alike, or each kind with the number of its layers. */
function attentionText(spec: ModelSpec): string {
  const kinds = new Map<string, number>();
  for (const { attention } of spec.layers) {
    const text = mixerText(attention);
    kinds.set(text, (kinds.get(text) ?? 0) + 1);
  }
  if (kinds.size <= 1) return [...kinds.keys()][0] ?? "none";
  return [...kinds].map(([text, layers]) => `${layers} ${layers === 1 ? "layer" : "layers"}: ${text}`).join("; ");
}

function mixerText(a: AttentionSpec): string {
  switch (a.kind) {
    case "heads":
      return [
        `${a.heads} heads of ${a.headDim}`,
        ...(a.kvHeads === a.heads ? [] : [`${a.kvHeads} for keys and values`]),
        ...(a.qNorm ? [a.vNorm ? "q, k and v normalised" : "q and k normalised"] : []),
        ...(a.v === "with k" ? ["values from the keys' projection"] : []),
        ...(a.rope === null ? ["no positions"] : []),
        ...(a.window > 0 ? [`window of ${a.window}`] : []),
        ...(a.chunk === undefined ? [] : [`chunks of ${a.chunk}`]),
        ...(a.sinks ? ["sinks"] : []),
        ...(a.queryFactor ? ["queries that grow with their position"] : []),
        ...(a.outputGate ? ["gated"] : []),
      ].join(", ");
    case "latent":
      return `latent (MLA): ${a.heads} heads of ${a.nopeDim} + ${a.ropeDim} rotary, values ${a.vDim}, rank ${a.kvRank}${"a" in a.q ? `, queries rank ${a.q.a.out}` : ""}`;
    case "delta":
      return `linear (Gated DeltaNet): ${a.heads} heads with states of ${a.keyDim} × ${a.valueDim}, ${a.keyHeads} for keys, convolution of ${a.conv.taps}`;
    case "conv":
      return `short convolution of ${a.conv.taps}`;
  }
}

const scoreText: Readonly<Record<MoeSpec["rule"]["score"], string>> = {
  softmax: "softmax",
  sigmoid: "sigmoid",
  softmaxTopk: "softmax over the chosen",
  sparseMixer: "SparseMixer",
};

function routerText({ rule, topK, selectionBias: bias, weighted, inputNorms, expertScale }: MoeSpec): string {
  return [
    `${scoreText[rule.score]}, top-${topK}`,
    ...(rule.groups > 1
      ? [`from the best ${rule.topkGroups} of ${rule.groups} groups (${rule.groupScore === "max" ? "by maximum" : "by the sum of two"})`]
      : []),
    ...(bias ? ["selection bias"] : []),
    rule.renormalize ? "weights renormalised" : "weights not renormalised",
    ...(rule.scale === 1 ? [] : [`scaled by ${rule.scale}`]),
    ...(expertScale ? ["times a factor per expert"] : []),
    ...(inputNorms ? ["input normalised apart from the experts'"] : []),
    ...(weighted === "inputs" ? ["multiply the experts' inputs"] : []),
  ].join(", ");
}
