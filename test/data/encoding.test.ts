// What the options of encoding do: which template and with what, which answers, what is counted; spans and their ends. No GPU.
// Run alone: npx vitest run test/data/encoding.test.ts

import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodeEsft, packEsft } from "../../lib/data/esft_format.ts";
import { encodeConversation } from "../../lib/data/masks.ts";
import { rowEncoder, type EncodingOptions } from "../../lib/data/row_encoder.ts";
import { assistantSpan } from "../../lib/data/spans.ts";
import { normaliseRow } from "../../lib/data/rows.ts";
import { ConfigError, DataError } from "../../lib/errors.ts";
import { ChatTemplate, type Message } from "../../lib/text/template.ts";
import { loadTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-encoding-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Words between angle brackets are not special to the embedded tokenizer: "+" and "-" of a text say what is trained. */
const loop = (inner: string): string => `{% for m in messages %}${inner}{% endfor %}{% if add_generation_prompt %}A:{% endif %}`;
const turns = loop("{{ m.role[0]|upper }}:{{ m.content }}{{ eos_token }}");

let tokenizer: Tokenizer; // with templates by name
let bare: Tokenizer; // without
async function tokenizerWith(name: string, changes: object): Promise<Tokenizer> {
  const folder = join(dir, name);
  for (const file of ["tokenizer.json", "special_tokens_map.json", "generation_config.json"]) cpSync(join("examples/embedded", file), join(folder, file)); // prettier-ignore
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ bos_token: "<|bos|>", eos_token: "<|end|>", ...changes }));
  return loadTokenizer(folder);
}
beforeAll(async () => {
  const named = (name: string, first: string) => ({ name, template: first + turns });
  tokenizer = await tokenizerWith("named", { chat_template: [named("default", "D"), named("tool_use", "T{{ tools|length }}"), named("rag", "R")] }); // prettier-ignore
  bare = await tokenizerWith("bare", {});
});

const user = (content = "q"): Message => ({ role: "user", content });
const reply = (content: string | null = "a", more: object = {}): Message => ({ role: "assistant", content, ...more });

async function encode(messages: readonly Message[], options: Partial<EncodingOptions> = {}, more: object = {}) {
  const encoder = rowEncoder({ tokenizer, ...options });
  const { inputIds, labels, warnings } = await encoder(normaliseRow({ messages, ...more }));
  return {
    text: tokenizer.decode(inputIds),
    trained: tokenizer.decode(Array.from(labels).filter((l) => l !== -100)),
    warnings,
  };
}
const refusal = async (work: Promise<unknown>): Promise<DataError> => (await work.catch((e: unknown) => e)) as DataError;

describe("the template", () => {
  it("is the tokenizer's, by name, or for tools where the row has some", async () => {
    const talk = [user(), reply()];
    const tools = [{ type: "function" }];
    expect((await encode(talk)).text).toBe("DU:q<|end|>A:a<|end|>");
    expect((await encode(talk, { template: "tokenizer" }, { tools })).text).toBe("T1U:q<|end|>A:a<|end|>");
    expect((await encode(talk, { templateName: "rag" })).text).toMatch(/^RU:/);
    expect((await encode(talk, { template: { source: `X${turns}` } })).text).toMatch(/^XU:/);
    expect((await encode(talk, { template: new ChatTemplate(`Y${turns}`), templateName: "rag" })).text).toMatch(/^YU:/);
    expect((await encode(talk, { template: "esft" })).text).toBe("<|bos|>User: q\n\nAssistant: a<|end|>");
  });

  it("that is not there is refused with those that are", async () => {
    const none = encode([user(), reply()], { tokenizer: bare });
    await expect(none).rejects.toBeInstanceOf(ConfigError);
    await expect(none).rejects.toThrow(`the tokenizer in ${bare.dir} has no chat template; give one as template: { source }`);
    await expect(none).rejects.toMatchObject({ where: { key: "template", file: bare.dir } });
    const named = encode([user(), reply()], { templateName: "none" });
    await expect(named).rejects.toThrow("has no chat template named none (it has default, tool_use, rag); give one");
  });

  it("gets variables, the clock and the tokenizer's tokens", async () => {
    const source = `{{ bos_token }}{{ mood }}{{ strftime_now('%Y') }}${turns}`;
    const now = new Date(1999, 5, 5);
    expect((await encode([user(), reply()], { template: { source }, variables: { mood: "glad" }, now })).text).toBe(
      "<|bos|>glad1999U:q<|end|>A:a<|end|>",
    );
    expect((await encode([user(), reply()], { template: { source } })).text).toMatch(/^<\|bos\|>20\d\dU:/);
  });
});

