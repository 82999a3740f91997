// What the straight-through gradient of routers costs: its backward runs every expert on every token once more. Told before the run.

import { sliceKey } from "../files/slice.ts";
import type { TrainableSpec } from "../methods/method.ts";
import { trainedRouters } from "../methods/router_mode.ts";
import { planActivations } from "../model/decoder.ts";
import type { ModelSpec } from "../model/spec.ts";
import { moeLayers, moeOf, parameterShapes } from "../model/spec.ts";
import type { DType } from "../tensor.ts";

export interface RouterCost {
  /** Multiply-adds that it adds to a step, as a share of those without it. Matrix products alone: attention's scores are not counted. */
  readonly flops: number;
  /** Of activations. */
  readonly bytes: number;
  /** Layers whose routers train. */
  readonly layers: readonly number[];
  /** Layers whose routers stay frozen, where the targets of LoRA name some only. */
  readonly frozen: readonly number[];
}

/** Null: the method takes no straight-through gradient. @param tokens of a micro-batch */
export function routerCost(spec: ModelSpec, trainable: TrainableSpec, tokens: number, activation: DType): RouterCost | null {
  const { attachments, lowestLayer } = trainable;
  if (!attachments?.straightThrough) return null;
  const bytes = (choice: Pick<TrainableSpec, "keys" | "attachments" | "lowestLayer">): number =>
    planActivations(spec, choice, activation).bytes(tokens);
  const without = bytes({ ...trainable, attachments: { ...attachments, straightThrough: false } });
  const trained = new Set(trainable.keys);
  let step = 0;
  const tied = sliceKey(spec.head) === sliceKey(spec.embedding);
  for (const { ref, shape, role, layer: stands } of parameterShapes(spec)) {
    // The embedding is looked up; a tied one is multiplied as the head.
    if (shape.length < 2 || (role === "embedding" && !tied)) continue;
    const layer = role === "embedding" ? spec.layers.length : stands;
    const moe = role === "expert" ? moeOf(spec, layer) : undefined;
    const used = shape.reduce((a, b) => a * b, 1) * (moe ? moe.topK / moe.experts.length : 1);
    step += used * (1 + (layer >= lowestLayer ? 1 : 0) + (trained.has(sliceKey(ref)) ? 1 : 0)); // y, dx, dW
  }
  for (const { shape } of attachments.parameters) step += 3 * shape.reduce((a, b) => a * b, 1);
  const layers = trainedRouters(spec, trainable);
  const dense = layers.reduce((sum, l) => {
    const { experts, expertHidden: F } = moeOf(spec, l)!;
    return sum + 3 * experts.length * spec.hidden * F;
  }, 0);
  const frozen = moeLayers(spec).filter((l) => !layers.includes(l));
  return { flops: dense / step, bytes: bytes(trainable) - without, layers, frozen };
}
