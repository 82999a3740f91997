// One chat template against its conversations: rendered text, with and without generation prompt, or the error; assistant spans.

import { assistantSpan } from "../../../lib/data/spans.ts";
import { DataError } from "../../../lib/errors.ts";
import type { ChatTemplate, Message, RenderOptions } from "../../../lib/text/template.ts";
import type { Report } from "../compare.ts";
import { attempt, Tally } from "./folder.ts";
import type { SpanCase, TemplateCase, TextFolder } from "./folder.ts";

export function checkTemplate(folder: TextFolder, name: string): Report {
  const tally = new Tally();
  const { clock, conversations } = folder;
  const entry = folder.rendered.find((e) => e.name === name);
  if (!entry) throw new Error(`templates.json has no template "${name}"`);
  const template = folder.template(entry.file);
  for (const c of entry.cases) {
    const conversation = conversations[c.conversation];
    if (!conversation) throw new Error(`templates.json has no conversation "${c.conversation}"`);
    const { messages, tools } = conversation;
    const render: RenderOptions = { tools: tools ?? null, bosToken: entry.bos, eosToken: entry.eos, now: clock };
    for (const key of ["text", "prompt"] as const) {
      const got = attempt(() => template.render(template.adapt(messages, render), { ...render, addGenerationPrompt: key === "prompt" }));
      const where = `${c.conversation} ${key}`;
      const want = c[key];
      const coerced = c.coerced?.[key];
      if (typeof got === "string" && got === coerced) tally.same(where, coerced, got);
      else if (typeof want === "string") tally.same(where, want, got instanceof DataError ? got.message : got);
      else if (!(got instanceof DataError)) tally.same(where, want, got);
      else if (want.error === "raise") tally.same(where, ["raise", want.says], [got.where["kind"], got.where["says"]]);
      else tally.same(where, "other", got.where["kind"]);
      // without adaptation: exactly what transformers gives, text or error
      const raw = attempt(() => template.render(messages, { ...render, addGenerationPrompt: key === "prompt" }));
      tally.same(`${where} as given`, typeof want === "string" ? want : want.error, raw instanceof DataError ? raw.where["kind"] : raw);
    }
    if (c.spans !== undefined && typeof attempt(() => template.render(messages, render)) === "string")
      checkSpans(tally, c, template, messages, render, entry.stops);
  }
  return tally.report();
}

function checkSpans(
  tally: Tally,
  c: TemplateCase,
  template: ChatTemplate,
  messages: readonly Message[],
  render: RenderOptions,
  stops: readonly string[],
): void {
  const full = template.render(messages, render);
  for (const want of c.spans ?? []) {
    const span = assistantSpan({ template, messages, full, stops, render }, want.message);
    const got = span.ok
      ? {
          message: span.message,
          ok: true,
          start: span.prompt.length,
          end: span.extended.length,
          text: span.extended.slice(span.prompt.length),
          stop: span.stop,
          ...(span.stop === null ? { follow: span.follow } : {}),
        }
      : { message: span.message, ok: false, why: span.why };
    const { error: _error, ...comparable } = want as SpanCase & { error?: string };
    tally.same(`${c.conversation} span ${want.message}`, comparable, got);
  }
}
