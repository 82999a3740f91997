// What is ours around the tokenizers library: names and ids of the folder, refusals, BOS of raw text, decoding id by id. That
// encoding and decoding equal the reference is in the fixtures (text_golden.test.ts).

import { cp, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { ConfigError, DataError, IoError } from "../../lib/errors.ts";
import { hasLoneSurrogate } from "../../lib/text/python_text.ts";
import { assertVocabulary, loadTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";

const fixtures = "test/fixtures/text/tokenizers";
const names = ["deepseek-v2", "granite", "mixtral", "phi3", "qwen2"];
let dir: string;
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), "esft-tokenizer-"))));
afterAll(() => rm(dir, { recursive: true }));

const vocab = { a: 0, b: 1, c: 2, ab: 3, "<unk>": 4 };
const added = (id: number, content: string, flags = {}): object => ({
  id,
  content,
  special: true,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  ...flags,
});
let made = 0;
/** A tokenizer from a folder with a small tokenizer.json around `parts`; vocabulary a b c ab <unk>, then what `parts` adds. */
async function make(parts: object | string = {}, config: object = {}): Promise<Tokenizer> {
  const folder = join(dir, String(made++));
  const model = { type: "BPE", vocab, merges: ["a b"], unk_token: "<unk>" };
  await mkdir(folder);
  await writeFile(
    join(folder, "tokenizer.json"),
    typeof parts === "string" ? parts : JSON.stringify({ model, decoder: { type: "Fuse" }, ...parts }),
  );
  await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify(config));
  return loadTokenizer(folder);
}

