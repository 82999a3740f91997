// Rows → token ids and labels, by a chat template or the official format.

import { optionsArgument, readSafely } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import { shown } from "../options.ts";
import { callsOf, refuseDropped, says, type OnDropped } from "./dropped.ts";
import { encodeEsft } from "./esft_format.ts";
import { encodeConversation, type Encoded } from "./masks.ts";
import type { Conversation, Row } from "./rows.ts";
import type { JsonObject } from "../text/python_json.ts";
import type { ChatTemplate, Message } from "../text/template.ts";
import { chosenTemplate } from "../text/template_choice.ts";
import { Tokenizer } from "../text/tokenizer.ts";

export interface EncodingOptions {
  readonly tokenizer: Tokenizer;
  /** "tokenizer": the published chat template (default); "esft": the official ESFT format; or Jinja source. */
  readonly template?: "tokenizer" | "esft" | ChatTemplate | { readonly source: string };
  /**
   * "all" (default): every assistant message that its flags do not exclude; "last": only the last of them. Templates that rewrite
   * earlier turns (Qwen3, GPT-OSS, Phi-3.5 …) can only be trained on the last one.
   */
  readonly trainOn?: "all" | "last";
  /** A named template of the tokenizer ("tool_use", "rag" …). */
  readonly templateName?: string;
  /** More variables for the template: enable_thinking, reasoning_effort … */
  readonly variables?: JsonObject;
  /** The clock of templates that write the date. Fix it for runs that must be repeatable. */
  readonly now?: Date;
  readonly stops?: readonly string[];
  /** Give the template null content as "" and tool arguments in the other form where it needs that; counted as warning "adapted". Default true. */
  readonly adapt?: boolean;
  /**
   * Rows of which the template leaves out tools, tool calls or messages: not usable (default), or trained without these and counted as
   * warning "dropped". An answer of no text at all is usable either way: the end of its turn is trained, and counted as "empty-answer".
   */
  readonly onDropped?: OnDropped | undefined;
  /** End plain-text documents with EOS, so that the model learns where they end. Default true when the tokenizer has one. */
  readonly textEos?: boolean;
}

export interface EncodedRow extends Encoded {
  readonly warnings: readonly string[];
}
export type RowEncoder = (row: Row) => Promise<EncodedRow>;

/** The function from a normalised row to ids and labels; settles the template once. */
export function rowEncoder(asked: EncodingOptions): RowEncoder {
  const options = optionsArgument(asked, "encoding");
  if (!readSafely("encoding.tokenizer", () => options.tokenizer instanceof Tokenizer))
    throw new ConfigError(`encoding.tokenizer: expected a Tokenizer, found ${shown(options.tokenizer)}`, { where: { key: "tokenizer" } });
  const { tokenizer, template: wanted = "tokenizer", trainOn = "all", onDropped = "error" } = options;
  if (trainOn !== "all" && trainOn !== "last")
    throw new ConfigError(`trainOn must be "all" or "last", not ${JSON.stringify(trainOn)}`, { where: { key: "trainOn" } });
  if (onDropped !== "error" && onDropped !== "allow")
    throw new ConfigError(`onDropped must be "error" or "allow", not ${JSON.stringify(onDropped)}`, { where: { key: "onDropped" } });
  const given = typeof wanted === "string" ? wanted === "tokenizer" || wanted === "esft" : typeof wanted?.source === "string";
  if (!given)
    throw new ConfigError(`template must be "tokenizer", "esft", a ChatTemplate or { source }, not ${shown(wanted)}`, {
      where: { key: "template" },
    });
  return async (row) => {
    if (row.shape === "text") return encodeText(row.text, options);
    const { tools } = row.row;
    const messages = trainOn === "last" ? lastOnly(row.row.messages) : row.row.messages;
    if (wanted === "esft") return encodeOfficial(row.row, messages, tokenizer, onDropped);
    const { adapt = true, stops, now, variables } = options;
    const render = { ...(now ? { now } : {}), ...(variables ? { variables } : {}) };
    const encoded = await encodeConversation({
      tokenizer,
      template: chosenTemplate(wanted, tokenizer, tools !== undefined, options.templateName),
      adapt,
      messages,
      tools,
      stops,
      render,
      onDropped,
    });
    const codes = new Set<string>(encoded.warnings.map((w) => w.code));
    return { ...encoded, warnings: [...codes, ...(encoded.adapted ? ["adapted"] : [])] };
  };
}

// The official format has texts of users and assistants, nothing else.
async function encodeOfficial(
  { tools }: Conversation,
  messages: readonly Message[],
  tokenizer: Tokenizer,
  onDropped: OnDropped,
): Promise<EncodedRow> {
  const calls = messages.flatMap((m, i) => (callsOf(m).length > 0 ? [`messages[${i}].tool_calls`] : []));
  const dropped = [...(tools === undefined ? [] : ["tools"]), ...calls];
  refuseDropped(dropped, "the ESFT format", onDropped);
  const filled = messages.map((m) => (m.content === null ? { ...m, content: "" } : m)); // of a tool call
  const isEmpty = messages.some((m) => m.role === "assistant" && m["train"] !== false && says(m) === "" && callsOf(m).length === 0);
  const warnings = [...(dropped.length > 0 ? ["dropped"] : []), ...(isEmpty ? ["empty-answer"] : [])];
  return { ...(await encodeEsft(filled, tokenizer)), warnings };
}

function lastOnly(messages: readonly Message[]): Message[] {
  const last = messages.findLastIndex((m) => m.role === "assistant" && m["train"] !== false);
  return messages.map((m, i) => (i === last ? m : { ...m, train: false }));
}

// A document for language modelling: every token is supervised.
async function encodeText(text: string, { tokenizer, textEos = true }: EncodingOptions): Promise<EncodedRow> {
  const ids = await tokenizer.encodeRaw(text);
  if (textEos && tokenizer.eosId !== null && ids.at(-1) !== tokenizer.eosId) ids.push(tokenizer.eosId);
  return { inputIds: ids, labels: ids, warnings: [] };
}
