// What a comparison found, as files: compare.json has every figure that depends on model, data and options alone, so that two of them
// can be compared to the byte where the same kind of device computed (backend, precision and, on a CPU, instruction set);
// compare.times.json beside it has what was measured by the clock.

import { join } from "node:path";
import { z } from "zod";
import { pathArgument } from "../arguments.ts";
import { LayoutError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { checkSchema, formatJson, readJsonFile } from "../files/json.ts";

export const RESULT_FILE = "compare.json";
export const TIMES_FILE = "compare.times.json";

const whole = z.int().min(0);
const share = z.number().min(0).max(1);

/** Held-out figures of one file. */
const figures = z.strictObject({
  /** Mean over supervised tokens, nats. */
  loss: z.number(),
  /** Share of supervised tokens predicted right. */
  accuracy: share,
  supervised: whole,
  tokens: whole,
});

/** Scores of answers by the metric's name: "exact" is the share of rows, 0 to 1. */
const scores = z.record(z.string(), z.number());

const hashedFile = z.strictObject({ file: z.string(), sha256: z.string() });

/** Over the seeds, or over task × seed. */
const estimate = z.strictObject({
  mean: z.number(),
  /** Of the sample, n − 1 in the denominator; null of one value. */
  sd: z.number().nullable(),
  n: z.int().min(1),
});

/** What is told of methods: "validation.loss", "test.loss", "test.accuracy", "others.NAME.loss", "others.NAME.accuracy", "answers.METRIC". */
const measure = z.strictObject({ key: z.string(), label: z.string(), better: z.enum(["lower", "higher"]) });

/** One training run: a method at a learning rate with a seed on a task. */
const cell = z.strictObject({
  /** TASK/METHOD/lr-RATE/seed-N, its run directory below cells/. */
  id: z.string(),
  task: z.string(),
  method: z.string(),
  lr: z.number(),
  seed: whole,
  /** Its rate is the one that was chosen for method and task: only these have figures of test, others and answers. */
  chosen: z.boolean(),
  /** Why the run has no result: numbers that are not finite in training or validation; null for a run that has. */
  diverged: z.string().nullable(),
  /** Updates done, and tokens that they took. */
  steps: whole.nullable(),
  tokens: whole.nullable(),
  trainedParameters: whole.nullable(),
  /** Of the model's parameters, those that train. */
  trainedShare: share.nullable(),
  /** Masters, gradients and moments. */
  stateBytes: whole.nullable(),
  /** Of a step, as planned. */
  activationBytes: whole.nullable(),
  adapterBytes: whole.nullable(),
  /** Routed experts that train, or have terms beside them by name; null where the method names none. */
  experts: whole.nullable(),
  /** Share of routed slots that met a trained expert; null where all experts train, none, or nothing was measured. */
  coverage: share.nullable(),
  /** Counted as it trained, mean over the updates; or, of experts with terms beside them, as in the task's profile. */
  coverageFrom: z.enum(["training", "profile"]).nullable(),
  validation: figures.nullable(),
  /** Of a chosen rate; null, and without a domain's figures, where those are not finite. */
  test: figures.nullable(),
  others: z.record(z.string(), figures).nullable(),
  answers: scores.nullable(),
});

export const compareSchema = z.strictObject({
  format: z.literal("esft-compare"),
  version: z.literal(1),
  model: z.strictObject({ name: z.string(), type: z.string(), fingerprint: z.string(), parameters: whole }),
  /** Sums are rounded by the order and width that a device adds with; its instruction set, which decides too, is in compare.times.json. */
  device: z.strictObject({ backend: z.string(), precision: z.string() }),
  /** The whole plan as it was understood, without where it computes. */
  plan: z.record(z.string(), z.unknown()),
  seeds: z.array(whole).min(1),
  tasks: z
    .array(
      z.strictObject({ name: z.string(), train: hashedFile, validation: hashedFile, test: hashedFile, answers: hashedFile.nullable() }),
    )
    .min(1),
  /** Rows of other domains, which tell what is forgotten. */
  others: z.array(hashedFile.extend({ name: z.string() })),
  methods: z.array(z.strictObject({ name: z.string(), type: z.string(), lr: z.array(z.number()).min(1) })).min(1),
  measures: z.array(measure),
  /** The model as it is. */
  base: z.strictObject({
    tasks: z.record(z.string(), z.strictObject({ validation: figures, test: figures, answers: scores.nullable() })),
    others: z.record(z.string(), figures),
  }),
  /** In the order of the plan: tasks, methods, rates, seeds. */
  cells: z.array(cell),
  /** How `choices` were made, in words. */
  rule: z.string(),
  /** The learning rate of each method and task, by validation alone. */
  choices: z.array(
    z.strictObject({
      task: z.string(),
      method: z.string(),
      /** Null: every rate diverged. */
      lr: z.number().nullable(),
      /** Validation loss over the seeds by rate; null: a seed diverged. */
      candidates: z.array(z.strictObject({ lr: z.number(), validationLoss: estimate.nullable() })),
    }),
  ),
  /**
   * Each method (and "base") at its chosen rate: per task over the seeds, and with task null over task × seed, for methods that have
   * every task. Values by measure.
   */
  summary: z.array(
    z.strictObject({
      task: z.string().nullable(),
      method: z.string(),
      lr: z.number().nullable(),
      values: z.record(z.string(), estimate),
    }),
  ),
  /** a − b, paired over task × seed, with the 95 % confidence interval of Student's t (null of one pair). "base" is paired with each. */
  differences: z.array(
    z.strictObject({
      a: z.string(),
      b: z.string(),
      measure: z.string(),
      mean: z.number(),
      sd: z.number().nullable(),
      n: z.int().min(1),
      low: z.number().nullable(),
      high: z.number().nullable(),
    }),
  ),
});

export const timesSchema = z.strictObject({
  format: z.literal("esft-compare-times"),
  version: z.literal(1),
  /** What computed, of the call that wrote this file. */
  device: z.strictObject({ instructionSet: z.string(), threads: whole }),
  /** By the cell's id; of a cell that was reused, those of when it was computed. */
  cells: z.record(
    z.string(),
    z.strictObject({
      /** Of updates, mean; evaluation, checkpoints and loading apart. */
      secondsPerStep: z.number().min(0),
      /** Of all updates together. */
      stepSeconds: z.number().min(0),
      tokensPerSecond: z.number().min(0),
      /** The run as a whole, checkpoints included. */
      trainSeconds: z.number().min(0),
      /** Validation, test, others and answers. */
      evaluationSeconds: z.number().min(0),
    }),
  ),
  /** Of the profiles that experts were selected from, by task. */
  profileSeconds: z.record(z.string(), z.number().min(0)),
});

export type CompareResult = z.output<typeof compareSchema>;
export type CompareTimes = z.output<typeof timesSchema>;
export type CompareCell = CompareResult["cells"][number];
export type Figures = z.output<typeof figures>;
export type Estimate = z.output<typeof estimate>;
export type Measure = z.output<typeof measure>;
export type Difference = CompareResult["differences"][number];
export type CellTimes = CompareTimes["cells"][string];

export interface Comparison {
  readonly result: CompareResult;
  readonly times: CompareTimes;
}

/** Reads what `esft compare` left in its directory. @throws LayoutError it is none, or damaged · IoError */
export async function readComparison(dir: string): Promise<Comparison> {
  pathArgument(dir, "readComparison: dir");
  return { result: await read(join(dir, RESULT_FILE), compareSchema), times: await read(join(dir, TIMES_FILE), timesSchema) };
}

async function read<S extends z.ZodType>(file: string, schema: S): Promise<z.output<S>> {
  return checkSchema(schema, await readJsonFile(file, LayoutError), file);
}

export async function writeComparison(dir: string, { result, times }: Comparison): Promise<void> {
  await writeFileAtomic(join(dir, TIMES_FILE), formatJson(timesSchema.parse(times)));
  await writeFileAtomic(join(dir, RESULT_FILE), formatJson(compareSchema.parse(result)));
}
