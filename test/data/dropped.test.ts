// Rows of which a chat template leaves out parts: refused with what is lost, or trained without and counted. No GPU.
// Alone: npx vitest run test/data/dropped.test.ts

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { droppedParts } from "../../lib/data/dropped.ts";
import type { OnDropped } from "../../lib/data/dropped.ts";
import { encodeConversation } from "../../lib/data/masks.ts";
import { encodeSource } from "../../lib/data/source.ts";
import { ConfigError, DataError } from "../../lib/errors.ts";
import { dataSchema } from "../../lib/options.ts";
import { ChatTemplate, type Message } from "../../lib/text/template.ts";
import { loadTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-dropped-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer("test/fixtures/text/tokenizers/deepseek-v2");
});

const END = "{% if add_generation_prompt %}<assistant>{% endif %}";
/** Knows contents alone. */
const plain = `{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}${END}`;
/** Knows users and assistants alone. */
const twoRoles = `{% for m in messages if m.role in ['user', 'assistant'] %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}${END}`;
/** Knows everything. */
const whole = `{{ tools|tojson if tools }}{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% if m.tool_calls %}{{ m.tool_calls|tojson }}{% endif %}{{ eos_token }}{% endfor %}${END}`;
/** Says that tools are called, not which. */
const vague = `{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}[tools]{% else %}{{ m.content }}{% endif %}{{ eos_token }}{% endfor %}${END}`;

const call = (name = "weather") => ({ id: "1", type: "function", function: { name, arguments: "{}" } });
const tools = [{ type: "function", function: { name: "weather", parameters: {} } }];
const ask: Message = { role: "user", content: "How is the weather?" };
const calling: Message = { role: "assistant", content: null, tool_calls: [call()] };
const result: Message = { role: "tool", tool_call_id: "1", content: "e" };
const answer: Message = { role: "assistant", content: "Sunny." };

async function encode(messages: readonly Message[], source: string, more: { tools?: unknown; onDropped?: OnDropped } = {}) {
  const { onDropped } = more;
  const given = more.tools === undefined ? {} : { tools: more.tools };
  const { examples, report } = await Dataset.fromRows([{ messages, ...given }]).encode({ tokenizer, template: { source }, ...(onDropped ? { onDropped } : {}) }); // prettier-ignore
  const { inputIds, labels } = examples.get(0);
  return { text: tokenizer.decode(inputIds), trained: tokenizer.decode(labels.filter((l) => l !== -100)), warnings: report.warnings };
}

describe("a template that leaves out tool calls", () => {
  const file = join(dir, "tools.jsonl");
  writeFileSync(file, `${JSON.stringify({ messages: [ask, answer] })}\n${JSON.stringify({ messages: [ask, calling], tools })}\n`);

  it("refuses the row by default: file, line, what is lost and what to do", async () => {
    const error = await Dataset.fromFile(file).encode({ tokenizer, template: { source: plain } }).catch((e: unknown) => e); // prettier-ignore
    expect(error).toBeInstanceOf(DataError);
    expect((error as DataError).where).toMatchObject({ file, line: 2, rule: "dropped", key: "tools", bad: 1, rows: 2 });
    expect((error as DataError).message).toContain(
      `${file}:2: tools: the chat template leaves out tools, messages[1].tool_calls, and the row would be trained without; use a template that renders them, repair the row, or set onDropped to "allow" [dropped]`,
    );
  });

  it("trains the row without them where that is allowed, and counts it", async () => {
    const data = dataSchema.parse({ onDropped: "allow", template: join(dir, "plain.jinja") });
    writeFileSync(data.template, plain);
    const { examples, report } = await encodeSource(file, data, () => Promise.resolve(tokenizer));
    expect(examples.length).toBe(2);
    expect(report).toMatchObject({ rows: 2, good: 2, bad: 0, warnings: { dropped: 1, adapted: 1 } });
    const { inputIds, labels } = examples.get(1);
    expect(tokenizer.decode(inputIds)).toBe(`<user>How is the weather?${tokenizer.eosToken}<assistant>${tokenizer.eosToken}`);
    expect(tokenizer.decode(labels.filter((l) => l !== -100))).toBe(tokenizer.eosToken);
    await expect(encodeSource(file, { ...data, onDropped: "error" }, () => Promise.resolve(tokenizer))).rejects.toThrow(/1 of 2 rows/);
  });

  it("refuses them beside text, and in answers that are not trained on", async () => {
    const beside = { ...calling, content: "Let me look." };
    await expect(encode([ask, beside], plain)).rejects.toThrow(/leaves out messages\[1\]\.tool_calls, and/);
    await expect(encode([ask, { ...beside, train: false }, ask, answer], plain)).rejects.toThrow(
      /leaves out messages\[1\]\.tool_calls, and/,
    );
    expect(await encode([ask, beside], plain, { onDropped: "allow" })).toMatchObject({ trained: `Let me look.${tokenizer.eosToken}`, warnings: { dropped: 1 } }); // prettier-ignore
  });

  it("refuses a template that says that a tool is called, but not which", async () => {
    await expect(encode([ask, calling], vague)).rejects.toThrow(/leaves out messages\[1\]\.tool_calls/);
    const half = whole.replace("m.tool_calls|tojson", "m.tool_calls[0]|tojson");
    expect((await encode([ask, calling], half)).warnings).toEqual({});
    for (const part of ["arguments", "name|length > 0"])
      await expect(encode([ask, calling], whole.replace("m.tool_calls|tojson", `m.tool_calls[0].function.${part}`))).rejects.toThrow(
        /leaves out messages\[1\]\.tool_calls, and/,
      );
  });

  it("names at most five parts", async () => {
    const many = Array.from({ length: 7 }, () => [ask, calling]).flat();
    await expect(encode(many, plain)).rejects.toThrow(/messages\[1\]\.tool_calls, .*messages\[9\]\.tool_calls and 2 more, and the row/);
    await expect(encode(many.slice(0, 10), plain)).rejects.toThrow(/messages\[9\]\.tool_calls, and the row/);
  });
});

