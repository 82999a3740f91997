// A conversation as the ids that an answer goes on from: the template with its generation prompt, as training writes it.

import { encodeEsft } from "../data/esft_format.ts";
import { ConfigError, DataError } from "../errors.ts";
import type { JsonObject, JsonValue } from "../text/python_json.ts";
import { ChatTemplate, compileChatTemplate } from "../text/template.ts";
import type { Message } from "../text/template.ts";
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

/** @throws DataError no message, or one that the template refuses · ConfigError the tokenizer has no template */
export async function promptOf(messages: readonly Message[], tokenizer: Tokenizer, options: ChatOptions = {}): Promise<number[]> {
  const { template = "tokenizer", tools, variables, now } = options;
  if (messages.length === 0)
    throw new DataError("a conversation must have at least one message, found none", { where: { key: "messages" } });
  if (template === "esft") {
    if (tools && tools.length > 0) throw new DataError("the ESFT format has no place for tools", { where: { key: "tools" } });
    return [...(await encodeEsft(messages, tokenizer)).inputIds];
  }
  const text = templateOf(template, tokenizer, (tools?.length ?? 0) > 0).render(messages, {
    addGenerationPrompt: true,
    bosToken: tokenizer.bosToken,
    eosToken: tokenizer.eosToken,
    ...(tools ? { tools } : {}),
    ...(variables ? { variables } : {}),
    ...(now ? { now } : {}),
  });
  return tokenizer.encode(text);
}

function templateOf(template: "tokenizer" | { readonly source: string }, tokenizer: Tokenizer, hasTools: boolean): ChatTemplate {
  if (template instanceof ChatTemplate) return template;
  if (typeof template === "object") return compileChatTemplate(template.source);
  const source = tokenizer.chatTemplate(undefined, hasTools);
  if (source !== null) return compileChatTemplate(source);
  throw new ConfigError(
    `the tokenizer in ${tokenizer.dir} has no chat template; give one as template: { source }, use template: "esft", or continue a text with generate`,
    { where: { key: "template", file: tokenizer.dir } },
  );
}