describe("loading", () => {
  test("names, ids, stops and templates of a folder", async () => {
    await cp(join(fixtures, "qwen2"), join(dir, "q"), { recursive: true });
    await writeFile(join(dir, "q/chat_template.jinja"), "JINJA");
    await writeFile(join(dir, "q/generation_config.json"), '{"eos_token_id": [1191, 999999, -1, 4294967296]}');
    const t = await loadTokenizer(join(dir, "q"));
    expect(t.chatTemplate()).toBe("JINJA");
    expect(t.eosToken).toBe("<|im_end|>");
    expect(t.eosId).toBe(t.tokenToId("<|im_end|>"));
    expect(t.stopTokens).toEqual(["<|im_end|>", t.idToToken(1191)]);
    expect(t.vocabSize).toBe(1200);
    expect([t.idToToken(1191), t.idToToken(1200), t.idToToken(-1), t.tokenToId("nothing")]).toEqual(["<|endoftext|>", null, null, null]);
  });

  test.each([
    ["generation_config.json", { eos_token_id: "1" }, /eos_token_id must be a token id or a list of them, found "1"$/],
    ["generation_config.json", { eos_token_id: [1, null] }, /eos_token_id must be .*, found \[1,null\]$/],
    ["tokenizer_config.json", { add_bos_token: "true" }, /add_bos_token must be true or false, found "true"$/],
    ["tokenizer_config.json", { chat_template: 5 }, /chat_template must be a text or a list of objects with name and template, found 5$/],
    ["tokenizer_config.json", { chat_template: [{ name: "default" }] }, /chat_template must be/],
    ["chat_template.json", { chat_template: {} }, /chat_template must be/],
  ])("what has no meaning in %s is refused: %o", async (name, content, message) => {
    const folder = join(dir, `bad${made++}`);
    await cp(join(fixtures, "qwen2"), folder, { recursive: true });
    await writeFile(join(folder, name), JSON.stringify(content));
    await expect(loadTokenizer(folder)).rejects.toMatchObject({ code: "ERR_CONFIG", message: expect.stringMatching(message) as string });
  });

  test("tokens as text or object, from special_tokens_map.json where tokenizer_config.json has none", async () => {
    const folder = join(dir, "map");
    await cp(join(fixtures, "qwen2"), folder, { recursive: true });
    await writeFile(join(folder, "tokenizer_config.json"), '{"eos_token": {"content": "<|im_end|>"}, "bos_token": null}');
    await writeFile(join(folder, "special_tokens_map.json"), '{"bos_token": "<|im_start|>", "pad_token": "<|im_start|>"}');
    const t = await loadTokenizer(folder);
    expect([t.bosToken, t.eosToken, t.padToken]).toEqual([null, "<|im_end|>", "<|im_start|>"]);
    await writeFile(join(folder, "tokenizer_config.json"), '{"eos_token": 7}');
    await expect(loadTokenizer(folder)).rejects.toThrow(/tokenizer_config.json: eos_token must be a text/);
  });

  test("templates by name, the one for tools where there are tools", async () => {
    const two = [
      { name: "default", template: "D" },
      { name: "tool_use", template: "T" },
    ];
    const t = await make({}, { chat_template: two });
    expect([t.chatTemplate(), t.chatTemplate(undefined, true), t.chatTemplate("default", true), t.chatTemplate("rag")]).toEqual([
      "D",
      "T",
      "D",
      null,
    ]);
    expect((await make({}, { chat_template: "D" })).chatTemplate(undefined, true)).toBe("D");
    await mkdir(join(t.dir, "additional_chat_templates"));
    await writeFile(join(t.dir, "additional_chat_templates/rag.jinja"), "R");
    await writeFile(join(t.dir, "chat_template.json"), '{"chat_template": "J"}');
    const more = await loadTokenizer(t.dir);
    expect(Object.fromEntries(more.chatTemplates)).toEqual({ default: "J", tool_use: "T", rag: "R" });
  });

  test("a missing folder, a missing file", async () => {
    await expect(loadTokenizer(join(dir, "none"))).rejects.toThrow(IoError);
    await expect(loadTokenizer(dir)).rejects.toThrow(/no tokenizer.json.*save_pretrained/);
  });

  test.each([
    ["truncated", '{"model": {"type": "BPE", "vo'],
    ["no JSON", "\0\x01"],
    ["a list", "[]"],
    ["an empty object", "{}"],
    ["too deep", `{"model": ${"[".repeat(100_000)}${"]".repeat(100_000)}}`],
    ["a model of the wrong type", { model: "BPE" }],
    ["an unknown model", { model: { type: "Magic" } }],
    ["an unknown normalizer", { normalizer: { type: "Other" } }],
    ["an unknown pre-tokenizer", { pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "Other" }] } }],
    ["an unknown post-processor", { post_processor: { type: "Other" } }],
    ["an unknown decoder", { decoder: { type: "Other" } }],
    ["a merge without token", { model: { type: "BPE", vocab, merges: ["a z"] } }],
    ["a negative id", { model: { type: "BPE", vocab: { a: -1 }, merges: [] } }],
    ["a broken pattern", { pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated", invert: false } }],
    ["added tokens that are none", { added_tokens: { x: 1 } }],
    ["added tokens of the wrong type", { added_tokens: [1, null] }],
  ])("%s is refused with the file's name", async (_, parts) => {
    const error: unknown = await make(parts).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).message).toMatch(/tokenizer\.json/);
    expect((error as ConfigError).where["file"]).toMatch(/tokenizer\.json$/);
  });

  // The library would end the process on each of these.
  const template = (single: object[], special_tokens: object): object => ({
    post_processor: { type: "TemplateProcessing", single, pair: [], special_tokens },
  });
  test.each([
    [
      "normalizer.normalizers.0",
      { normalizer: { type: "Sequence", normalizers: [{ type: "Precompiled", precompiled_charsmap: "AAAA" }] } },
    ],
    ["normalizer", { normalizer: { type: "Precompiled", precompiled_charsmap: Buffer.alloc(1028).toString("base64") } }],
    ["normalizer", { normalizer: { type: "Precompiled" } }],
    ["pre_tokenizer", { pre_tokenizer: { type: "FixedLength", length: 0 } }],
    ["post_processor", template([{ SpecialToken: { id: "<s>", type_id: 0 } }], {})],
    ["post_processor", template([{ Sequence: { id: "B", type_id: 0 } }], {})],
    ["decoder", { decoder: { type: "Strip", content: "a", start: 0, stop: 2 } }],
    ["model", { model: { type: "BPE", vocab, merges: ["a b"], continuing_subword_prefix: "##" } }],
    ["model", { model: { vocab, merges: [["a", "b"]], continuing_subword_prefix: "##" } }],
    [
      "added_tokens",
      { normalizer: { type: "Strip", strip_left: true, strip_right: true }, added_tokens: [added(5, " ", { normalized: true })] },
    ],
  ])("contradictions in %s are refused before the library sees them (%#)", async (key, parts) => {
    const error: unknown = await make(parts).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).where["key"]).toBe(key);
  });

  test("a whole character map is none of them", async () => {
    const map = Buffer.alloc(4 + 1024 + 1);
    map.writeUInt32LE(1024, 0);
    const t = await make({ normalizer: { type: "Precompiled", precompiled_charsmap: map.toString("base64") } });
    expect(await t.encode("abc")).toEqual([3, 2]);
  });

  test("parts that multiply a text without end are refused, as often as published files have them they are not", async () => {
    const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
    const sequence = (n: number): object => ({ pre_tokenizer: { type: "Sequence", pretokenizers: new Array<object>(n).fill(byteLevel) } });
    await expect(make(sequence(100))).rejects.toThrow(/pretokenizers\.4 \(ByteLevel\) and the parts before it make a text more than 256/);
    await expect(make(sequence(2))).resolves.toBeDefined();
    const replace = { type: "Replace", pattern: { String: "a" }, content: "aa" };
    const doubling = { type: "Sequence", normalizers: new Array<object>(40).fill(replace) };
    await expect(make({ normalizer: doubling })).rejects.toThrow(/normalizers\.8 \(Replace\) and the parts before it/);
    await expect(make({ decoder: { type: "Sequence", decoders: new Array<object>(40).fill(replace) } })).rejects.toThrow(/decoders\.8/);
  });

  test("what would give other ids is refused", async () => {
    const bert = { type: "BertProcessing", sep: ["a", 0], cls: ["b", 1] };
    const template = {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "a", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }],
    };
    const known = (ids: number[]): object => ({ ...template, special_tokens: { a: { id: "a", ids, tokens: ["a"] } } });
    const both = { type: "Sequence", processors: [bert, known([0])] };
    expect(await (await make({ post_processor: both })).encodeRaw("c")).toEqual([0, 1, 2, 0]);
    for (const post_processor of [
      { ...bert, sep: ["a", 9] },
      { ...bert, cls: ["zz", 1] },
      known([9]),
      { ...both, processors: [known([1])] },
    ])
      await expect(make({ post_processor })).rejects.toThrow(/post_processor adds the token "(a|zz)" with id [19], which has id (0|none)/);
    await expect(make({ added_tokens: [added(9, "ab")] })).rejects.toThrow(/"ab" has id 9, but the library gives it 3/);
    await expect(make({ added_tokens: [added(9, "new")] })).rejects.toThrow(/"new" has id 9, but the library gives it 5/);
    await expect(make({}, { eos_token: "</s>" })).rejects.toThrow(/eos_token is "<\/s>"/);
    await expect(make({ model: { type: "BPE", vocab, merges: [], dropout: 0.1 } })).rejects.toThrow(/random/);
  });

  test("a tokenizer larger than the model names a token", async () => {
    const t = await loadTokenizer(join(fixtures, "qwen2"));
    expect(() => assertVocabulary(t, 1200)).not.toThrow();
    expect(() => assertVocabulary(t, 1198)).toThrow(/has id 1199, but the model's vocab_size is 1198/);
    const holes = await make({ model: { type: "BPE", vocab: { a: 0, b: 70 }, merges: [] } });
    expect(holes.vocabSize).toBe(71);
    const unigram = { type: "Unigram", unk_id: 0, vocab: [["<unk>", 0], ["a", -1]] }; // prettier-ignore
    expect((await make({ model: unigram, added_tokens: [added(2, "<s>")] })).vocabSize).toBe(3);
  });
});