describe("a template that leaves out messages or tools", () => {
  it.each([
    ["the answer of a tool, though its text stands elsewhere", [ask, answer, result, answer], "messages[2].content"],
    ["the system's", [{ role: "system", content: "Be brief." }, ask, answer], "messages[0].content"],
  ] as const)("refuses a row without %s", async (_, messages, path) => {
    await expect(encode(messages, twoRoles)).rejects.toThrow(`leaves out ${path}, and`);
    expect((await encode(messages, twoRoles, { onDropped: "allow" })).warnings).toEqual({ dropped: 1 });
  });

  it("refuses a trained answer of which the end alone is left, and says so before anything else", async () => {
    const last = `{% for m in messages %}<{{ m.role }}>{{ m.content if m.role == 'user' }}{{ eos_token }}{% endfor %}${END}`;
    await expect(encode([ask, answer], last)).rejects.toThrow(
      /messages\[1\]\.content: the chat template leaves out messages\[1\]\.content/,
    );
    // its text stands in the question, so only the span shows that it is lost
    const echo = [{ role: "user", content: "Say Sunny." }, answer];
    await expect(encode(echo, last)).rejects.toThrow(/messages\[1\]\.content: the chat template leaves out messages\[1\]\.content/);
    const { trained, warnings } = await encode(echo, last, { onDropped: "allow" });
    expect([trained, warnings]).toEqual([tokenizer.eosToken, { dropped: 1 }]);
  });

  it("refuses a trained call of which the end alone is left, though another message tells of it", async () => {
    const later = plain.replace("{{ m.content }}", "{{ m.content }}{{ loop.previtem.tool_calls[0].function.name if loop.previtem and loop.previtem.tool_calls }}"); // prettier-ignore
    const row = [ask, { ...calling, content: "" }, result, answer];
    await expect(encode(row, later)).rejects.toThrow(
      /messages\[1\]\.tool_calls: the chat template leaves out messages\[1\]\.tool_calls, and/,
    );
    expect((await encode(row, later, { onDropped: "allow" })).warnings).toEqual({ dropped: 1 });
  });

  it("refuses a trained answer that loses its text beside its calls, and text of which it is said only that it is there", async () => {
    const calls = whole.replace("{{ m.content or '' }}", "{{ m.content if not m.tool_calls }}");
    await expect(encode([ask, { ...calling, content: "Let me look." }], calls)).rejects.toThrow(/leaves out messages\[1\]\.content, and/);
    const hint = plain.replace("{{ m.content }}", "{{ '[system]' if m.role == 'system' and m.content else m.content }}");
    await expect(encode([{ role: "system", content: "Be brief." }, ask, answer], hint)).rejects.toThrow(/leaves out messages\[0\]\.content, and/); // prettier-ignore
  });

  it("does not mind what is empty, whoever says it", async () => {
    expect((await encode([ask, answer, { ...result, content: " " }, answer], twoRoles)).warnings).toEqual({});
    expect((await encode([{ role: "system", content: "" }, ask, answer], twoRoles)).warnings).toEqual({});
    const template = new ChatTemplate(plain);
    const { warnings } = await encodeConversation({ tokenizer, template, messages: [ask, answer], tools: [], onDropped: "error" });
    expect(warnings).toEqual([]);
  });

  it("does not mind what earlier answers lose that are not trained on", async () => {
    const thoughts = `{% for m in messages %}<{{ m.role }}>{{ m.content if m.role == 'user' or loop.last }}{{ eos_token }}{% endfor %}${END}`;
    const earlier = { role: "assistant", content: "A thought.", train: false };
    expect((await encode([ask, earlier, ask, answer], thoughts)).warnings).toEqual({});
  });

  it("takes text that is rendered in another form", async () => {
    const form = `{% for m in messages %}<{{ m.role }}>{{ m.content|upper }}{{ eos_token }}{% endfor %}${END}`;
    expect(await encode([ask, answer], form)).toMatchObject({ trained: `SUNNY.${tokenizer.eosToken}`, warnings: {} });
    const strict = `{% for m in messages %}{% if m.content not in ['How is the weather?', 'Sunny.'] %}{{ raise_exception('other') }}{% endif %}<{{ m.role }}>{{ 'a' if m.role == 'user' else 'b' }}{{ eos_token }}{% endfor %}${END}`;
    expect((await encode([ask, answer], strict)).warnings).toEqual({}); // it cannot do without
  });

  it("keeps a row whole that it renders whole", async () => {
    const row = await encode([ask, calling, result, answer], whole, { tools });
    expect(row.warnings).toEqual({});
    expect(row.trained).toContain('"name": "weather"');
    await expect(encode([ask, answer], plain, { tools })).rejects.toThrow(/leaves out tools, and/);
    expect((await encode([ask, answer], plain, { tools: [] })).warnings).toEqual({});
  });
});

