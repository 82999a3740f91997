// Full fine-tuning: the same path as every method, with everything selected.

import type { ModelSpec } from "../model/spec.ts";
import { hasGradient } from "../model/spec.ts";
import { trainable } from "./method.ts";
import type { TrainableSpec } from "./method.ts";

/** Every parameter that has a gradient: not selection biases, not constants. */
export function fullTrainable(spec: ModelSpec): TrainableSpec {
  return trainable(spec, { type: "full" }, ({ role }) => hasGradient(role));
}