describe("without a binary", () => {
  afterEach(() => {
    vi.doUnmock("tokenizers");
    vi.resetModules();
  });

  test("the package loads, and a tokenizer says what is missing", async () => {
    vi.resetModules();
    vi.doMock("tokenizers", () => {
      throw new Error("Cannot find native binding.");
    });
    const { loadTokenizer: load } = await import("../../lib/index.ts");
    await expect(load(join(fixtures, "qwen2"))).rejects.toThrow(/no binary that loads on .*npm install tokenizers/);
  });
});

describe("encoding", () => {
  test("BOS of raw text only where it is asked for and missing", async () => {
    const bos = { added_tokens: [added(5, "<s>")] };
    const post_processor = {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }],
      special_tokens: { "<s>": { id: "<s>", ids: [5], tokens: ["<s>"] } },
    };
    expect(await (await make(bos, { bos_token: "<s>" })).encodeRaw("a")).toEqual([0]);
    expect(await (await make(bos, { bos_token: "<s>", add_bos_token: true })).encodeRaw("a")).toEqual([5, 0]);
    const twice = await make({ ...bos, post_processor }, { bos_token: "<s>", add_bos_token: true });
    expect(await twice.encodeRaw("a")).toEqual([5, 0]);
    expect(await twice.encode("a")).toEqual([0]);
    expect(await twice.encode("a", { addSpecialTokens: true })).toEqual([5, 0]);
  });

  test("truncation and padding of the file do not count", async () => {
    const truncation = { max_length: 1, strategy: "LongestFirst", stride: 5, direction: "Right" };
    const padding = { strategy: { Fixed: 9 }, direction: "Right", pad_to_multiple_of: null, pad_id: 0, pad_type_id: 0, pad_token: "a" };
    expect(await (await make({ truncation, padding })).encode("abcc")).toEqual([3, 2, 2]);
  });

  test("lone surrogates are refused, pairs are not", async () => {
    const t = await loadTokenizer(join(fixtures, "qwen2"));
    for (const text of ["a\ud83d", "\ude00b", "\ude00\ud83d"]) {
      const error: unknown = await t.encode(text).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(DataError);
      expect((error as DataError).where["rule"]).toBe("surrogate");
    }
    expect(t.decode(await t.encode("😀"))).toBe("😀");
  });

  test("a text so long that the library might end the process is refused", async () => {
    const t = await make();
    await expect(t.encode("a".repeat(2 ** 22 + 1))).rejects.toThrow(/4194305 characters, expected at most 4194304; split it/);
  });

  test("a failure of the library names the file", async () => {
    const t = await make({ model: { type: "WordLevel", vocab: { a: 0 }, unk_token: "<none>" } });
    const error: unknown = await t.encode("z").catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).message).toMatch(/tokenizer\.json: the tokenizers library cannot encode.*UNK/);
  });

  test("a document without a pre-tokenizer is not quadratic", async () => {
    const t = await loadTokenizer(join(fixtures, "mixtral"));
    const text = "The model runs. ".repeat(20_000); // one word of 320,000 characters
    const begin = performance.now();
    expect(t.decode(await t.encode(text))).toBe(text);
    expect(performance.now() - begin).toBeLessThan(5000);
  });
});

