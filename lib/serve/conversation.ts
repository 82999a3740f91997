// Messages and tools of a request as the model's chat template takes them. What the template would leave out without a word is refused,
// as it is in training.

import type { ChatRequest } from "./schema.ts";
import { invalid } from "./errors.ts";
import { droppedParts } from "../data/dropped.ts";
import type { ChatOptions } from "../generate/prompt.ts";
import { isJsonObject } from "../text/python_json.ts";
import type { JsonObject, JsonValue } from "../text/python_json.ts";
import { compileChatTemplate } from "../text/template.ts";
import type { Message } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export interface Conversation {
  readonly messages: readonly Message[];
  readonly options: ChatOptions;
}

/** @param exact the request's body, with numbers as they were written @throws ApiError · DataError what the template refuses */
export function conversationOf(
  request: ChatRequest,
  exact: JsonValue,
  tokenizer: Tokenizer,
  template: ChatOptions["template"] = "tokenizer",
): Conversation {
  const body: JsonObject = isJsonObject(exact) ? exact : {};
  const given = (key: string): JsonValue[] => (Array.isArray(body[key]) ? body[key] : []);
  const messages = given("messages").map((message, i) => plainContent(message, i));
  const tools = request.tool_choice === "none" ? [] : given("tools");
  const kwargs = body["chat_template_kwargs"];
  const variables = isJsonObject(kwargs) ? kwargs : undefined;
  const options = { template, now: new Date(), ...(tools.length > 0 ? { tools } : {}), ...(variables ? { variables } : {}) };
  if (template === "esft") return { messages, options };

  const source = typeof template === "object" ? template.source : tokenizer.chatTemplate(undefined, tools.length > 0);
  if (source === null)
    throw invalid("messages", "this model has no chat template; use /v1/completions, or start the server with --template");
  const compiled = compileChatTemplate(source);
  const { bosToken, eosToken } = tokenizer;
  const render = {
    addGenerationPrompt: true,
    bosToken,
    eosToken,
    now: options.now,
    tools: tools.length > 0 ? tools : null,
    ...(variables ? { variables } : {}),
  };
  const adapted = compiled.adapt(messages, render);
  const text = compiled.render(adapted, render);
  const [lost] = droppedParts({ template: compiled, messages: adapted, trained: adapted.map(() => false), render, text });
  if (lost !== undefined)
    throw invalid(lost, `${lost}: the model's chat template leaves it out of the prompt; leave it out of the request`);
  return { messages: adapted, options };
}

/** Parts of text become one text: few templates know parts. */
function plainContent(message: JsonValue, i: number): Message {
  if (!isJsonObject(message)) throw invalid(`messages[${i}]`, `messages[${i}]: a key that is a number is no key of a message`);
  const { content } = message;
  const text = Array.isArray(content) ? content.map((part) => (isJsonObject(part) ? String(part["text"]) : "")).join("") : content;
  return { ...message, ...(text === undefined ? {} : { content: text }) } as Message;
}
