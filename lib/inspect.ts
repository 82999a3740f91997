// What a checkpoint is, from its headers alone: shape, experts, router, bytes by role, and what training would need.

import { join } from "node:path";
import type { Checkpoint } from "./files/checkpoint.ts";
import { tensorBytes } from "./files/safetensors.ts";
import { sliceKey } from "./files/slice.ts";
import { modelSpec } from "./model/families/index.ts";
import type { ModelSpec, ParameterRole } from "./model/spec.ts";
import { expertParameters, moeLayers, moeOf, parameterShapes } from "./model/spec.ts";
import type { RouteRule } from "./ops.ts";
import type { TrainableSpec } from "./methods/method.ts";
import { planMemory } from "./train/memory_plan.ts";
import type { MemoryPlan } from "./train/memory_plan.ts";
import { LayoutError } from "./errors.ts";

export interface RoleSize {
  readonly role: ParameterRole;
  readonly tensors: number;
  readonly parameters: number;
  readonly bytes: number;
}

export interface Inspection {
  readonly dir: string;
  readonly modelType: string;
  readonly vocab: number;
  readonly hidden: number;
  readonly maxPositions: number;
  readonly layers: number;
  readonly attention: string;
  /** 0-based decoder layers with routed experts; of the first of them: experts, top-k … */
  readonly moeLayers: readonly number[];
  readonly experts: number;
  readonly topK: number;
  readonly expertHidden: number;
  readonly sharedHidden: number;
  /** Parameters of one routed expert; of the largest, where layers differ. */
  readonly expertParameters: number;
  readonly router: RouteRule | null;
  readonly routerText: string;
  readonly expertLayout: "per expert" | "fused" | "none";
  readonly dtypes: Readonly<Record<string, number>>;
  readonly shards: number;
  readonly tensors: number;
  /** Tensors that the architecture does not use (rotary buffers …). */
  readonly unusedTensors: number;
  readonly parameters: number;
  /** Parameters that one token meets, without the embedding table. */
  readonly activeParameters: number;
  readonly bytes: number;
  readonly roles: readonly RoleSize[];
}

/** @throws ConfigError unknown architecture · LayoutError a tensor that the architecture needs is missing or has another shape */
export function inspectCheckpoint(checkpoint: Checkpoint): Inspection {
  const spec = modelSpec(checkpoint.config, join(checkpoint.dir, "config.json"));
  const sparse = moeLayers(spec);
  const moe = sparse.length > 0 ? moeOf(spec, sparse[0]!)! : null;
  const roles = new Map<ParameterRole, { tensors: number; parameters: number; bytes: number }>();
  const used = new Set<string>();
  let parameters = 0;
  let expertTotal = 0;
  for (const { ref, shape, role } of parameterShapes(spec)) {
    const found = checkpoint.tensors.get(ref.name);
    if (!found)
      throw new LayoutError(`${checkpoint.dir}: expected tensor "${ref.name}" [${shape.join(", ")}], found no such tensor`, {
        where: { file: checkpoint.dir, tensor: ref.name },
      });
    if (ref.index === undefined && ref.rows === undefined && found.shape.join() !== shape.join())
      throw new LayoutError(`${found.path}: tensor "${ref.name}": expected [${shape.join(", ")}], found [${found.shape.join(", ")}]`, {
        where: { file: found.path, tensor: ref.name },
      });
    used.add(ref.name);
    const n = product(shape);
    parameters += n;
    if (role === "expert") expertTotal += n;
    const size = roles.get(role) ?? { tensors: 0, parameters: 0, bytes: 0 };
    roles.set(role, {
      tensors: size.tensors + 1,
      parameters: size.parameters + n,
      bytes: size.bytes + (tensorBytes(found.dtype, shape) ?? 0),
    });
  }
  const dtypes: Record<string, number> = {};
  for (const t of checkpoint.tensors.values()) dtypes[t.dtype] = (dtypes[t.dtype] ?? 0) + 1;
  const experts = moe?.experts.length ?? 0;
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
    moeLayers: sparse,
    experts,
    topK: moe?.topK ?? 0,
    expertHidden: moe?.expertHidden ?? 0,
    sharedHidden: moe?.shared?.hidden ?? 0,
    expertParameters: Math.max(0, ...perExpert.values()),
    router: moe?.rule ?? null,
    routerText: moe ? routerText(moe.rule, moe.topK, moe.selectionBias !== undefined) : "none",
    expertLayout: moe ? (moe.experts[0]!.gate.index === undefined ? "per expert" : "fused") : "none",
    dtypes,
    shards: checkpoint.shards.length,
    tensors: checkpoint.tensors.size,
    unusedTensors: [...checkpoint.tensors.keys()].filter((name) => !used.has(name)).length,
    parameters,
    activeParameters: parameters - expertTotal + activeExperts - spec.vocab * spec.hidden + head,
    bytes: checkpoint.totalBytes,
    roles: [...roles].map(([role, size]) => ({ role, ...size })),
  };
}

export interface TrainingEstimate extends Omit<MemoryPlan, "bytes"> {
  readonly method: string;
  readonly trainedParameters: number;
  /** Share of the model's parameters. */
  readonly share: number;
  /** Frozen weights, read from the mapped file without a copy. */
  readonly weightBytes: number;
  /** What must be in memory at once. */
  readonly totalBytes: number;
  /** Trained tensors as the base stores them. */
  readonly adapterBytes: number;
  /** Lowest layer that keeps activations. */
  readonly lowestLayer: number;
  readonly tokensPerBatch: number;
}

/** Memory of training `trainable` with micro-batches of `tokensPerBatch` tokens, from headers alone. */
export function estimateTraining(
  checkpoint: Checkpoint,
  spec: ModelSpec,
  trainable: TrainableSpec,
  tokensPerBatch: number,
): TrainingEstimate {
  const trained = new Set(trainable.keys);
  let adapterBytes = 0;
  for (const { ref, shape } of parameterShapes(spec)) {
    if (!trained.has(sliceKey(ref))) continue;
    adapterBytes += tensorBytes(checkpoint.tensors.get(ref.name)!.dtype, shape) ?? 0;
  }
  const { stateBytes, activationBytes, bytes } = planMemory(spec, trainable, tokensPerBatch);
  return {
    method: trainable.type,
    trainedParameters: trainable.parameters,
    share: trainable.parameters / trainable.totalParameters,
    weightBytes: checkpoint.totalBytes,
    stateBytes,
    activationBytes,
    totalBytes: checkpoint.totalBytes + bytes,
    adapterBytes,
    lowestLayer: trainable.lowestLayer,
    tokensPerBatch,
  };
}

const product = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

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