describe("decoding", () => {
  test("nothing, unknown ids, special tokens, clean-up of spaces", async () => {
    const t = await loadTokenizer(join(fixtures, "deepseek-v2"));
    expect(t.decode([])).toBe("");
    expect(t.decode([999_999, -1, -100, 0.5])).toBe("");
    expect(t.decode(await t.encode("do n't , no ."))).toBe("do n't , no .");
    expect(t.decode(Int32Array.from(await t.encode(`a${t.eosToken}b`)), { skipSpecialTokens: true })).toBe("ab");
    expect((await make({ decoder: null })).decode([0, 3])).toBe("a ab");
  });

  const texts = [
    "Hello, world!  Two spaces\n\n\ttab",
    " leading and trailing ",
    "数学の問題 — 你好世界，한국어 ไทย हिन्दी עברית",
    "🙂👩‍👩‍👧‍👦🇩🇪 e\u0301 ﬁ \ufffd 𠀀𪛖",
    "a\u0000b\u200d <0x41> x = 3.14 # ½",
  ];
  test.each(names)("%s: pieces of a stream are the text, whatever the number of ids", async (name) => {
    const t = await loadTokenizer(join(fixtures, name));
    for (const skipSpecialTokens of [false, true]) {
      const all = [...texts, `${t.bosToken ?? ""}${texts.join(t.eosToken ?? "")}${t.eosToken ?? ""}`];
      for (const text of all) {
        const ids = await t.encode(text);
        const stream = t.decodeStream({ skipSpecialTokens });
        let shown = "";
        for (let n = 0; n <= ids.length; n++) {
          if (n > 0) {
            const piece = stream.push(ids[n - 1]!);
            if (!text.includes("\ufffd")) expect(piece).not.toContain("\ufffd");
            expect(hasLoneSurrogate(piece)).toBe(false);
            shown += piece;
          }
          const short = t.decodeStream({ skipSpecialTokens });
          const pieces = ids.slice(0, n).map((id) => short.push(id));
          expect(pieces.join("")).toBe(shown);
          expect(pieces.join("") + short.end()).toBe(t.decode(ids.slice(0, n), { skipSpecialTokens }));
        }
        expect(shown + stream.end()).toBe(t.decode(ids, { skipSpecialTokens }));
        expect(stream.end()).toBe("");
      }
    }
  });

  test("a stream shows plain text at once", async () => {
    const t = await loadTokenizer(join(fixtures, "qwen2"));
    const stream = t.decodeStream();
    for (const id of await t.encode("plain words, one by one")) expect(stream.push(id)).not.toBe("");
  });
});