describe("what is trained", () => {
  const talk = [user(), reply("one"), user(), reply("two"), user(), reply("three", { train: false }), user("end")];

  it("is every answer that its flags do not exclude, or the last of those", async () => {
    expect(await encode(talk)).toMatchObject({ trained: "one<|end|>two<|end|>", warnings: [] });
    expect((await encode(talk, { trainOn: "all" })).trained).toBe("one<|end|>two<|end|>");
    expect((await encode(talk, { trainOn: "last" })).trained).toBe("two<|end|>");
    expect((await encode(talk, { trainOn: "last", template: "esft" })).trained).toBe("<|bos|> two<|end|>");
  });

  it("ends with a stop token, that of the answer or the one that follows it", async () => {
    const follows = loop("{{ eos_token if not loop.first }}{{ m.role[0]|upper }}:{{ m.content }}").replace(
      "A:{% endif",
      "{{ eos_token }}A:{% endif",
    );
    expect(await encode([user(), reply("one"), user()], { template: { source: follows } })).toMatchObject({ trained: "one<|end|>", warnings: [] }); // prettier-ignore
    expect(await encode([user(), reply("one")], { template: { source: follows } })).toMatchObject({ trained: "one", warnings: ["stop-untrained"] }); // prettier-ignore
    const none = loop("{{ m.role[0]|upper }}:{{ m.content }};");
    const two = [user(), reply("one"), user(), reply("two")];
    expect(await encode(two, { template: { source: none } })).toMatchObject({ trained: "one;two;", warnings: ["stop-untrained"] });
    expect(await encode(two, { template: { source: none }, stops: [";"] })).toMatchObject({ trained: "one;two;", warnings: [] });
    const spaced = loop("{{ m.role[0]|upper }}:{{ m.content }}{{ eos_token }}\n \n");
    expect(await encode(two, { template: { source: spaced } })).toMatchObject({ warnings: [] });
  });

  it("may be all there is, where nothing comes before an answer", async () => {
    const bare = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    expect((await encode([reply("one"), user(), reply("two")], { template: { source: bare } })).trained).toBe("one<|end|>two<|end|>");
  });

  it("has content as the template takes it: null as empty text unless that is unwanted", async () => {
    const calls = [user(), reply(null, { tool_calls: [{ function: { name: "f", arguments: {} } }] })];
    const adapted = await encode(calls, { onDropped: "allow" });
    expect(adapted).toEqual({ text: "DU:q<|end|>A:<|end|>", trained: "<|end|>", warnings: ["dropped", "adapted"] });
    expect((await encode(calls, { onDropped: "allow", adapt: false })).text).toBe("DU:q<|end|>A:None<|end|>");
  });

  it("may be plain text, with one end", async () => {
    const of = async (text: string, more: Partial<EncodingOptions> = {}): Promise<string> => {
      const { inputIds, labels, warnings } = await rowEncoder({ tokenizer, ...more })({ shape: "text", text });
      expect([labels, warnings]).toEqual([inputIds, []]);
      return tokenizer.decode(inputIds);
    };
    expect([await of("a"), await of("a<|end|>"), await of("a", { textEos: false })]).toEqual([
      "<|bos|>a<|end|>",
      "<|bos|>a<|end|>",
      "<|bos|>a",
    ]);
  });
});

