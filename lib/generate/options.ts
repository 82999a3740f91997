// What a user says of an answer: how tokens are chosen, how many, where it ends.

import { z } from "zod";
import { parseOptions } from "../options.ts";
import { samplingOptions, samplingSchema, uniformAt } from "./sampling.ts";
import type { Sampling } from "./sequence.ts";
import { StopStrings } from "./stops.ts";

export const generateSchema = samplingSchema.extend({
  maxTokens: z.int().min(0).default(512).describe("most tokens of an answer"),
  stop: z.array(z.string()).or(z.string()).default([]).describe("texts that end the answer and are no part of it"),
  stopIds: z.array(z.int().min(0)).optional().describe("token ids that end it (default: the model's end-of-sequence ids)"),
});

export type GenerateInput = z.input<typeof generateSchema>;

/** The options of one answer, checked. */
export interface AnswerOptions {
  readonly maxTokens: number;
  readonly stops: StopStrings;
  /** Null: those of the model. */
  readonly stopIds: readonly number[] | null;
  readonly sampling: Sampling;
}

/** @throws ConfigError naming the key */
export function answerOptions(value: unknown, source: string): AnswerOptions {
  const { maxTokens, stop, stopIds, ...rest } = parseOptions(generateSchema, value ?? {}, source);
  const { seed, ...sampling } = samplingOptions(rest, source);
  return {
    maxTokens,
    stops: new StopStrings(typeof stop === "string" ? [stop] : stop, "stop"),
    stopIds: stopIds ?? null,
    sampling: { ...sampling, uniform: (i) => uniformAt(seed, i) },
  };
}
