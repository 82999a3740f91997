// What a chat template leaves out of a conversation without a word: tools, tool calls, whole messages. A row that loses them teaches
// something else than what it says, down to answers of which only the end of the turn is left.

import { DataError } from "../errors.ts";
import { refuse } from "./flags.ts";
import { isJsonObject, type JsonValue } from "../text/python_json.ts";
import { pythonStrip } from "../text/python_text.ts";
import type { ChatTemplate, Message, RenderOptions } from "../text/template.ts";

/** Such a row is refused, or trained without what is left out and counted. */
export type OnDropped = "error" | "allow";

interface Rendered {
  readonly template: ChatTemplate;
  readonly messages: readonly Message[];
  /** Which messages are trained on. */
  readonly trained: readonly boolean[];
  readonly render: RenderOptions;
  /** All messages, rendered. */
  readonly text: string;
}

/** A part of the row, and the row with the part changed. */
interface Part {
  readonly path: string;
  readonly change: (messages: readonly Message[], mark: string) => readonly Message[];
}

export const callsOf = (message: Message): readonly JsonValue[] => (Array.isArray(message["tool_calls"]) ? message["tool_calls"] : []);

/** Text other than white space. */
export const says = ({ content }: Message): string => (typeof content === "string" ? pythonStrip(content) : "");

/**
 * Paths of the parts that `text` does not depend on. Looked at: tools, tool calls, and contents, except those of earlier answers that
 * are not trained on (templates drop thoughts of theirs on purpose). A content that is in the text as it is costs nothing; everything
 * else is marked and rendered once more, and what then seems lost is changed and rendered alone.
 */
export function droppedParts({ template, messages, trained, render, text }: Rendered): string[] {
  const again = (changed: readonly Message[], options: RenderOptions = render): string | null => {
    try {
      return template.render(changed, options);
    } catch (error) {
      if (!(error instanceof DataError)) throw error;
      return null; // it matters to the template
    }
  };
  const parts = messages.flatMap((m, i): Part[] => {
    const mayLose = m.role === "assistant" ? trained[i] === true : true;
    const content = says(m);
    // a tool may answer with a number that stands elsewhere too
    const isThere = content === "" || (m.role !== "tool" && text.includes(content));
    return [
      ...(mayLose && !isThere ? [{ path: `messages[${i}].content`, change: replaceAt(i, withContent) }] : []),
      ...(callsOf(m).length > 0 ? [{ path: `messages[${i}].tool_calls`, change: replaceAt(i, withCalls) }] : []),
    ];
  });
  const mark = (p: number): string => `esft${p}x`;
  const marked = parts.length === 0 ? text : again(parts.reduce((all, part, p) => part.change(all, mark(p)), messages));
  const lost = parts.filter((part, p) => marked?.includes(mark(p)) !== true && again(part.change(messages, mark(p))) === text);
  const tools = render.tools && render.tools.length > 0 && again(messages, { ...render, tools: null }) === text;
  return [...(tools ? ["tools"] : []), ...lost.map(({ path }) => path)];
}

const replaceAt =
  (i: number, by: (message: Message, mark: string) => Message): Part["change"] =>
  (messages, mark) =>
    messages.map((m, j) => (j === i ? by(m, mark) : m));

const withContent = (message: Message, mark: string): Message => ({ ...message, content: `${String(message.content)}${mark}` });

function withCalls(message: Message, mark: string): Message {
  const renamed = (call: JsonValue): JsonValue => {
    const called = isJsonObject(call) ? call["function"] : undefined;
    return isJsonObject(call) && isJsonObject(called)
      ? { ...call, function: { ...called, name: `${String(called["name"])}${mark}` } }
      : call;
  };
  return { ...message, tool_calls: callsOf(message).map(renamed) };
}

const SHOWN = 5;

/** @throws DataError rule "dropped", unless that is allowed. @param by the template or format */
export function refuseDropped(parts: readonly string[], by: string, onDropped: OnDropped): void {
  const [first] = parts;
  if (first === undefined || onDropped === "allow") return;
  const named = parts.slice(0, SHOWN).join(", ") + (parts.length > SHOWN ? ` and ${parts.length - SHOWN} more` : "");
  refuse(
    "dropped",
    first,
    `${by} leaves out ${named}, and the row would be trained without; use a template that renders them, repair the row, or set onDropped to "allow"`,
  );
}
