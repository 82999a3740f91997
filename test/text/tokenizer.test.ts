import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ConfigError, DataError, IoError } from "../../lib/errors.ts";
import { assertVocabulary, loadTokenizer, Tokenizer } from "../../lib/text/tokenizer.ts";

const fixtures = "test/fixtures/text/tokenizers";
let dir: string;
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), "esft-tokenizer-"))));
afterAll(() => rm(dir, { recursive: true }));

/** A small tokenizer.json around `parts`; vocabulary a b c ab, then what `parts` adds. */
function make(parts: Record<string, unknown> = {}, config: Partial<ConstructorParameters<typeof Tokenizer>[0]> = {}): Tokenizer {
  const tokenizer = {
    model: { type: "BPE", vocab: { a: 0, b: 1, c: 2, ab: 3, "<unk>": 4 }, merges: ["a b"], unk_token: "<unk>" },
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: "Fuse" },
    ...parts,
  };
  return new Tokenizer({
    dir: "memory",
    tokenizer,
    bosToken: null,
    eosToken: null,
    padToken: null,
    addBosToken: false,
    chatTemplates: new Map(),
    stopIds: [],
    ...config,
  });
}

describe("loading", () => {
  test("names, ids, stops and templates of a folder", async () => {
    await cp(join(fixtures, "qwen2"), join(dir, "q"), { recursive: true });
    await writeFile(join(dir, "q/chat_template.jinja"), "JINJA");
    await writeFile(join(dir, "q/generation_config.json"), '{"eos_token_id": [1191, 999999]}');
    const t = await loadTokenizer(join(dir, "q"));
    expect(t.chatTemplate()).toBe("JINJA");
    expect(t.eosToken).toBe("<|im_end|>");
    expect(t.eosId).toBe(t.tokenToId("<|im_end|>"));
    expect(t.stopTokens).toContain("<|im_end|>");
    expect(t.vocabSize).toBe(1200);
  });

  test("a missing folder, a missing file, broken JSON", async () => {
    await expect(loadTokenizer(join(dir, "none"))).rejects.toThrow(IoError);
    await expect(loadTokenizer(dir)).rejects.toThrow(/no tokenizer.json.*save_pretrained/);
    await cp(join(fixtures, "qwen2"), join(dir, "broken"), { recursive: true });
    await writeFile(join(dir, "broken/tokenizer.json"), (await readFile(join(fixtures, "qwen2/tokenizer.json"), "utf8")).slice(0, 500));
    await expect(loadTokenizer(join(dir, "broken"))).rejects.toThrow(ConfigError);
  });

  test.each([
    ["model", { model: { type: "Magic" } }],
    ["normalizer", { normalizer: { type: "Nmt" } }],
    ["pre-tokenizer", { pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "UnicodeScripts" }] } }],
    ["post-processor", { post_processor: { type: "Other" } }],
    ["decoder", { decoder: { type: "CTC" } }],
  ])("an unknown %s is refused by name and place", (what, parts) => {
    expect(() => make(parts)).toThrow(new RegExp(`unsupported ${what}`));
  });

  test("contradictions are refused", () => {
    expect(() => make({ normalizer: { type: "Precompiled", precompiled_charsmap: "AAAA" } })).toThrow(/not a character map/);
    expect(() => make({ added_tokens: [{ id: 9, content: "ab" }] })).toThrow(/"ab" has id 9, but model.vocab says 3/);
    expect(() => make({}, { eosToken: "</s>" })).toThrow(/eos_token is "<\/s>"/);
    expect(() => make({ model: { type: "BPE", vocab: { a: 0 }, merges: ["a z"] } })).toThrow(/merges\[0\] names "z"/);
    expect(() => make({ model: { type: "BPE", vocab: { a: -1 }, merges: [] } })).toThrow(/integer/);
    expect(() => make({ model: { type: "BPE", vocab: { a: 0 }, merges: [], dropout: 0.1 } })).toThrow(/random/);
    expect(() => make({ pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated" } })).toThrow(ConfigError);
  });

  test("a tokenizer larger than the model names the first token", async () => {
    const t = await loadTokenizer(join(fixtures, "qwen2"));
    expect(() => assertVocabulary(t, 1200)).not.toThrow();
    expect(() => assertVocabulary(t, 1198)).toThrow(/has id 1198, but the model's vocab_size is 1198/);
  });
});

describe("encoding", () => {
  test("merges by rank, leftmost first; unknown characters", () => {
    const t = make();
    expect(t.encode("abcab")).toEqual([3, 2, 3]);
    expect(t.encode("azb")).toEqual([0, 4, 1]);
    expect(t.encode("zz")).toEqual([4, 4]);
    expect(
      make({ model: { type: "BPE", vocab: { a: 0, "<unk>": 4 }, merges: [], unk_token: "<unk>", fuse_unk: true } }).encode("zza"),
    ).toEqual([4, 0]);
  });

  test("flags of added tokens use Unicode white space", () => {
    const t = make({
      added_tokens: [
        { id: 5, content: "<R>", rstrip: true, special: true },
        { id: 6, content: "<L>", lstrip: true, special: true },
        { id: 7, content: "w", single_word: true, normalized: false },
      ],
    });
    expect(t.encodeTokens("<R>\u0085\u00a0a").tokens).toEqual(["<R>\u0085\u00a0", "a"]);
    expect(t.encodeTokens("<R>\ufeffa").ids).toEqual([5, 4, 0]); // a byte order mark is no white space
    expect(t.encodeTokens("a \n<L>").tokens).toEqual(["a", " \n<L>"]);
    expect(t.encode("a w b")).toEqual([0, 4, 7, 4, 1]);
    expect(t.encode("awb")).toEqual([0, 4, 1]);
  });

  test("BOS of raw text only where it is asked for and missing", () => {
    const bos = { added_tokens: [{ id: 5, content: "<s>", special: true }] };
    const adds = {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>" } }, { Sequence: { id: "A" } }],
      special_tokens: { "<s>": { ids: [5] } },
    };
    expect(make(bos, { bosToken: "<s>" }).encodeRaw("a")).toEqual([0]);
    expect(make(bos, { bosToken: "<s>", addBosToken: true }).encodeRaw("a")).toEqual([5, 0]);
    expect(make({ ...bos, post_processor: adds }, { bosToken: "<s>", addBosToken: true }).encodeRaw("a")).toEqual([5, 0]);
    expect(make({ ...bos, post_processor: adds }).encode("a")).toEqual([0]);
  });

  test("lone surrogates are refused, pairs are not", async () => {
    const t = await loadTokenizer(join(fixtures, "qwen2"));
    expect(() => t.encode("a\ud83d")).toThrow(DataError);
    try {
      t.encode("\ude00b");
    } catch (error) {
      expect((error as DataError).where["rule"]).toBe("surrogate");
    }
    expect(t.decode(t.encode("😀"))).toBe("😀");
  });

  test("a document without a pre-tokenizer is not quadratic", async () => {
    const t = await loadTokenizer(join(fixtures, "mixtral"));
    const text = "The model runs. ".repeat(20_000); // one word of 320,000 characters
    const begin = performance.now();
    expect(t.decode(t.encode(text))).toBe(text);
    expect(performance.now() - begin).toBeLessThan(5000);
  });

  test("decode: nothing, unknown ids, clean-up of spaces", async () => {
    const t = await loadTokenizer(join(fixtures, "deepseek-v2"));
    expect(t.decode([])).toBe("");
    expect(t.decode([999_999])).toBe("");
    expect(t.decode(t.encode("do n't , no ."))).toBe("do n't , no .");
  });
});
