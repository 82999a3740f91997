// Checks the committed tokenizer of the embedded model: it is what the trainer produces, it round-trips any text, its chat
// template is prefix-stable, and the corpus encoder agrees with the template and the whole text's ids. Needs no GPU.
//   npx vitest run test/examples/tokenizer.test.ts
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "tokenizers";
import { describe, expect, it } from "vitest";
import { pretokenize, trainBpe } from "../../examples/pretrain/bpe.ts";
import { CHAT_TEMPLATE, SPECIALS } from "../../examples/pretrain/chat_format.ts";
import { DOMAINS, generate } from "../../examples/pretrain/domains/index.ts";
import { rowEncoder } from "../../examples/pretrain/encode_row.ts";
import { TASKS } from "../../examples/pretrain/tasks/index.ts";

const FOLDER = fileURLToPath(new URL("../../examples/embedded", import.meta.url));
const read = <T>(name: string): T => JSON.parse(readFileSync(join(FOLDER, name), "utf8")) as T;
const json = read<{ model: { vocab: Record<string, number>; merges: [string, string][] } }>("tokenizer.json");
const tokenizerConfig = read<{ chat_template: string; bos_token: string; eos_token: string }>("tokenizer_config.json");
const tokenizer = Tokenizer.fromFile(join(FOLDER, "tokenizer.json"));
const encode = async (text: string, addSpecialTokens = false): Promise<number[]> =>
  (await tokenizer.encode(text, null, { addSpecialTokens })).getIds();
const decode = (ids: number[]): Promise<string> => tokenizer.decode(ids, false);
const template = new Template(CHAT_TEMPLATE);
const render = (messages: readonly { role: string; content: string }[], prompt = false): string =>
  template.render({ messages, add_generation_prompt: prompt, bos_token: tokenizerConfig.bos_token, eos_token: tokenizerConfig.eos_token });

describe("trainBpe", () => {
  it("merges the most frequent pair first, ties to the lower ids", () => {
    const { tokens, merges } = trainBpe(
      new Map([
        ["abab", 3],
        ["cd", 6],
        ["xy", 1],
      ]),
      { specials: ["<s>"], vocabSize: 259 },
    );
    expect(merges).toEqual([
      ["a", "b"],
      ["c", "d"],
    ]);
    expect(tokens.slice(0, 1)).toEqual(["<s>"]);
    expect(tokens.slice(257)).toEqual(["ab", "cd"]);
  });
  it("says when the text is too small for the vocabulary", () => {
    expect(() => trainBpe(new Map([["ab", 2]]), { specials: [], vocabSize: 300 })).toThrow(/pairs for 257 tokens only, expected 300/);
  });
  it("splits digits singly, Chinese characters singly, words with their space", () => {
    expect(pretokenize("see 105 cats\n  今天好!")).toEqual(["see", " ", "1", "0", "5", " cats", "\n  ", "今", "天", "好", "!"]);
  });
});

describe("the embedded tokenizer", () => {
  it("has 2048 tokens with the special ones first and the chat template of the corpus", async () => {
    expect(Object.keys(json.model.vocab)).toHaveLength(2048);
    expect(Object.values(json.model.vocab).toSorted((a, b) => a - b)).toEqual(Array.from({ length: 2048 }, (_, id) => id));
    expect(SPECIALS.map((token) => json.model.vocab[token])).toEqual([0, 1, 2, 3, 4, 5]);
    expect(tokenizerConfig.chat_template).toBe(CHAT_TEMPLATE);
    expect((await encode("a", true))[0]).toBe(1);
  });

  it("gives back any text", async () => {
    const texts = [
      " ",
      "\n\n\n  x",
      " \t\r\nx",
      "it's don't",
      "12345 6.78e-9 ٣٤٥ ½ Ⅷ",
      "e\u0301 é ﬁ",
      "中文abc中 文。，！",
      "かな カナ 한국어",
      "🙂👩‍👩‍👧‍👦 🇩🇪",
      "\ufeffx \ufeff y",
      "a\u0085b\u00a0c\u3000d\u200be",
      "<|user|>hi<|end|><|user |>",
      "\u0000\u0001\u007f",
      "עברית العربية ไทย हिन्दी",
      "a   b    c\n   d",
      "𠀀𪛖 㐀 鿿 一",
      "x\u2028y\u2029z",
      "ÄÖÜß ẞ ſ",
    ];
    for (const text of texts) expect(await decode(await encode(text))).toBe(text);
    for (const { name } of [...DOMAINS, ...TASKS]) {
      for (const row of generate(name, 5, 20)) {
        const text = "text" in row ? row.text : render(row.messages);
        expect(await decode(await encode(text))).toBe(text);
      }
    }
  });

  it("renders conversations so that every prefix stays, and refuses unknown roles", () => {
    const messages = [
      { role: "user", content: "one" },
      { role: "assistant", content: " two\n" },
      { role: "user", content: "" },
      { role: "assistant", content: "four" },
    ];
    expect(render(messages)).toBe("<|bos|><|user|>one<|end|><|assistant|> two\n<|end|><|user|><|end|><|assistant|>four<|end|>");
    for (const i of [1, 3]) {
      const [prompt, through] = [render(messages.slice(0, i), true), render(messages.slice(0, i + 1))];
      expect(through.startsWith(prompt)).toBe(true);
      expect(render(messages).startsWith(through)).toBe(true);
    }
    expect(() => render([{ role: "tool", content: "x" }])).toThrow(/roles are system, user and assistant; found tool/);
  });

  it("encodes rows as template and tokenizer do, with labels on answers only", async () => {
    const encoder = await rowEncoder(FOLDER);
    for (const { name } of [...DOMAINS, ...TASKS]) {
      for (const row of generate(name, 6, 20)) {
        const { ids, labels } = await encoder.encode(row);
        expect(labels).toHaveLength(ids.length);
        if ("text" in row) {
          expect(ids).toEqual([...(await encode(row.text, true)), 2]);
          expect(labels).toEqual(ids);
          continue;
        }
        expect(ids).toEqual(await encode(render(row.messages)));
        const answers = row.messages.filter(({ role }) => role === "assistant").map(async ({ content }) => [...(await encode(content)), 2]);
        expect(labels.filter((label) => label >= 0)).toEqual((await Promise.all(answers)).flat());
        expect((await encoder.encode(row, { learnPrompts: true })).labels.slice(1)).toEqual(ids.slice(1));
      }
    }
  });
});
