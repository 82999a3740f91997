// A conversation as the ids that an answer goes on from: the template with its generation prompt, as training writes it.

import { encodeEsft } from "../data/esft_format.ts";
import { refuse } from "../data/flags.ts";
import { droppedParts } from "../data/dropped.ts";
import { readConversation } from "../data/rows.ts";
import { DataError } from "../errors.ts";
import type { JsonObject, JsonValue } from "../text/python_json.ts";
import type { Message } from "../text/template.ts";
import { chosenTemplate } from "../text/template_choice.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export interface ChatOptions {
  /** "tokenizer" (default): the published chat template; "esft": the official ESFT format; or Jinja source. */
  readonly template?: "tokenizer" | "esft" | { readonly source: string } | undefined;
  readonly tools?: readonly JsonValue[] | undefined;
  /** More variables for the template: enable_thinking, reasoning_effort … */
  readonly variables?: JsonObject | undefined;
  /** The clock of templates that write the date. */
  readonly now?: Date | undefined;
}

/** @throws DataError no message, one that the template refuses, or parts that it leaves out · ConfigError the tokenizer has no template */
export async function promptOf(given: readonly Message[], tokenizer: Tokenizer, options: ChatOptions = {}): Promise<number[]> {
  const { template = "tokenizer", tools, variables, now } = options;
  const messages = readConversation(given);
  if (template === "esft") {
    if (tools && tools.length > 0) throw new DataError("the ESFT format has no place for tools", { where: { key: "tools" } });
    return [...(await encodeEsft(messages, tokenizer)).inputIds];
  }
  const hasTools = (tools?.length ?? 0) > 0;
  const chosen = chosenTemplate(template, tokenizer, hasTools);
  const { bosToken, eosToken } = tokenizer;
  const render = {
    addGenerationPrompt: true,
    bosToken,
    eosToken,
    ...(hasTools ? { tools: tools! } : {}),
    ...(variables ? { variables } : {}),
    ...(now ? { now } : {}),
  };
  const adapted = chosen.adapt(messages, render);
  const text = chosen.render(adapted, render);
  const [lost] = droppedParts({ template: chosen, messages: adapted, trained: adapted.map(() => false), render, text });
  if (lost !== undefined)
    refuse("dropped", lost, `the chat template leaves ${lost} out of the prompt; take a template that renders it, or leave it out`);
  return tokenizer.encode(text);
}
