// Flags of how answers are made, of every command that makes some; their texts are those of the options in TypeScript.

import type { Command, OptionValues } from "@commander-js/extra-typings";
import { generateSchema } from "../generate/options.ts";
import { number, wholeNumber } from "./common.ts";

export interface AnswerFlags {
  readonly maxTokens?: number | undefined;
  readonly temperature?: number | undefined;
  readonly topK?: number | undefined;
  readonly topP?: number | undefined;
  readonly minP?: number | undefined;
  readonly repetitionPenalty?: number | undefined;
  readonly seed?: number | undefined;
  readonly stop?: string[] | undefined;
}
const NAMES = ["maxTokens", "temperature", "topK", "topP", "minP", "repetitionPenalty", "seed", "stop"] as const;

/** @param initial what a command has in place of the schema's own defaults */
export function answerFlags<Args extends unknown[], Opts extends OptionValues>(command: Command<Args, Opts>, initial: AnswerFlags = {}) {
  const text = (name: (typeof NAMES)[number]): string => {
    const option = generateSchema.shape[name];
    const value = initial[name] ?? option.def.defaultValue;
    return `${option.description ?? ""}${Array.isArray(value) ? "" : ` (default: ${String(value)})`}`;
  };
  return command
    .option("--max-tokens <n>", text("maxTokens"), wholeNumber)
    .option("--temperature <x>", text("temperature"), number)
    .option("--top-k <n>", text("topK"), wholeNumber)
    .option("--top-p <p>", text("topP"), number)
    .option("--min-p <p>", text("minP"), number)
    .option("--repetition-penalty <x>", text("repetitionPenalty"), number)
    .option("--seed <n>", text("seed"), wholeNumber)
    .option("--stop <text...>", text("stop"));
}

/** What was given, without gaps. */
export function answerInput(flags: AnswerFlags): AnswerFlags {
  return Object.fromEntries(NAMES.flatMap((name) => (flags[name] === undefined ? [] : [[name, flags[name]]])));
}
