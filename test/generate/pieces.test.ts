// Pieces of text from ids one by one: together the decoded ids, whatever the ids are; whole characters; bounded work per id. Over the
// tokenizers of the fixtures, the embedded model's, and (where it is there) ../shared.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { Pieces } from "../../lib/generate/pieces.ts";
import { hasLoneSurrogate } from "../../lib/text/python_text.ts";
import { loadTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";
import { Random } from "../fuzz/random.ts";

const shared = join(process.env["ESFT_SHARED"] ?? join(import.meta.dirname, "../../../shared"), "golden/text/tokenizers");
const own = join(import.meta.dirname, "../fixtures/text/tokenizers");
const root = existsSync(shared) ? shared : own;
const folders = [
  ["embedded", join(import.meta.dirname, "../../examples/embedded")] as const,
  ...readdirSync(root).map((name) => [name, join(root, name)] as const),
];

const texts = [
  "Hello, world!  Two spaces\n\n\ttab",
  " leading and trailing ",
  "数学の問題 — 你好世界，한국어 ไทย हिन्दी עברית ᎠᏂᏲᏍᎩ",
  "🙂👩‍👩‍👧‍👦🇩🇪 e\u0301 ﬁ \ufffd 𠀀𪛖",
  "a\u0000b\u200d <0x41> x = 3.14 # ½ \ufffd\ufffd",
  "",
];

const idsOf = (t: Tokenizer): number[] => Array.from({ length: t.vocabSize }, (_, id) => id);

function pieces(t: Tokenizer, ids: readonly number[], skipSpecialTokens: boolean): string[] {
  const stream = new Pieces(t, { skipSpecialTokens });
  return [...ids.map((id) => stream.push(id)), stream.end()];
}

describe.each(folders)("%s", (_, folder) => {
  test("pieces of text are the decoded ids, in whole characters", async () => {
    const t = await loadTokenizer(folder);
    const all = [...texts, `${t.bosToken ?? ""}${texts.join(t.eosToken ?? "")}${t.eosToken ?? ""}`];
    for (const text of all)
      for (const skip of [false, true]) {
        const ids = await t.encode(text);
        const out = pieces(t, ids, skip);
        expect(out.join("")).toBe(t.decode(ids, { skipSpecialTokens: skip }));
        expect(out.some(hasLoneSurrogate)).toBe(false);
        if (!text.includes("\ufffd")) expect(out.join("")).not.toContain("\ufffd");
      }
  });

  test("pieces of any ids are the decoded ids", async () => {
    const t = await loadTokenizer(folder);
    const ofBytes = idsOf(t).filter((id) => t.decode([id]).includes("\ufffd") || t.idToToken(id)?.startsWith("<0x"));
    const special = [t.bosId, t.eosId, t.vocabSize + 5].filter((id) => id !== null);
    const random = new Random("pieces", folder.split("/").at(-1)!);
    for (let n = 0; n < 150; n++) {
      const skip = random.once(2);
      const share = 1 + random.below(6);
      const ids = Array.from({ length: 1 + random.below(120) }, () => {
        if (random.once(20)) return random.pick(special);
        return random.once(share) || ofBytes.length === 0 ? random.below(t.vocabSize) : random.pick(ofBytes);
      });
      const out = pieces(t, ids, skip);
      expect(out.join(""), ids.join(" ")).toBe(t.decode(ids, { skipSpecialTokens: skip }));
      expect(out.some(hasLoneSurrogate)).toBe(false);
    }
  });

  test("what goes on from a prompt is the rest of the whole text", async () => {
    const t = await loadTokenizer(folder);
    for (const text of texts.filter((x) => !x.includes("\ufffd"))) {
      const ids = await t.encode(`Once ${text}${text} end`);
      for (let n = 1; n < ids.length; n++) {
        const stream = new Pieces(t, { after: ids.slice(0, n), skipSpecialTokens: false });
        const whole = t.decode(ids);
        const before = t.decode(ids.slice(0, n)).replace(/\ufffd+$/, "");
        const rest = ids.slice(n).map((id) => stream.push(id)).join("") + stream.end(); // prettier-ignore
        // a prompt that ends inside a run of byte tokens is known up to where it is text
        if (whole.startsWith(before)) expect(before + rest).toBe(whole);
      }
    }
  });
});

describe("where a piece ends", () => {
  const load = (name: string): Promise<Tokenizer> => loadTokenizer(join(own, name));

  test("plain text goes out with its token, bytes with the last one of the character", async () => {
    const t = await load("qwen2");
    const stream = new Pieces(t);
    for (const id of await t.encode("plain words, one by one")) expect(stream.push(id)).not.toBe("");
    const emoji = await t.encode("𪛖");
    expect(emoji.length).toBeGreaterThan(1);
    expect(emoji.map((id) => stream.push(id))).toEqual([...emoji.slice(1).map(() => ""), "𪛖"]);
    expect(stream.end()).toBe("");
  });

  test("a run of byte tokens goes out with what follows, as text or not as a whole", async () => {
    const t = await load("mixtral");
    const bytes = [...Buffer.from("🙂")].map((b) => t.tokenToId(`<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`)!);
    const [a] = await t.encode("a");
    const stream = new Pieces(t);
    expect(bytes.map((id) => stream.push(id))).toEqual(["", "", "", ""]);
    expect(stream.push(a!)).toBe("🙂 a");
    for (const id of bytes.slice(1)) expect(stream.push(id)).toBe("");
    expect(stream.end()).toBe("\ufffd\ufffd\ufffd");
  });

  test("the space in front of the first word belongs to a text that goes on, not to one that begins", async () => {
    const t = await load("mixtral");
    const [word] = await t.encode("a"); // "▁a"
    const after = await t.encode("Hello");
    expect(new Pieces(t).push(word!)).toBe("a");
    expect(new Pieces(t, { after }).push(word!)).toBe(" a");
    expect(new Pieces(t, { after: [...after, t.eosId!] }).push(word!)).toBe(" a");
    expect(new Pieces(t, { after: [t.bosId!] }).push(word!)).toBe("a");
  });

  test("special tokens are no text, unless they are asked for", async () => {
    const t = await load("qwen2");
    expect(new Pieces(t).push(t.eosId!)).toBe("");
    expect(new Pieces(t, { skipSpecialTokens: false }).push(t.eosId!)).toBe(t.eosToken);
    expect(() => new Pieces(t).push(-1)).toThrow(/Pieces.push: id: expected a whole number >= 0, found -1/);
  });

  test("work per id is bounded: bytes without end, special tokens without end", async () => {
    for (const name of ["qwen2", "mixtral"]) {
      const t = await load(name);
      const byte = t.tokenToId("<0x80>") ?? idsOf(t).find((id) => t.decode([id]) === "\ufffd")!;
      let decoded = 0;
      const begin = process.cpuUsage();
      for (const id of [byte, t.eosId!]) {
        const stream = new Pieces(t);
        for (let n = 0; n < 20_000; n++) decoded += stream.push(id).length;
        decoded += stream.end().length;
      }
      expect(decoded).toBe(20_000);
      expect(process.cpuUsage(begin).user).toBeLessThan(10e6); // all of it again per id would be 2·10⁸ tokens
    }
  });
});