describe("a conversation that cannot be encoded", () => {
  const template = new ChatTemplate(turns);

  it("says which message and why", async () => {
    const of = (messages: readonly Message[], source = turns) => refusal(encodeConversation({ tokenizer, template: new ChatTemplate(source), messages })); // prettier-ignore
    const rewritten = loop("{{ m.role[0]|upper }}:{{ m.content if loop.last or m.role == 'user' }}{{ eos_token }}");
    const unprompted = loop("{{ m.role[0] }}:{{ m.content }}{{ eos_token }}");
    const strict = `{% if messages|length == 2 %}{{ raise_exception('too short') }}{% endif %}${turns}`;
    const two = [user(), reply("one"), user(), reply("two")];
    for (const [error, rule, key, says] of [
      [await of([user(), reply("x", { train: false })]), "nothing-to-learn", "messages", "no assistant message is trained on"],
      [await of(two, rewritten), "prefix", "messages[1]", 'later messages change how it is rendered; train only the last answer (trainOn: "last", or train: false on the earlier ones)'],
      [await of(two, unprompted), "prefix", "messages[1]", "its rendering does not start with the generation prompt; mark it train: false, or use another template"],
      [await of(two, strict), "prefix", "messages[1]", "the template cannot render the messages before it: too short; mark it train: false, or use another template"],
      [await of([user(), reply("")], loop("{{ m.role[0]|upper }}:{{ m.content }}")), "nothing-to-learn", "messages", "no supervised token"],
      [await of([user(), reply("\ud800")]), "surrogate", "messages", "the conversation holds a lone surrogate"],
      [await of([user(), reply("x", { mask: 2 })]), "flag", "messages[1].mask", "mask must be 0 or 1, not 2"],
    ] as const) {
      expect(error).toBeInstanceOf(DataError);
      expect(error.where).toMatchObject({ rule, key, says });
    } // prettier-ignore
  });

  it("by a defect of ours or of the tokenizer says that as it is", async () => {
    const broken = Object.create(tokenizer, { encode: { value: () => Promise.reject(new TypeError("a defect")) }, bosToken: { value: null }, eosToken: { value: "" }, stopTokens: { value: [] } }) as Tokenizer; // prettier-ignore
    await expect(encodeConversation({ tokenizer: broken, template, messages: [user(), reply()] })).rejects.toThrow(TypeError);
    const render = { render: () => { throw new RangeError("a defect"); } } as unknown as ChatTemplate; // prettier-ignore
    const request = { template: render, messages: [user(), reply()], full: "", stops: [], render: {} };
    expect(() => assistantSpan(request, 1)).toThrow(RangeError);
  });

  it("has a span that ends with its own stop, and with the next one only where it has none", () => {
    /** What a template makes of one message as a prompt, of two, and of all. */
    const span = (prompt: string, extended: string, full: string, ...stops: string[]) => {
      const render = (messages: readonly Message[]): string => (messages.length === 1 ? prompt : extended);
      return assistantSpan({ template: { render } as unknown as ChatTemplate, messages: [user(), reply(), user()], full, stops, render: {} }, 1); // prettier-ignore
    };
    const ends = (of: ReturnType<typeof span>) => of.ok && [of.stop, of.follow];
    expect(span("u", "u a;", "u a; u", ";")).toEqual({ ok: true, message: 1, prompt: "u", extended: "u a;", stop: ";", follow: null });
    expect(ends(span("u", "u a; \n", "u a; \n;u", ";"))).toEqual([";", null]); // white space aside
    expect(ends(span("u", "u a", "u a;;", ";"))).toEqual([null, ";"]);
    expect(ends(span("u", "u a", "u a.;", ";", "."))).toEqual([null, "."]);
    expect(ends(span("u;", "u;", "u;", ";"))).toEqual([null, null]); // the prompt's is not its own
    expect(ends(span("u", "u\n;", "u\n;", "\n;"))).toEqual(["\n;", null]);
    expect(span("x", "u", "u")).toMatchObject({ ok: false, why: "prompt" });
    expect(span("u", "u a", "u b")).toMatchObject({ ok: false, why: "unstable" });
    const refusing = new ChatTemplate("{{ raise_exception('no') }}");
    const request = { template: refusing, messages: [user(), reply()], full: "", stops: [], render: {} };
    expect(assistantSpan(request, 1)).toEqual({ ok: false, message: 1, why: "render", says: "the template cannot render the messages before it: no" }); // prettier-ignore
  });

  it("warns with the message, on demand takes its stops and variables, and adapts only then", async () => {
    const messages = [user(), reply(null)];
    const of = (options: object) => encodeConversation({ tokenizer, template, messages, ...options });
    const plain = await of({});
    expect([plain.text, plain.adapted, plain.warnings]).toEqual(["U:q<|end|>A:None<|end|>", false, []]);
    const adapted = await of({ adapt: true, onDropped: "error" });
    expect([adapted.text, adapted.adapted]).toEqual(["U:q<|end|>A:<|end|>", true]);
    expect(adapted.warnings).toEqual([{ code: "empty-answer", key: "messages[1]" }]);
    expect((await of({ stops: ["none"] })).warnings).toEqual([{ code: "stop-untrained", key: "messages[1]" }]);
    expect((await of({ render: { eosToken: "!" } })).text).toBe("U:q!A:None!");
  });
});

