// Flags of how answers are made, of every command that makes some; their texts are those of the options in TypeScript.

import type { Command, OptionValues } from "@commander-js/extra-typings";
import { generateSchema } from "../generate/options.ts";
import { number, wholeNumber } from "./common.ts";

/** A type and no interface: flags of a command are looked up by any name. */
export type AnswerFlags = {
  readonly maxTokens?: number | undefined;
  readonly temperature?: number | undefined;
  readonly topK?: number | undefined;
  readonly topP?: number | undefined;
  readonly minP?: number | undefined;
  readonly repetitionPenalty?: number | undefined;
  readonly seed?: number | undefined;
  readonly stop?: string[] | undefined;
};
const NAMES = ["maxTokens", "temperature", "topK", "topP", "minP", "repetitionPenalty", "seed", "stop"] as const;

/**
 * The type of the flags is said, not inferred: a chain of eight options behind others takes a compiler minutes.
 * @param initial what a command has in place of the schema's own defaults
 */
export function answerFlags<Args extends unknown[], Opts extends OptionValues>(
  command: Command<Args, Opts>,
  initial: AnswerFlags = {},
): Command<Args, Opts & AnswerFlags> {
  const text = (name: (typeof NAMES)[number]): string => {
    const option = generateSchema.shape[name];
    const value = initial[name] ?? option.def.defaultValue;
    return `${option.description ?? ""}${Array.isArray(value) ? "" : ` (default: ${String(value)})`}`;
  };
  command.option("--max-tokens <n>", text("maxTokens"), wholeNumber);
  command.option("--temperature <x>", text("temperature"), number);
  command.option("--top-k <n>", text("topK"), wholeNumber);
  command.option("--top-p <p>", text("topP"), number);
  command.option("--min-p <p>", text("minP"), number);
  command.option("--repetition-penalty <x>", text("repetitionPenalty"), number);
  command.option("--seed <n>", text("seed"), wholeNumber);
  command.option("--stop <text...>", text("stop"));
  return command as unknown as Command<Args, Opts & AnswerFlags>;
}

/** What was given, without gaps. */
export function answerInput(flags: AnswerFlags): AnswerFlags {
  return Object.fromEntries(NAMES.flatMap((name) => (flags[name] === undefined ? [] : [[name, flags[name]]])));
}
