// Chat templates and the conversations that they are given: a template renders or refuses, in bounded time and memory; white space
// inside its tags changes nothing.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ConfigError } from "../../../lib/errors.ts";
import { parseJson } from "../../../lib/text/python_json.ts";
import type { JsonValue } from "../../../lib/text/python_json.ts";
import type { Message } from "../../../lib/text/template.ts";
import { ChatTemplate } from "../../../lib/text/template.ts";
import type { Case, Format } from "../case.ts";
import { difference, mutateJson } from "../case.ts";
import { changeBytes } from "../mutate_bytes.ts";
import type { Random } from "../random.ts";
import { toTree } from "../tree.ts";

const FOLDER = "test/fixtures/text/templates";
const tool = {
  type: "function",
  function: { name: "add", description: "adds", parameters: { type: "object", properties: { a: { type: "number" } }, required: ["a"] } },
};
const CONVERSATIONS = [
  { messages: [{ role: "system", content: "S" }, { role: "user", content: "Hi" }, { role: "assistant", content: "Hello" }, { role: "user", content: "x\n" }] },
  { messages: [{ role: "user", content: "1+2" }, { role: "assistant", content: "", tool_calls: [{ type: "function", id: "c", function: { name: "add", arguments: { a: 1 } } }] }, { role: "tool", content: "3" }, { role: "assistant", content: "<think>t</think>3" }], tools: [tool] },
]; // prettier-ignore

const PIECES = [
  "{% for x in range(100000) %}", "{% for a in messages %}{% for b in messages %}", "{% endfor %}", "{% if true %}", "{% endif %}", "{% set m = messages %}",
  "{{ messages }}", "{{ 'a' * 1000000000 }}", "{{ range(100000)|list }}", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "{{ messages|tojson(indent=100000000) }}",
  "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}", "{{ 'a'.replace('', 'b') }}", "{{ messages[::0] }}", "{{ messages[-1:0:-1] }}",
  "{{ none.x }}", "{{ raise_exception('no') }}", "{{ strftime_now('%Y') }}", "{{ strftime_now('%') }}", "{{ ''.join(messages) }}", "{{ messages[0].content.split('') }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}",
  "{{ 2 ** 99999 }}", "{%", "%}", "{{", "}}", "{#", "#}", "-", "|", ".", "(", ")", "[", "]", "'", "\"", "\\", "loop.index0", "loop.previtem", "is defined", "not in", " and ", " if x else ", "|tojson", "|length", "|first", "|sort", "|map(attribute='content')", "|join", "|safe", "|int", "|dictsort", "|string * 100000",
  "{% break %}", "{% continue %}", "{% generation %}", "{% endgeneration %}", "{% call f() %}", "{% filter upper %}", "__proto__", "constructor", "messages.__class__", "self", "[0][0][0]", "(".repeat(5000), "[".repeat(5000), "{% if x %}".repeat(3000), "not ".repeat(5000), "{{ x" + "|trim".repeat(4000) + " }}",
]; // prettier-ignore

/** A template changed: bytes, pieces of syntax, tokens deleted, doubled or moved. */
function changeSource(source: string, r: Random): { readonly source: string; readonly what: string } {
  if (r.once(4)) {
    const { bytes, what } = changeBytes(Buffer.from(source), r);
    return { source: Buffer.from(bytes).toString(), what };
  }
  const tokens = source.split(/(\{%-?|-?%\}|\{\{-?|-?\}\}|\b|\s+)/).filter((t) => t !== "");
  const [i, j] = [r.below(tokens.length + 1), r.below(tokens.length + 1)];
  const piece = r.pick(PIECES);
  switch (r.below(5)) {
    case 0:
      tokens.splice(i, 1 + r.below(4));
      return { source: tokens.join(""), what: `deletes tokens at ${i}` };
    case 1:
      tokens.splice(i, 0, ...tokens.slice(j, j + 1 + r.below(20)));
      return { source: tokens.join(""), what: `copies tokens from ${j} to ${i}` };
    case 2:
      tokens[i] = tokens[j] ?? "";
      return { source: tokens.join(""), what: `sets token ${i} to token ${j}` };
    default:
      tokens.splice(i, r.below(2), piece);
      return { source: tokens.join(""), what: `puts ${piece.slice(0, 80)} at token ${i}` };
  }
}

const spaced = (source: string, r: Random): string => source.replace(/\{[{%]-?(?= )| (?=-?[%}]\})/g, (t) => (r.once(3) ? `${t}${r.pick([" ", "\n", "\t "])}` : t)); // prettier-ignore

interface Said {
  readonly messages: readonly Message[];
  readonly tools?: readonly JsonValue[];
}

function render(source: string, { messages, tools }: Said): string {
  const template = new ChatTemplate(source, "chat_template.jinja");
  const options = { tools: tools ?? null, bosToken: "<s>", eosToken: "</s>", addGenerationPrompt: true, now: new Date(0) };
  return template.render(template.adapt(messages, options), options);
}

/** What the rows' own checks let through: a list of messages with roles. */
function conversationOf(text: string): Said {
  const fail = (cause?: unknown): never => {
    throw new ConfigError("chat_template.jinja: no conversation", { cause });
  };
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (cause) {
    fail(cause);
  }
  const said = value as Said | null;
  const isMessage = (m: Message | null): boolean => typeof m === "object" && m !== null && typeof m.role === "string";
  return Array.isArray(said?.messages) && said.messages.every(isMessage) ? said : fail();
}

export const template: Format = {
  name: "template",
  async open() {
    const sources = readdirSync(FOLDER).map((name) => readFileSync(join(FOLDER, name), "utf8"));
    const trees = CONVERSATIONS.map(toTree);
    return (dice): Case => {
      let source = dice.top.pick(sources);
      const i = dice.top.below(CONVERSATIONS.length);
      let said = Buffer.from(JSON.stringify(CONVERSATIONS[i]));
      const clean = source;
      const steps: string[] = [];
      let same = false;
      const way = dice.top.below(16);
      if (way < 4) {
        const changed = mutateJson(trees[i]!, dice);
        said = Buffer.from(changed.bytes);
        steps.push(...changed.steps);
      } else if (way < 7) {
        same = true;
        dice.steps((r) => {
          source = spaced(source, r);
          steps.push("adds white space inside tags");
        });
      } else
        dice.steps((r) => {
          const change = changeSource(source, r);
          source = change.source;
          steps.push(change.what);
        });
      const conversation = (): Said => conversationOf(said.toString());
      let plain: string | null = null;
      if (same)
        try {
          plain = render(clean, conversation());
        } catch {
          same = false; // this template refuses this conversation
        }
      return {
        steps,
        same,
        files: { "chat_template.jinja": source, "conversation.json": said },
        file: "template",
        parse: () => render(source, conversation()),
        judge: (text: string) =>
          same ? difference(plain, text, "text") : text.length > 1e8 ? `a text of ${text.length} characters` : null,
      };
    };
  },
};
