// How the next token is chosen: the options as a user gives them, and the random number of every step. What they mean to the last bit:
// csrc/ops/sample.h.

import { z } from "zod";
import { ConfigError } from "../errors.ts";
import { parseOptions } from "../options.ts";

/** Bounds that a number of the kernels (f32) holds too, on the right side of 0. */
export const samplingSchema = z.strictObject({
  temperature: z
    .number()
    .min(0)
    .max(1e6)
    .default(0)
    .describe("logits are divided by it before a token is drawn; 0 = greedy: the most probable token, nothing is drawn"),
  topK: z
    .int()
    .min(0)
    .max(2 ** 31 - 1)
    .default(0)
    .describe("draw from so many of the most probable tokens; 0 = off"),
  topP: z.number().gt(0).max(1).default(1).describe("draw from the most probable tokens that together reach this probability; 1 = off"),
  minP: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .describe("draw from tokens at least so probable, as a share of the most probable one's; 0 = off"),
  repetitionPenalty: z
    .number()
    .min(1e-3)
    .max(1e3)
    .default(1)
    .describe("of tokens that the prompt or the answer has: positive logits are divided by it, negative ones multiplied; 1 = off"),
  seed: z.int().min(0).default(1).describe("same prompt, options and seed: same answer, whatever else is generated beside it"),
  logprobs: z
    .int()
    .min(0)
    .max(32)
    .default(0)
    .describe("log-probabilities of so many of the most probable tokens of every step; 0 = of the chosen one alone"),
});

export type SamplingOptions = z.output<typeof samplingSchema>;
export type SamplingInput = z.input<typeof samplingSchema>;

/** @throws ConfigError naming the key: a value out of range, an unknown key, or what would have no effect because nothing is drawn */
export function samplingOptions(value: unknown = {}, source = "sampling"): SamplingOptions {
  const options = parseOptions(samplingSchema, value, source);
  if (Math.fround(options.temperature) > 0) return options;
  for (const [key, off] of [
    ["topK", 0],
    ["topP", 1],
    ["minP", 0],
  ] as const)
    if (options[key] !== off)
      throw new ConfigError(
        `${source}.${key}: expected ${off} (off) with temperature ${options.temperature}, which takes the most probable token, found ` +
          `${options[key]}; give a temperature above 0, or leave ${key} out`,
        { where: { key } },
      );
  return options;
}

const mask = (x: bigint): bigint => BigInt.asUintN(64, x);
/** The finalizer of SplitMix64. */
function mix(x: bigint): bigint {
  x = mask((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n);
  x = mask((x ^ (x >> 27n)) * 0x94d049bb133111ebn);
  return x ^ (x >> 31n);
}
const GOLDEN = 0x9e3779b97f4a7c15n;

/**
 * The random number of step `step` (from 0) of a sequence: in [0, 1), 53 bits, a function of (seed, step) alone, so that a sequence does
 * not depend on what is generated beside it and goes on anywhere. SplitMix64 (Steele, Lea, Flood 2014) read at a place; its state begins
 * at the seed as its own finalizer mixes it, or neighbouring seeds would run through the same numbers a step apart. data/shuffle.ts
 * seeds from 32 bits: too few for every step to begin a stream of its own.
 */
export function uniformAt(seed: number, step: number): number {
  const state = mix(mask(BigInt(seed) + GOLDEN)) + BigInt(step + 1) * GOLDEN;
  return Number(mix(mask(state)) >> 11n) * 2 ** -53;
}
