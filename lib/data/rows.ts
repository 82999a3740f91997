// One row of data → messages. Four shapes of fine-tuning data and plain text; every complaint has a code and the path in the row.

import { FLAGS, isTrained, refuse } from "./flags.ts";
import { hasLoneSurrogate } from "../text/python_text.ts";
import { ExactNumber, MAX_DEPTH, MAX_VALUES, parseJson, type JsonObject, type JsonValue } from "../text/python_json.ts";
import type { Shape } from "../options.ts";
import type { Message } from "../text/template.ts";

export type { Shape };

/** A row in one form: `train: false` marks assistant messages without loss; other flags are gone. */
export interface Conversation {
  readonly messages: readonly Message[];
  readonly tools?: readonly JsonValue[];
}
export type Row =
  | { readonly shape: Exclude<Shape, "text">; readonly row: Conversation }
  | { readonly shape: "text"; readonly text: string };

const ROLES = ["system", "developer", "user", "assistant", "tool"];
const SPEAKERS: ReadonlyMap<string, string> = new Map([
  ["human", "user"],
  ["user", "user"],
  ["gpt", "assistant"],
  ["assistant", "assistant"],
  ["system", "system"],
  ["tool", "tool"],
  ["observation", "tool"],
]);
// in order of precedence: the first key a row has decides its shape
const KEYS: readonly (readonly [string, Exclude<Shape, "text">])[] = [
  ["messages", "messages"],
  ["conversations", "sharegpt"],
  ["instruction", "alpaca"],
  ["prompt", "prompt_completion"],
  ["completion", "prompt_completion"],
];

type Kind = "null" | "boolean" | "number" | "string" | "array" | "object";

function kind(value: JsonValue | undefined): Kind {
  if (value === null || value === undefined) return "null";
  if (Array.isArray(value)) return "array";
  if (value instanceof ExactNumber) return "number";
  return typeof value as Kind;
}

function need(row: JsonObject, key: string, want: "string", where?: string): string;
function need(row: JsonObject, key: string, want: "array", where?: string): JsonValue[];
function need(row: JsonObject, key: string, want: "object", where?: string): JsonObject;
function need(row: JsonObject, key: string, want: Kind, where?: string): JsonValue {
  const path = where === undefined ? key : `${where}.${key}`;
  if (!Object.hasOwn(row, key)) return refuse("missing", path, `${path} is missing`);
  const value = row[key] as JsonValue;
  if (kind(value) !== want) refuse("type", path, `${path} must be ${want === "string" ? "a" : "an"} ${want}, not ${kind(value)}`);
  return want === "object" ? asObject(value) : value;
}

/** As need, but absent or null is undefined. */
function maybe(row: JsonObject, key: string, want: "string"): string | undefined;
function maybe(row: JsonObject, key: string, want: "array"): JsonValue[] | undefined;
function maybe(row: JsonObject, key: string, want: "string" | "array"): JsonValue | undefined {
  if (!Object.hasOwn(row, key) || row[key] === null) return undefined;
  return want === "string" ? need(row, key, "string") : need(row, key, "array");
}

const asObject = (value: JsonValue): JsonObject => (value instanceof Map ? Object.fromEntries(value) : (value as JsonObject));

/**
 * What a program gives may be anything: refuses what no line of JSON could hold (a Date would render as an empty object), values
 * within themselves, and lone surrogates wherever they come from.
 */
function asJson(row: unknown): JsonValue {
  let values = 0;
  const check = (value: unknown, path: string, depth: number): void => {
    if (++values > MAX_VALUES) refuse("depth", "", `more than ${MAX_VALUES} values; no row needs that`);
    if (typeof value === "string") {
      if (hasLoneSurrogate(value)) refuse("surrogate", path, `${path} holds a lone surrogate`);
      return;
    }
    if (value === null || value === undefined || typeof value === "boolean" || value instanceof ExactNumber || Number.isFinite(value))
      return;
    if (depth > MAX_DEPTH) refuse("depth", "", `nested deeper than ${MAX_DEPTH} levels, or a value within itself; no row needs that`);
    if (Array.isArray(value)) return value.forEach((v, i) => check(v, `${path}[${i}]`, depth + 1));
    const proto: unknown = typeof value === "object" ? Object.getPrototypeOf(value) : undefined;
    // plain objects of other realms have another Object.prototype
    const isPlain = proto === null || (proto !== undefined && Object.getPrototypeOf(proto) === null);
    if (!isPlain && !(value instanceof Map)) {
      const found = proto === undefined ? `${typeof value} ${String(value as bigint)}` : "an object of a class";
      refuse("type", path, `expected what JSON can hold, found ${found}`);
    }
    for (const [key, v] of value instanceof Map ? (value as Map<string, unknown>) : Object.entries(value as object)) {
      const at = path === "" ? key : `${path}.${key}`;
      if (hasLoneSurrogate(key)) refuse("surrogate", path, "a key holds a lone surrogate");
      check(v, at, depth + 1);
    }
  };
  check(row, "", 1);
  return row as JsonValue;
}

