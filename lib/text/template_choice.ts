// Which chat template a conversation is written by: one that was given, or the tokenizer's own.

import { ConfigError } from "../errors.ts";
import { ChatTemplate, compileChatTemplate } from "./template.ts";
import type { Tokenizer } from "./tokenizer.ts";

/**
 * @param name a named template of the tokenizer ("tool_use", "rag" …)
 * @throws ConfigError the tokenizer has none, or none of this name
 */
export function chosenTemplate(
  wanted: "tokenizer" | ChatTemplate | { readonly source: string },
  tokenizer: Tokenizer,
  hasTools: boolean,
  name?: string,
): ChatTemplate {
  if (wanted instanceof ChatTemplate) return wanted;
  if (typeof wanted === "object") return compileChatTemplate(wanted.source);
  const source = tokenizer.chatTemplate(name, hasTools);
  if (source !== null) return compileChatTemplate(source);
  const known = Array.from(tokenizer.chatTemplates.keys()).join(", ");
  throw new ConfigError(
    `the tokenizer in ${tokenizer.dir} has no chat template${name === undefined ? "" : ` named ${name}`}${known === "" ? "" : ` (it has ${known})`}; give one as template: { source }, or use template: "esft"`,
    { where: { key: "template", file: tokenizer.dir } },
  );
}
