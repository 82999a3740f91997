// Learning rate over steps: linear warm-up from 0, then constant, linear or cosine decay that would reach
// lr · minLrRatio with the update after the last one. Of a run that was lengthened, the rates from there on are those of a schedule that
// had the new number of steps from the beginning: where it had decayed already, the rate rises again. Of a run in stages each has a
// schedule of its own.

import type { OptimizerOptions, StageOptions, TrainOptions } from "../options.ts";

/** The stage of update `done` + 1, and the updates before it. */
export function stageAt(stages: readonly StageOptions[], done: number): { readonly index: number; readonly first: number } {
  let first = 0;
  let index = 0;
  while (index + 1 < stages.length && done >= first + stages[index]!.steps) first += stages[index++]!.steps;
  return { index, first };
}

/** Learning rate of update `done` + 1: of the run's schedule, or of its stage's. */
export function rateOf({ optimizer, steps, stages }: Pick<TrainOptions, "optimizer" | "steps" | "stages">, done: number): number {
  if (!stages) return learningRate(optimizer, steps, done);
  const { index, first } = stageAt(stages, done);
  const stage = stages[index]!;
  const {
    lr = optimizer.lr,
    schedule = optimizer.schedule,
    warmupSteps = optimizer.warmupSteps,
    minLrRatio = optimizer.minLrRatio,
  } = stage;
  return learningRate({ ...optimizer, lr, schedule, warmupSteps, minLrRatio }, stage.steps, done - first);
}

/** Learning rate of update `step` (0-based) of `steps`. */
export function learningRate({ lr, schedule, warmupSteps, minLrRatio }: OptimizerOptions, steps: number, step: number): number {
  if (step < warmupSteps) return (lr * (step + 1)) / warmupSteps;
  if (schedule === "constant") return lr;
  const span = Math.max(1, steps - warmupSteps);
  const t = Math.min(1, (step - warmupSteps) / span);
  const shape = schedule === "linear" ? 1 - t : 0.5 * (1 + Math.cos(Math.PI * t));
  return lr * (minLrRatio + (1 - minLrRatio) * shape);
}