/** Normalises one row, parsed or given. `shape` overrides what the keys say. Throws DataError with where.rule and where.key. */
export function normaliseRow(given: unknown, shape?: Shape): Row {
  const value = asJson(given);
  if (kind(value) !== "object") refuse("type", "", `a row must be an object, not ${kind(value)}`);
  const row = asObject(value);
  const keys = Object.keys(row);
  // Plain text only when the caller asks for it: among conversations a row {"text": …} is a mistake (datasets.json says so).
  if (shape === "text") return { shape: "text", text: need(row, "text", "string") };
  const found = shape === undefined ? KEYS.find(([key]) => Object.hasOwn(row, key)) : KEYS.find(([, s]) => s === shape);
  if (found === undefined)
    return refuse("unknown-shape", "", `no messages, conversations, instruction or prompt/completion in keys ${keys.join(", ")}`);
  const [key, name] = found;
  let messages = { messages: fromMessages, sharegpt: fromSharegpt, alpaca: fromAlpaca, prompt_completion: fromPromptCompletion }[name](row);
  const system = name === "messages" ? undefined : maybe(row, "system", "string");
  if (system !== undefined && system !== "") messages = [{ role: "system", content: system }, ...messages];
  const tools = readTools(row["tools"]);
  if (!messages.some((m) => m.role === "assistant" && m["train"] !== false))
    refuse("nothing-to-learn", key, "no assistant message is trained on");
  return { shape: name, row: tools === undefined ? { messages } : { messages, tools } };
}

function readTools(given: JsonValue | undefined): JsonValue[] | undefined {
  if (given === undefined || given === null) return undefined;
  let tools: JsonValue = given;
  if (typeof given === "string") {
    try {
      tools = parseJson(given);
    } catch (cause) {
      refuse("tool-json", "tools", `tools is text but not JSON (${(cause as Error).message})`, cause);
    }
  }
  if (!Array.isArray(tools) || tools.some((t) => kind(t) !== "object")) return refuse("type", "tools", "tools must be an array of objects");
  return tools.length === 0 ? undefined : tools;
}

// Each answer is found by rendering all that is before it: the time of a row grows with the square of its messages.
const MAX_MESSAGES = 2000;

function checkLength(list: readonly unknown[], key: string): void {
  if (list.length === 0) refuse("empty", key, `${key} is empty`);
  if (list.length > MAX_MESSAGES)
    refuse("length", key, `${key} has ${list.length} entries, expected at most ${MAX_MESSAGES}; split it into several rows`);
}

/** A conversation as it is given, without a row around it. @throws DataError with where.rule and where.key */
export function readConversation(given: unknown): Message[] {
  return messagesOf({ messages: asJson(given) }, "messages");
}

function messagesOf(row: JsonObject, key: string): Message[] {
  const list = need(row, key, "array");
  checkLength(list, key);
  return list.map((m, i) => readMessage(m, `${key}[${i}]`));
}

function readMessage(given: JsonValue, where: string): Message {
  if (kind(given) !== "object") refuse("type", where, `${where} must be an object`);
  const m = asObject(given);
  const role = need(m, "role", "string", where);
  if (!ROLES.includes(role)) refuse("role", `${where}.role`, `unknown role ${JSON.stringify(role)}; known: ${ROLES.join(", ")}`);
  if (m["tool_calls"] !== undefined && m["tool_calls"] !== null) {
    const calls = need(m, "tool_calls", "array", where);
    if (role !== "assistant") refuse("type", `${where}.tool_calls`, "only assistant messages call tools");
    calls.forEach((call, i) => {
      const at = `${where}.tool_calls[${i}]`;
      if (kind(call) !== "object") refuse("type", at, `${at} must be an object`);
      need(need(asObject(call), "function", "object", at), "name", "string", `${at}.function`);
    });
  }
  const rest = Object.entries(m).filter(([key]) => key !== "content" && !FLAGS.some((f) => f === key));
  const message: Message = { role, content: readContent(m, where), ...Object.fromEntries(rest) };
  const trained = isTrained(m as unknown as Message, where);
  return role === "assistant" && !trained ? { ...message, train: false } : message;
}

