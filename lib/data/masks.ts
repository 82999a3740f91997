// A conversation as token ids with labels: what is supervised is exactly what the trained assistant messages add to the text.

import { DataError } from "../errors.ts";
import { isTrained, refuse, withoutFlags } from "./flags.ts";
import { callsOf, droppedParts, refuseDropped, says, type OnDropped } from "./dropped.ts";
import { assistantSpan, type Span } from "./spans.ts";
import { pythonStrip } from "../text/python_text.ts";
import type { ChatTemplate, Message, RenderOptions } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { JsonValue } from "../text/python_json.ts";

/** Not supervised. */
export const IGNORE = -100;

type TokenIds = readonly number[] | Int32Array;

export interface Encoded {
  readonly inputIds: TokenIds;
  /** Aligned with inputIds: the id itself where supervised, −100 elsewhere. The shift by one belongs to the loss. */
  readonly labels: TokenIds;
}

interface Warning {
  /** Nothing teaches the model to stop · parts that the template leaves out · an answer of no text, of which the end alone is trained. */
  readonly code: "stop-untrained" | "dropped" | "empty-answer";
  readonly key: string;
}

interface EncodedConversation extends Encoded {
  readonly inputIds: readonly number[];
  readonly labels: readonly number[];
  readonly text: string;
  readonly warnings: readonly Warning[];
  /** The template could not take the messages as they were (see ChatTemplate.adapt). */
  readonly adapted: boolean;
}

interface ConversationOptions {
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  readonly messages: readonly Message[];
  readonly tools?: readonly JsonValue[] | null | undefined;
  /** Tokens that end a turn; the tokenizer's own when absent. */
  readonly stops?: readonly string[] | undefined;
  /** bos, eos, clock and template variables; bos and eos are the tokenizer's when absent. */
  readonly render?: RenderOptions;
  /**
   * Where the template fails or prints None, give it null content as "" and tool arguments in the other form. Default false: exactly
   * what transformers does, text or refusal.
   */
  readonly adapt?: boolean;
  /** What the template leaves out: see droppedParts. Absent: not looked for, as in transformers. */
  readonly onDropped?: OnDropped | undefined;
}

export async function encodeConversation(options: ConversationOptions): Promise<EncodedConversation> {
  const { tokenizer, template, onDropped } = options;
  const trained = options.messages.map((m, i) => isTrained(m, `messages[${i}]`));
  if (!trained.includes(true)) refuse("nothing-to-learn", "messages", "no assistant message is trained on");

  const { bosToken, eosToken } = tokenizer;
  const now = new Date(); // one clock for all prefixes: a template that writes the time must write the same one in each
  const render: RenderOptions = { bosToken, eosToken, now, ...options.render, tools: options.tools ?? null };
  const given = options.messages.map(withoutFlags);
  const messages = options.adapt === true ? template.adapt(given, render) : given;
  const text = template.render(messages, render);
  const dropped = new Set<string>();
  const drops = (parts: readonly string[]): void => {
    refuseDropped(parts, "the chat template", onDropped ?? "allow");
    for (const part of parts) dropped.add(part);
  };
  if (onDropped !== undefined) drops(droppedParts({ template, messages, trained, render, text }));
  const ids = await encode(tokenizer, text);
  const labels = ids.map(() => IGNORE);
  const warnings: Warning[] = [];
  const request = { template, messages, full: text, stops: options.stops ?? tokenizer.stopTokens, render };

  for (const [i, yes] of trained.entries()) {
    if (!yes) continue;
    const key = `messages[${i}]`;
    const span = assistantSpan(request, i);
    if (!span.ok) {
      const fix =
        span.why === "unstable"
          ? '; train only the last answer (trainOn: "last", or train: false on the earlier ones)'
          : "; mark it train: false, or use another template";
      return refuse("prefix", key, span.says + fix);
    }
    if (onDropped !== undefined && isOnlyAnEnd(span)) {
      const message = messages[i] as Message;
      if (says(message) !== "") drops([`${key}.content`]);
      if (callsOf(message).length > 0) drops([`${key}.tool_calls`]);
      if (says(message) === "" && callsOf(message).length === 0) warnings.push({ code: "empty-answer", key });
    }
    if (span.stop === null && span.follow === null) warnings.push({ code: "stop-untrained", key });
    const start = commonPrefix(ids, await encode(tokenizer, span.prompt));
    const upTo = span.extended + (span.follow ?? "");
    const end = upTo.length === text.length ? ids.length : commonPrefix(ids, await encode(tokenizer, upTo));
    for (let t = start; t < end; t++) labels[t] = ids[t] as number;
  }
  if (labels.every((label) => label === IGNORE)) refuse("nothing-to-learn", "messages", "no supervised token");
  for (const key of dropped) warnings.push({ code: "dropped", key });
  return { text, inputIds: ids, labels, warnings, adapted: messages !== given };
}

/** The message adds nothing but a stop token and white space. */
function isOnlyAnEnd({ prompt, extended, stop }: Extract<Span, { ok: true }>): boolean {
  const added = pythonStrip(extended.slice(prompt.length));
  return pythonStrip(stop === null ? added : added.slice(0, -stop.length)) === "";
}

async function encode(tokenizer: Tokenizer, text: string): Promise<number[]> {
  try {
    return await tokenizer.encode(text);
  } catch (error) {
    if (error instanceof DataError && error.where["rule"] === "surrogate")
      refuse("surrogate", "messages", "the conversation holds a lone surrogate", error);
    throw error;
  }
}

function commonPrefix(a: readonly number[], b: readonly number[]): number {
  const differs = a.findIndex((id, i) => id !== b[i]);
  return differs < 0 ? a.length : differs;
}
