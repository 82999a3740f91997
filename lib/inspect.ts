// What a checkpoint is, from its headers alone: shape, experts, router, bytes by role, and what training would need.

import type { Checkpoint } from "./files/checkpoint.ts";
import { tensorBytes } from "./files/safetensors.ts";
import { sliceKey } from "./files/slice.ts";
import type { TrainableSpec } from "./methods/method.ts";
import { checkpointSpec } from "./model/families/index.ts";
import type { ModelSpec, ParameterRole } from "./model/spec.ts";
import { expertParameters, moeLayers, moeOf, parameterShapes } from "./model/spec.ts";
import type { RouteRule } from "./ops.ts";
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
    const found = checkpoint.tensors.get(ref.name)!; // as checkpointSpec checked
    used.add(ref.name);
    const n = shape.reduce((a, b) => a * b, 1);
    parameters += n;
    if (role === "expert") expertTotal += n;
    const size = roles.get(role) ?? { role, tensors: 0, parameters: 0, bytes: 0 };
    size.tensors++;
    size.parameters += n;
    size.bytes += tensorBytes(found.dtype, shape) ?? 0;
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
    routerText: moe ? routerText(moe.rule, moe.topK, moe.selectionBias !== undefined) : "none",
    expertLayout: moe ? (moe.experts[0]!.gate.index === undefined ? "per expert" : "fused") : "none",
    dtypes,
    shards: checkpoint.shards.length,
    tensors: checkpoint.tensors.size,
    /** Known exceptions that the text model does not use (rotary buffers, vision towers …). */
    unusedTensors: [...checkpoint.tensors.keys()].filter((name) => !used.has(name)).length,
    parameters,
    /** Those that one token meets, without the embedding table. */
    activeParameters: parameters - expertTotal + activeExperts - spec.vocab * spec.hidden + head,
    bytes: checkpoint.totalBytes,
    roles: [...roles.values()],
  };
}

/** Memory of training `trainable` with micro-batches of `tokensPerBatch` tokens, from headers alone. */
export function estimateTraining(checkpoint: Checkpoint, spec: ModelSpec, trainable: TrainableSpec, tokensPerBatch: number) {
  const trained = new Set(trainable.keys);
  const { stateBytes, activationBytes, hostBytes, bytes } = planMemory(spec, trainable, tokensPerBatch);
  return {
    method: trainable.type,
    trainedParameters: trainable.parameters,
    /** Of the model's parameters. */
    share: trainable.parameters / trainable.totalParameters,
    /** Frozen weights, read from the mapped file without a copy. */
    weightBytes: checkpoint.totalBytes,
    stateBytes,
    activationBytes,
    /** Rows under way and what is copied to save; a run adds its encoded examples. */
    hostBytes,
    /** What must be in memory at once. */
    totalBytes: checkpoint.totalBytes + bytes,
    /** Trained tensors as the base stores them. */
    adapterBytes: parameterShapes(spec)
      .filter(({ ref }) => trained.has(sliceKey(ref)))
      .reduce((n, { ref, shape }) => n + (tensorBytes(checkpoint.tensors.get(ref.name)!.dtype, shape) ?? 0), 0),
    /** The lowest layer that keeps activations. */
    lowestLayer: trainable.lowestLayer,
    tokensPerBatch,
  };
}

function attentionText(spec: ModelSpec): string {
  const a = spec.layers[0]?.attention;
  if (!a) return "none";
  if (a.kind === "heads")
    return `${a.heads} heads of ${a.headDim}${a.kvHeads === a.heads ? "" : `, ${a.kvHeads} for keys and values`}${a.qNorm ? ", q and k normalised" : ""}`;
  return `latent (MLA): ${a.heads} heads of ${a.nopeDim} + ${a.ropeDim} rotary, values ${a.vDim}, rank ${a.kvRank}${"a" in a.q ? `, queries rank ${a.q.a.out}` : ""}`;
}

function routerText(rule: RouteRule, topK: number, bias: boolean): string {
  return [
    `${rule.score === "softmaxTopk" ? "softmax over the chosen" : rule.score}, top-${topK}`,
    ...(rule.groups > 1
      ? [`from the best ${rule.topkGroups} of ${rule.groups} groups (${rule.groupScore === "max" ? "by maximum" : "by the sum of two"})`]
      : []),
    ...(bias ? ["selection bias"] : []),
    rule.renormalize ? "weights renormalised" : "weights not renormalised",
    ...(rule.scale === 1 ? [] : [`scaled by ${rule.scale}`]),
  ].join(", ");
}
