// The options of a training run: one schema for TypeScript, YAML files and command-line flags.

import { z } from "zod";

/** Where a run's experts come from: a file (ours or expert_cfg.json), or a selection from a profile file. */
export const methodSchema = z.discriminatedUnion("type", [
  z.strictObject({
    type: z.literal("esft"),
    /** Expert set file: esft select's output or the official expert_cfg.json. */
    experts: z.string().optional(),
    /** Train the shared experts too (default: as the expert set says). */
    sharedExperts: z.boolean().optional(),
    /** Train embedding, attention, norms, router, dense layers and head too (default: as the expert set says). */
    nonExpertModules: z.boolean().optional(),
  }),
  z.strictObject({ type: z.literal("full") }),
]);

export const optimizerSchema = z.strictObject({
  lr: z.number().min(0).default(1e-5),
  beta1: z.number().min(0).lt(1).default(0.9),
  beta2: z.number().min(0).lt(1).default(0.95),
  eps: z.number().gt(0).default(1e-8),
  weightDecay: z.number().min(0).default(0.1),
  /** Global gradient norm to clip to; 0 = off. */
  clipNorm: z.number().min(0).default(1),
  schedule: z.enum(["constant", "linear", "cosine"]).default("constant"),
  warmupSteps: z.int().min(0).default(0),
  /** Learning rate at the end as a share of lr (linear and cosine). */
  minLrRatio: z.number().min(0).max(1).default(0),
});

export const dataSchema = z.strictObject({
  shape: z.enum(["messages", "sharegpt", "alpaca", "prompt_completion", "text"]).optional(),
  /** "tokenizer": the checkpoint's chat template; "esft": the official ESFT format; or a path to a Jinja file. */
  template: z.string().default("tokenizer"),
  packing: z.enum(["document", "esft", "none"]).default("document"),
  /** Tokens per row. */
  maxLength: z.int().min(2).default(1024),
  onOverflow: z.enum(["error", "drop", "truncateLeft", "truncateRight"]).default("truncateRight"),
  onBadRow: z.enum(["error", "skip"]).default("error"),
});

export const trainSchema = z.strictObject({
  /** Updates to do. */
  steps: z.int().min(1).default(500),
  /** Rows (of maxLength tokens) per update. */
  rowsPerStep: z.int().min(1).default(32),
  /** Rows per forward and backward; gradients accumulate to rowsPerStep. Default: as many as make 4096 tokens. */
  microBatch: z.int().min(1).optional(),
  seed: z.int().min(0).default(1),
  /** Held-out share of the data when no eval data is given; 0 = none. */
  evalFraction: z.number().min(0).lt(1).default(0.02),
  /** Held-out loss every so many steps (and at the end); 0 = only at start and end. */
  evalEvery: z.int().min(0).default(100),
  /** Most held-out rows to use; 0 = all. */
  evalRows: z.int().min(0).default(0),
  /** Checkpoint every so many steps (and at the end, and on interrupt). */
  saveEvery: z.int().min(1).default(100),
  /** What the run delivers: the adapter with the lowest held-out loss, or the last one. */
  keep: z.enum(["best", "last"]).default("best"),
  /** Storage of trained tensors in the adapter: as the base stores them, or f32. */
  adapterDtype: z.enum(["base", "f32"]).default("base"),
  optimizer: optimizerSchema.prefault({}),
  data: dataSchema.prefault({}),
});

export type MethodOptions = z.output<typeof methodSchema>;
export type TrainOptions = z.output<typeof trainSchema>;
export type TrainInput = z.input<typeof trainSchema>;
export type DataOptions = z.output<typeof dataSchema>;
export type DataInput = z.input<typeof dataSchema>;
