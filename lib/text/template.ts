// Chat templates: messages → text, as transformers' apply_chat_template(tokenize=False) gives it. The engine is @huggingface/jinja;
// template_pass.ts makes up for where it differs from Python.

import { Environment, Interpreter } from "@huggingface/jinja";
import { ConfigError, DataError } from "../errors.ts";
import { dumpJson, isJsonObject, parseJson, type JsonObject, type JsonValue } from "./python_json.ts";
import { strftime } from "./strftime.ts";
import { compile, defineFunctions, fromJson, step, TemplateFault, type Program } from "./template_pass.ts";

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

/** The template's own raise_exception: its message, unchanged. */
class Raised extends TemplateFault {}

const MAX_RANGE = 100_000; // as in transformers' sandbox

/** The library's interpreter, which counts its steps. */
function interpreter(environment: Environment): { run(program: unknown): { readonly value: string } } {
  const made = new Interpreter(environment) as unknown as {
    run(program: unknown): { value: string };
    evaluate(...args: unknown[]): unknown;
  };
  const evaluate = made.evaluate.bind(made);
  made.evaluate = (...args) => {
    step();
    return evaluate(...args);
  };
  return made;
}

export class ChatTemplate {
  readonly source: string;
  readonly #program: Program;

  /** @throws ConfigError syntax that cannot be used, naming `file` where it is known */
  constructor(source: string, file?: string) {
    this.source = source;
    try {
      this.#program = compile(source);
    } catch (cause) {
      const what = file === undefined ? "the chat template" : `${file}: the chat template`;
      throw new ConfigError(`${what} cannot be used: ${(cause as Error).message}`, {
        cause,
        where: { rule: "template", ...(file === undefined ? {} : { file }) },
      });
    }
  }

  /** Exactly these messages, no coercion. Throws DataError (rule "template"; kind "raise" for the template's own refusal). */
  render(messages: readonly Message[], options: RenderOptions = {}): string {
    return this.#render(messages, options).text;
  }

  #render(messages: readonly Message[], options: RenderOptions): { text: string; printedNone: boolean } {
    let printedNone = false;
    try {
      const environment = context(messages, options, () => (printedNone = true));
      return { text: interpreter(environment).run(this.#program).value, printedNone };
    } catch (error) {
      const raised = error instanceof Raised;
      const says = error instanceof RangeError ? rangeWords(error) : (error as Error).message;
      throw new DataError(`the chat template ${raised ? "refuses" : "cannot render"} this conversation: ${says}`, {
        cause: error,
        where: { rule: "template", key: "messages", kind: raised ? "raise" : "other", says },
      });
    }
  }

  /**
   * The messages in the form this template takes. They are returned as they are when it renders them; else null content becomes ""
   * (also where the template would print None), else tool-call arguments are given in the other form (object ↔ JSON text).
   */
  adapt(messages: readonly Message[], options: RenderOptions = {}): readonly Message[] {
    const filled = messages.map((m) => (m.content === null ? { ...m, content: "" } : m));
    let failure: unknown;
    let raised = false;
    for (const candidate of [messages, filled, swapArguments(filled)]) {
      if (candidate === null) continue;
      try {
        const { printedNone } = this.#render(candidate, options);
        if (candidate === messages && printedNone && messages.some((m) => m.content === null)) continue;
        return candidate;
      } catch (error) {
        if (!(error instanceof DataError) || (candidate === messages && error.where["kind"] === "raise")) throw error;
        // what the template itself refuses explains more than what it stumbled over
        if (failure === undefined || (error.where["kind"] === "raise" && !raised))
          [failure, raised] = [error, error.where["kind"] === "raise"];
      }
    }
    if (failure === undefined) return messages;
    throw failure;
  }
}

const rangeWords = ({ message }: RangeError): string =>
  message.includes("length") ? "it makes a text or list that is too long" : "macros, loops or values are nested too deeply";

function context(messages: readonly Message[], options: RenderOptions, onNone: () => void): Environment {
  const environment = new Environment();
  defineFunctions(environment, onNone);
  for (const [name, value] of [
    ["true", true],
    ["false", false],
    ["none", null],
  ] as const)
    // prettier-ignore
    for (const spelled of [name, name[0]!.toUpperCase() + name.slice(1)]) environment.set(spelled, value);
  environment.set("raise_exception", (message: unknown) => {
    throw new Raised(String(message));
  });
  environment.set("range", range);
  environment.set("strftime_now", (format: unknown) => strftime(options.now ?? new Date(), String(format)));
  const { bosToken = null, eosToken = null, variables = {} } = options;
  const names: Record<string, JsonValue> = {
    messages: messages as unknown as JsonValue,
    tools: (options.tools ?? null) as JsonValue,
    documents: null,
    add_generation_prompt: options.addGenerationPrompt === true,
    ...(bosToken === null ? {} : { bos_token: bosToken }),
    ...(eosToken === null ? {} : { eos_token: eosToken }),
    ...variables,
  };
  for (const [name, value] of Object.entries(names)) environment.setVariable(name, fromJson(value) as never);
  return environment;
}

/** Python's range. */
function range(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  const n = Math.max(0, Math.ceil((to - from) / step));
  if (!Number.isFinite(n) || n > MAX_RANGE) throw new TemplateFault(`range(${from}, ${to}, ${step}) has more than ${MAX_RANGE} values`);
  return Array.from({ length: n }, (_, i) => from + i * step);
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

/** Parses a template once per source text. @param file where it comes from, for errors */
export function compileChatTemplate(source: string, file?: string): ChatTemplate {
  let template = compiled.get(source);
  if (template === undefined) {
    template = new ChatTemplate(source, file);
    if (compiled.size >= 64) compiled.clear();
    compiled.set(source, template);
  }
  return template;
}
