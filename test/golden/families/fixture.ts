// A family fixture and what every part of its check gets: golden.json, the bounds, the models.

import type { Checks } from "../compare.ts";
import type { GoldenBatch, GoldenOptimizer, TestModel } from "../model.ts";
import type { Numbers } from "../numbers.ts";

export interface GoldenJson {
  readonly batches: readonly [GoldenBatch, ...GoldenBatch[]];
  readonly loss: number;
  readonly moe_layers: readonly number[];
  readonly packed: { documents: { input_ids: number[]; labels: number[] }[]; loss: number; supervised: number };
  readonly esft: {
    readonly experts: Readonly<Record<string, number[]>>;
    readonly optimizer: GoldenOptimizer;
    readonly steps: number;
    readonly losses: readonly number[];
    readonly grad_norms: readonly number[];
    readonly moved: readonly string[];
  };
  readonly generation: { prompt: number[]; tokens: number[] };
}

export interface Fixture {
  readonly checks: Checks;
  readonly limits: Tolerance;
  readonly model: TestModel;
  /** The same model computed exactly: `model` itself on an f32 device. */
  readonly twin: TestModel;
  readonly golden: GoldenJson;
  readonly numbers: Numbers;
}

/** Relative L2 unless said. */
export interface Tolerance {
  readonly logits: number;
  readonly hidden: number;
  /** Gate weights. */
  readonly weights: number;
  /** Of all tokens, those beside flips included. */
  readonly loss: number;
  readonly gradient: number;
  /**
   * Of norms (sums over tokens that nearly cancel), and of what a value at the edge passes gradient to or not: clipped projections, routers
   * by SparseMixer.
   */
  readonly looseGradient: number;
  readonly curveFirstFive: number;
  readonly curve: number;
  readonly normsFirstFive: number;
  readonly norms: number;
  /** Error of the trained weights over their movement. */
  readonly movement: number;
  /** ESFT logits: after training. */
  readonly trainedLogits: number;
  /** Largest difference between the gate weights of two experts that may change places; 0: none may. */
  readonly nearTie: number;
}

const tolerance: Readonly<Record<"f32" | "bf16", Tolerance>> = {
  // What golden/README.md says that an f32 implementation should meet; hidden states and gate weights as logits. It gives no bounds
  // for gradient norms and the logits after training: those follow from the losses and the trained weights.
  f32: {
    logits: 3e-6,
    hidden: 3e-6,
    weights: 3e-6,
    loss: 2e-6,
    gradient: 1e-5,
    looseGradient: 1e-5,
    curveFirstFive: 2e-5,
    curve: 5e-4,
    normsFirstFive: 1e-4,
    norms: 1e-2,
    movement: 3e-3,
    trainedLogits: 3e-3,
    nearTie: 0,
  },
  bf16: {
    logits: 2.5e-2,
    hidden: 2.5e-2,
    weights: 2.5e-2,
    loss: 3e-2,
    gradient: 8e-2,
    looseGradient: 0.3,
    curveFirstFive: 1e-2,
    curve: 5e-2,
    normsFirstFive: 0.12,
    norms: 0.35,
    movement: 0.5,
    trainedLogits: 0.2,
    nearTie: 2e-2,
  },
};

/** The bounds for a family on a device with these activations. */
export function toleranceOf(modelType: string, activations: "f32" | "bf16"): Tolerance {
  const limits = tolerance[activations];
  if (activations !== "f32") return limits;
  // Worse conditioned than the others: their own f64 says so (golden/README.md).
  if (modelType.startsWith("qwen3_5_moe")) return { ...limits, gradient: 4e-5, looseGradient: 4e-5 };
  // Of this one the curve too, after its fifth step: f64 is 1e-3 away in losses, 1e-2 in the trained weights, 4e-5 in gradients.
  if (modelType === "qwen3_next") {
    const [forward, gradient] = [6e-6, 8e-5];
    return {
      ...limits,
      logits: forward,
      hidden: forward,
      weights: forward,
      gradient,
      looseGradient: gradient,
      curve: 2e-3,
      norms: 0.1,
      movement: 2e-2,
      trainedLogits: 2e-2,
    };
  }
  return limits;
}
