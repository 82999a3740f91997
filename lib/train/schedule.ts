// Learning rate over steps: linear warm-up from 0, then constant, linear or cosine decay that would reach
// lr · minLrRatio with the update after the last one. Of a run that was lengthened, the rates from there on are those of a schedule that
// had the new number of steps from the beginning: where it had decayed already, the rate rises again.

import type { OptimizerOptions } from "../options.ts";

/** Learning rate of update `step` (0-based) of `steps`. */
export function learningRate({ lr, schedule, warmupSteps, minLrRatio }: OptimizerOptions, steps: number, step: number): number {
  if (step < warmupSteps) return (lr * (step + 1)) / warmupSteps;
  if (schedule === "constant") return lr;
  const span = Math.max(1, steps - warmupSteps);
  const t = Math.min(1, (step - warmupSteps) / span);
  const shape = schedule === "linear" ? 1 - t : 0.5 * (1 + Math.cos(Math.PI * t));
  return lr * (minLrRatio + (1 - minLrRatio) * shape);
}
