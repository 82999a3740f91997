// What an assistant message adds to the text, found by rendering prefixes:
//   P = render(messages[0..i), generation prompt)   E = render(messages[0..i])   F = render(all)
// The span is E minus P, well defined iff E starts with P and F starts with E. Offsets are UTF-16 code units of F.

import { DataError } from "../errors.ts";
import { pythonStrip } from "../text/python_text.ts";
import type { ChatTemplate, Message, RenderOptions } from "../text/template.ts";

export type Span =
  | {
      readonly ok: true;
      readonly message: number;
      readonly prompt: string;
      readonly extended: string;
      /** The stop token that ends the span, white space aside; null = nothing in it teaches the model to stop. */
      readonly stop: string | null;
      /** Without a stop of its own: the stop token the text goes on with. */
      readonly follow: string | null;
    }
  | { readonly ok: false; readonly message: number; readonly why: "prompt" | "unstable" | "render"; readonly says: string };

export interface SpanRequest {
  readonly template: ChatTemplate;
  readonly messages: readonly Message[];
  readonly full: string;
  readonly stops: readonly string[];
  readonly render: RenderOptions;
}

export function assistantSpan(request: SpanRequest, i: number): Span {
  const { template, messages, full, stops, render } = request;
  let prompt: string;
  let extended: string;
  try {
    prompt = template.render(messages.slice(0, i), { ...render, addGenerationPrompt: true });
    extended = i + 1 === messages.length ? full : template.render(messages.slice(0, i + 1), { ...render, addGenerationPrompt: false });
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    return {
      ok: false,
      message: i,
      why: "render",
      says: `the template cannot render the messages before it: ${String(error.where["says"])}`,
    };
  }
  if (!extended.startsWith(prompt))
    return { ok: false, message: i, why: "prompt", says: "its rendering does not start with the generation prompt" };
  if (!full.startsWith(extended)) return { ok: false, message: i, why: "unstable", says: "later messages change how it is rendered" };
  const ending = pythonStrip(extended.slice(prompt.length), "right");
  const stop = stops.find((s) => ending.endsWith(s)) ?? null;
  const follow = stop === null ? (stops.find((s) => full.startsWith(s, extended.length)) ?? null) : null;
  return { ok: true, message: i, prompt, extended, stop, follow };
}