function readContent(m: JsonObject, where: string): string | null {
  const content = m["content"];
  if (Array.isArray(content)) {
    return content
      .map((part, i) => {
        const at = `${where}.content[${i}]`;
        if (kind(part) !== "object") refuse("type", at, `${at} must be an object`);
        const p = asObject(part);
        if (p["type"] !== "text") refuse("type", `${at}.type`, "only text parts are supported");
        return need(p, "text", "string", at);
      })
      .join("");
  }
  const calls = m["tool_calls"];
  if ((content === undefined || content === null) && Array.isArray(calls) && calls.length > 0) return null;
  return need(m, "content", "string", where);
}

function fromMessages(row: JsonObject): Message[] {
  return messagesOf(row, "messages");
}

function fromSharegpt(row: JsonObject): Message[] {
  const list = need(row, "conversations", "array");
  checkLength(list, "conversations");
  return list.map((given, i) => {
    const at = `conversations[${i}]`;
    if (kind(given) !== "object") refuse("type", at, `${at} must be an object`);
    const m = asObject(given);
    if (Object.hasOwn(m, "role") && !Object.hasOwn(m, "from")) return readMessage(m, at);
    const { from: _from, value: _value, ...rest } = m;
    const who = need(m, "from", "string", at);
    const value = need(m, "value", "string", at);
    if (who === "function_call")
      return readMessage({ ...rest, role: "assistant", content: null, tool_calls: readCalls(value, `${at}.value`) }, at);
    const role = SPEAKERS.get(who);
    if (role === undefined)
      return refuse(
        "role",
        `${at}.from`,
        `unknown speaker ${JSON.stringify(who)}; known: ${[...SPEAKERS.keys(), "function_call"].join(", ")}`,
      );
    return readMessage({ ...rest, role, content: value }, at);
  });
}

function readCalls(text: string, where: string): JsonValue[] {
  const wrong = (cause?: unknown): never =>
    refuse(
      "tool-json",
      where,
      `function_call must hold JSON with name and arguments${cause instanceof Error ? ` (${cause.message})` : ""}`,
      cause,
    );
  let calls: JsonValue;
  try {
    calls = parseJson(text);
  } catch (cause) {
    return wrong(cause);
  }
  return (Array.isArray(calls) ? calls : [calls]).map((given) => {
    const call = kind(given) === "object" ? asObject(given) : {};
    if (!Object.hasOwn(call, "name") || !Object.hasOwn(call, "arguments")) wrong();
    return { type: "function", function: { name: call["name"] as JsonValue, arguments: call["arguments"] as JsonValue } };
  });
}

function fromAlpaca(row: JsonObject): Message[] {
  const instruction = need(row, "instruction", "string");
  const output = need(row, "output", "string");
  const input = maybe(row, "input", "string") ?? "";
  const history = maybe(row, "history", "array") ?? [];
  if (history.length > 0) checkLength(history, "history");
  const turns: Message[] = history.flatMap((turn, i) => {
    if (!Array.isArray(turn) || turn.length !== 2 || turn.some((t) => typeof t !== "string")) {
      return refuse("type", `history[${i}]`, "a history turn is a pair of strings");
    }
    return [
      { role: "user", content: turn[0] as string },
      { role: "assistant", content: turn[1] as string },
    ];
  });
  return [
    ...turns,
    { role: "user", content: input === "" ? instruction : `${instruction}\n${input}` },
    { role: "assistant", content: output },
  ];
}

/** Of a row with answers in place of a completion. */
const OFFICIAL =
  "; a row of prompt and answers, as the official evaluation files have them, is a question whose answers are scored (esft eval --metric, evaluateAnswers): it cannot be trained on, nor has it a loss";

function fromPromptCompletion(row: JsonObject): Message[] {
  const official = Object.hasOwn(row, "answers") ? OFFICIAL : "";
  for (const key of ["prompt", "completion"]) if (!Object.hasOwn(row, key)) refuse("missing", key, `${key} is missing${official}`);
  const { prompt, completion } = row;
  if (typeof prompt === "string" && typeof completion === "string") {
    return [
      { role: "user", content: prompt },
      { role: "assistant", content: completion },
    ];
  }
  if (Array.isArray(prompt) && Array.isArray(completion)) {
    const before = messagesOf(row, "prompt").map((m) => (m.role === "assistant" ? { ...m, train: false } : m));
    return [...before, ...messagesOf(row, "completion")];
  }
  const wrong = typeof prompt !== "string" && !Array.isArray(prompt) ? "prompt" : "completion";
  return refuse("type", wrong, "prompt and completion must both be strings or both be arrays of messages");
}
