// Chat templates: messages → text, equal to transformers' apply_chat_template(tokenize=False).

import { DataError } from "../errors.ts";
import { dumpJson, isJsonObject, parseJson, type JsonObject, type JsonValue } from "./python_json.ts";
import { parseTemplate, type Stmt } from "./template_ast.ts";
import { Evaluator } from "./template_evaluator.ts";
import { strftime } from "./template_format.ts";
import { bind, Callable, fromJson, needText, print, TemplateFault, type Value } from "./template_values.ts";

export interface Message {
  readonly role: string;
  readonly content?: JsonValue;
  readonly [key: string]: JsonValue | undefined;
}

export interface RenderOptions {
  readonly tools?: readonly JsonValue[] | null | undefined;
  readonly addGenerationPrompt?: boolean;
  readonly bosToken?: string | null;
  readonly eosToken?: string | null;
  /** The clock of strftime_now; the present moment when absent. */
  readonly now?: Date;
  /** More names for the template: enable_thinking, reasoning_effort, documents … */
  readonly variables?: JsonObject;
}

/** The template's own raise_exception: `says` is its message, unchanged. */
class Raised extends TemplateFault {}

export class ChatTemplate {
  readonly source: string;
  readonly #program: readonly Stmt[];

  constructor(source: string) {
    this.source = source;
    this.#program = parseTemplate(source);
  }

  /** Exactly these messages, no coercion. Throws DataError (rule "template"; kind "raise" for the template's own refusal). */
  render(messages: readonly Message[], options: RenderOptions = {}): string {
    return this.#render(messages, options).text;
  }

  #render(messages: readonly Message[], options: RenderOptions): { text: string; printedNone: boolean } {
    const evaluator = new Evaluator();
    try {
      const text = evaluator.run(this.#program, context(messages, options));
      return { text, printedNone: evaluator.printedNone };
    } catch (error) {
      if (!(error instanceof TemplateFault) && !(error instanceof RangeError)) throw error;
      const raised = error instanceof Raised;
      throw new DataError(`the chat template ${raised ? "refuses" : "cannot render"} this conversation: ${error.message}`, {
        cause: error,
        where: { rule: "template", key: "messages", kind: raised ? "raise" : "other", says: error.message },
      });
    }
  }

  /**
   * The messages in the form this template takes. They are returned as they are when it renders them; else null content becomes
   * "" (also where the template would print Python's None), else tool-call arguments are given in the other form (object ↔ JSON text).
   */
  adapt(messages: readonly Message[], options: RenderOptions = {}): readonly Message[] {
    let failure: unknown;
    try {
      const { printedNone } = this.#render(messages, options);
      if (!printedNone || !messages.some((m) => m.content === null)) return messages;
    } catch (error) {
      if (!(error instanceof DataError) || error.where["kind"] === "raise") throw error;
      failure = error;
    }
    const filled = messages.map((m) => (m.content === null ? { ...m, content: "" } : m));
    for (const candidate of [filled, swapArguments(filled)]) {
      if (candidate === null) continue;
      try {
        this.#render(candidate, options);
        return candidate;
      } catch (error) {
        if (!(error instanceof DataError)) throw error;
        failure ??= error;
      }
    }
    if (failure instanceof Error) throw failure;
    return messages;
  }
}

function context(messages: readonly Message[], options: RenderOptions): Map<string, Value> {
  const now = options.now ?? new Date();
  const names = new Map<string, Value>([
    ["messages", fromJson(messages as unknown as JsonValue)],
    ["tools", fromJson((options.tools ?? null) as JsonValue)],
    ["documents", null],
    ["add_generation_prompt", options.addGenerationPrompt === true],
    [
      "raise_exception",
      new Callable("raise_exception", (args) => {
        throw new Raised(print(args.positional[0] ?? null));
      }),
    ],
    [
      "strftime_now",
      new Callable("strftime_now", (args) => strftime(now, needText(bind(args, "strftime_now", ["format"], 1)[0], "format"))),
    ],
  ]);
  if (options.bosToken != null) names.set("bos_token", options.bosToken);
  if (options.eosToken != null) names.set("eos_token", options.eosToken);
  for (const [name, value] of Object.entries(options.variables ?? {})) names.set(name, fromJson(value));
  return names;
}

/** Tool-call arguments in the other form; null when there are none or a text is not JSON. */
function swapArguments(messages: readonly Message[]): Message[] | null {
  let swapped = false;
  const other = (call: JsonValue): JsonValue => {
    const given = isJsonObject(call) ? call["function"] : undefined;
    if (!isJsonObject(call) || !isJsonObject(given) || given["arguments"] === undefined) return call;
    swapped = true;
    const args = given["arguments"];
    return { ...call, function: { ...given, arguments: typeof args === "string" ? parseJson(args) : dumpJson(args) } };
  };
  try {
    const out = messages.map((m) => (Array.isArray(m["tool_calls"]) ? { ...m, tool_calls: m["tool_calls"].map(other) } : m));
    return swapped ? out : null;
  } catch {
    return null; // arguments given as text that is not JSON have no other form
  }
}

const compiled = new Map<string, ChatTemplate>();

/** Parses a template once per source text. */
export function compileChatTemplate(source: string): ChatTemplate {
  let template = compiled.get(source);
  if (template === undefined) {
    template = new ChatTemplate(source);
    if (compiled.size >= 64) compiled.clear();
    compiled.set(source, template);
  }
  return template;
}

/** Renders a conversation, adapting it to what the template takes (see ChatTemplate.adapt). */
export function renderChat(template: ChatTemplate | string, messages: readonly Message[], options: RenderOptions = {}): string {
  const chat = typeof template === "string" ? compileChatTemplate(template) : template;
  return chat.render(chat.adapt(messages, options), options);
}