it("an answer of no text is trained to end, and counted", async () => {
  const silent = { role: "assistant", content: " \n" };
  const { trained, warnings } = await encode([ask, silent, ask, { ...silent, content: "" }], plain);
  expect([trained, warnings]).toEqual([` \n${tokenizer.eosToken}${tokenizer.eosToken}`, { "empty-answer": 1 }]);
  expect((await encode([ask, { ...silent, train: false }, ask, answer], plain)).warnings).toEqual({});
});

describe("the official format", () => {
  const official = (messages: readonly Message[], more: { tools?: unknown; onDropped?: OnDropped } = {}) =>
    Dataset.fromRows([{ messages, ...(more.tools ? { tools: more.tools } : {}) }]).encode({ tokenizer, template: "esft", ...(more.onDropped ? { onDropped: more.onDropped } : {}) }); // prettier-ignore

  it("has no tools and no tool calls", async () => {
    await expect(official([ask, calling], { tools })).rejects.toThrow(/the ESFT format leaves out tools, messages\[1\]\.tool_calls, and/);
    await expect(official([ask, answer], { tools })).rejects.toThrow(/the ESFT format leaves out tools, and/);
    await expect(official([ask, { ...calling, content: "x" }])).rejects.toThrow(/leaves out messages\[1\]\.tool_calls, and/);
    const { examples, report } = await official([ask, calling], { tools, onDropped: "allow" });
    expect(report.warnings).toEqual({ dropped: 1 });
    expect(tokenizer.decode(examples.get(0).inputIds)).toBe(
      `${tokenizer.bosToken}User: How is the weather?\n\nAssistant: ${tokenizer.eosToken}`,
    );
  });

  it("counts answers of no text", async () => {
    expect((await official([ask, { role: "assistant", content: " " }])).report.warnings).toEqual({ "empty-answer": 1 });
    expect((await official([ask, answer])).report.warnings).toEqual({});
    expect((await official([ask, { role: "assistant", content: "", train: false }, ask, answer])).report.warnings).toEqual({});
    expect((await official([{ ...ask, content: "" }, answer])).report.warnings).toEqual({});
    await expect(official([ask, result, answer], { onDropped: "allow" })).rejects.toThrow(/knows user and assistant, not "tool"/);
  });
});

it("is looked for on demand alone: as transformers renders it otherwise", async () => {
  const template = new ChatTemplate(plain);
  const { warnings } = await encodeConversation({ tokenizer, template, messages: [ask, { ...calling, content: "" }] });
  expect(warnings).toEqual([]);
});

it("an error that is none of the template's goes through", () => {
  const template = { render: () => { throw new TypeError("a defect"); } } as unknown as ChatTemplate; // prettier-ignore
  const request = { template, messages: [ask, calling], trained: [false, true], render: {}, text: "How is the weather?" };
  expect(() => droppedParts(request)).toThrow(TypeError);
});

it("knows two answers", async () => {
  await expect(encode([ask, answer], plain, { onDropped: "warn" as OnDropped })).rejects.toThrow(ConfigError);
  await expect(encode([ask, answer], plain, { onDropped: "warn" as OnDropped })).rejects.toThrow(
    /onDropped must be "error" or "allow", not "warn"/,
  );
});
