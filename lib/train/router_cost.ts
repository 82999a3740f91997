// What the straight-through gradient of routers costs: its backward runs every expert on every token once more. Told before the run.

import { sliceKey } from "../files/slice.ts";
import type { TrainableSpec } from "../methods/method.ts";
import { planActivations } from "../model/decoder.ts";
import type { ModelSpec } from "../model/spec.ts";
import { moeLayers, moeOf, parameterShapes } from "../model/spec.ts";
import type { DType } from "../tensor.ts";

export interface RouterCost {
  /** Multiply-adds that it adds to a step, as a share of those without it. Matrix products alone: attention's scores are not counted. */
  readonly flops: number;
  /** Of activations. */
  readonly bytes: number;
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
  for (const { ref, shape, role, layer } of parameterShapes(spec)) {
    if (shape.length < 2 || role === "embedding") continue;
    const moe = role === "expert" ? moeOf(spec, layer) : undefined;
    const used = shape.reduce((a, b) => a * b, 1) * (moe ? moe.topK / moe.experts.length : 1);
    step += used * (1 + (layer >= lowestLayer ? 1 : 0) + (trained.has(sliceKey(ref)) ? 1 : 0)); // y, dx, dW
  }
  for (const { shape } of attachments.parameters) step += 3 * shape.reduce((a, b) => a * b, 1);
  const dense = moeLayers(spec).reduce((sum, l) => {
    const { experts, expertHidden: F } = moeOf(spec, l)!;
    return sum + 3 * experts.length * spec.hidden * F;
  }, 0);
  return { flops: dense / step, bytes: bytes(trainable) - without };
}