describe("the official format", () => {
  const ids = async (messages: readonly Message[], by = tokenizer) => encodeEsft(messages, by);
  const shown = (of: readonly number[] | Int32Array): string => tokenizer.decode(Array.from(of).filter((id) => id !== -100));

  it("trains answers that neither mask nor train excludes, and its first token", async () => {
    const { inputIds, labels } = await ids([user(" a "), reply(" b\n"), user("c"), reply("d", { mask: 1 }), reply("e", { train: false }), reply("f", { mask: true }), reply("g", { mask: 0 })]); // prettier-ignore
    expect(shown(inputIds)).toBe("<|bos|>User: a\n\nAssistant: b<|end|>User: c\n\nAssistant: d<|end|> e<|end|> f<|end|> g<|end|>");
    expect(shown(labels)).toBe("<|bos|> b<|end|> g<|end|>");
    expect([labels[0], labels[1]]).toEqual([tokenizer.bosId, -100]);
    expect(await ids([])).toEqual({ inputIds: [], labels: [] });
  });

  it("has texts of two roles, and needs both tokens", async () => {
    for (const [message, rule, key] of [
      [{ role: "system", content: "x" }, "role", "messages[1].role"],
      [reply(null), "type", "messages[1].content"],
    ] as const)
      expect((await refusal(ids([user(), message]))).where).toMatchObject({ rule, key });
    expect((await refusal(ids([{ role: "tool", content: "x" }]))).message).toContain('knows user and assistant, not "tool"');
    expect((await refusal(ids([reply(null)]))).message).toBe("messages[0].content: the ESFT format needs a text");
    for (const lacks of ["bosId", "eosId"]) {
      const lacking = Object.create(tokenizer, { [lacks]: { value: null }, dir: { value: "DIR" } }) as Tokenizer;
      const error = await refusal(ids([user()], lacking));
      expect(error).toBeInstanceOf(ConfigError);
      expect(error).toMatchObject({ message: expect.stringContaining("the tokenizer in DIR lacks one") as string, where: { file: "DIR" } });
    }
  });

  it("packs rows of one length: a long example keeps its end, one in four loses its first token, the rest is padding", () => {
    const rows = (lengths: readonly number[], length: number, draws: readonly number[]) => {
      let next = 1;
      let drawn = 0;
      const examples = lengths.map((n) => {
        const inputIds = Array.from({ length: n }, () => next++);
        return { inputIds, labels: inputIds.map((id) => -id) };
      });
      const packed = [...packEsft(examples, { length, ratio: 0.25, padId: 99, draw: () => draws[drawn++]! })];
      for (const { inputIds, labels } of packed) expect(labels).toEqual(Array.from(inputIds, (id) => (id === 99 ? -100 : -id)));
      return [...packed.map((r) => r.inputIds), drawn];
    };
    expect(rows([2, 2], 5, [0.25])).toEqual([[1, 2, 3, 4, 99], 1]);
    expect(rows([2, 2], 5, [0.2])).toEqual([[1, 2, 4, 99, 99], 1]);
    expect(rows([3, 4], 5, [0.9])).toEqual([[1, 2, 3, 6, 7], [99, 99, 99, 99, 99], 1]);
    expect(rows([7, 1], 5, [0])).toEqual([[3, 4, 5, 6, 7], [8, 99, 99, 99, 99], 0]);
    expect(rows([3, 0, 1], 5, [0, 0.5])).toEqual([[1, 2, 3, 4, 99], 2]);
    expect(rows([], 3, [])).toEqual([[99, 99, 99], 0]);
  });
});
