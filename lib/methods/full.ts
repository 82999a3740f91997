// Full fine-tuning: the same path as every method, with everything selected.

import type { ModelSpec } from "../model/spec.ts";
import { trainable } from "./method.ts";
import type { TrainableSpec } from "./method.ts";

/** Every parameter but the selection biases, which have no gradient. */
export function fullTrainable(spec: ModelSpec): TrainableSpec {
  return trainable(spec, { type: "full" }, ({ role }) => role !== "selectionBias");
}
