// Messages and tools of a request as a prompt is made from them.

import type { ChatRequest } from "./schema.ts";
import { invalid } from "./errors.ts";
import type { ChatOptions } from "../generate/prompt.ts";
import { isJsonObject } from "../text/python_json.ts";
import type { JsonObject, JsonValue } from "../text/python_json.ts";
import type { Message } from "../text/template.ts";

export interface Conversation {
  readonly messages: readonly Message[];
  readonly options: ChatOptions;
}

/** @param exact the request's body, with numbers as they were written @throws ApiError */
export function conversationOf(request: ChatRequest, exact: JsonValue, template: ChatOptions["template"] = "tokenizer"): Conversation {
  const body: JsonObject = isJsonObject(exact) ? exact : {};
  const given = (key: string): JsonValue[] => (Array.isArray(body[key]) ? body[key] : []);
  const messages = given("messages").map((message, i) => plainContent(message, i));
  const tools = request.tool_choice === "none" ? [] : given("tools");
  const kwargs = body["chat_template_kwargs"];
  const variables = isJsonObject(kwargs) ? kwargs : undefined;
  const options = { template, now: new Date(), ...(tools.length > 0 ? { tools } : {}), ...(variables ? { variables } : {}) };
  return { messages, options };
}

/** Parts of text become one text: few templates know parts. */
function plainContent(message: JsonValue, i: number): Message {
  if (!isJsonObject(message)) throw invalid(`messages[${i}]`, `messages[${i}]: a key that is a number is no key of a message`);
  const { content } = message;
  const text = Array.isArray(content) ? content.map((part) => (isJsonObject(part) ? String(part["text"]) : "")).join("") : content;
  return { ...message, ...(text === undefined ? {} : { content: text }) } as Message;
}
