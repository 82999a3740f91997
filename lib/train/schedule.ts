// Learning rate over steps: linear warm-up from 0, then constant, linear or cosine decay that would reach
// lr · minRatio with the update after the last one.

export type ScheduleKind = "constant" | "linear" | "cosine";

export interface ScheduleOptions {
  readonly kind: ScheduleKind;
  readonly lr: number;
  /** Steps of linear warm-up. */
  readonly warmupSteps: number;
  readonly totalSteps: number;
  /** Final learning rate as a share of lr (linear, cosine). */
  readonly minRatio: number;
}

/** Learning rate of update `step` (0-based). */
export function learningRate(s: ScheduleOptions, step: number): number {
  if (step < s.warmupSteps) return (s.lr * (step + 1)) / s.warmupSteps;
  if (s.kind === "constant") return s.lr;
  const span = Math.max(1, s.totalSteps - s.warmupSteps);
  const t = Math.min(1, (step - s.warmupSteps) / span);
  const shape = s.kind === "linear" ? 1 - t : 0.5 * (1 + Math.cos(Math.PI * t));
  return s.lr * (s.minRatio + (1 - s.minRatio) * shape);
}
