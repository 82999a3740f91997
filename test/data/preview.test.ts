// Rows shown as tokens: whole characters, what is trained, and no more than one wants to read. No GPU.
// Alone: npx vitest run test/data/preview.test.ts

import { beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { formatPreview, previewTokens, type PreviewToken } from "../../lib/data/preview.ts";
import { loadTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer("examples/embedded"); // bytes where it knows no better
});

const shown = async (user: string, assistant: string) => {
  const messages = [{ role: "user", content: user }, { role: "assistant", content: assistant }]; // prettier-ignore
  const [preview] = await Dataset.fromRows([{ messages }]).preview(1, { tokenizer });
  return preview!;
};
/** A preview of tokens: "+a" is trained, "-a" is not. */
const made = (...tokens: string[]) => ({
  line: 7,
  shape: "messages" as const,
  tokens: tokens.map((t, id): PreviewToken => ({ id, text: t.slice(1), supervised: t.startsWith("+") })),
  warnings: [],
});

describe("characters of several tokens", () => {
  it("stand once, with the token that completes them; all texts together are the row", async () => {
    const preview = await shown("語🎉", "né 語 🎉");
    const texts = preview.tokens.map((t) => t.text);
    expect(texts.join("")).toBe("<|bos|><|user|>語🎉<|end|><|assistant|>né 語 🎉<|end|>");
    expect(texts.some((t) => t.includes("\ufffd"))).toBe(false);
    expect(texts.filter((t) => t === "").length).toBeGreaterThanOrEqual(3);
    expect(preview.tokens.map((t) => t.id).length).toBe(texts.length);
    const [head, ...lines] = formatPreview(preview).split("\n");
    expect(head).toBe(`row 1 (messages): ${texts.length} tokens, ${preview.tokens.filter((t) => t.supervised).length} trained`);
    expect(lines).toEqual(["  · <|bos|>|<|user|>|語|🎉|<|end|>|<|assistant|>", "  + n|é| |語| |🎉|<|end|>"]);
  });

  it("that a boundary cuts go on in the next line", () => {
    expect(
      formatPreview(made("-a", "-", "+", "+é"))
        .split("\n")
        .slice(1),
    ).toEqual(["  · a|…", "  + é"]);
  });

  it("U+FFFD of the row itself is escaped, as are controls and changes of direction", async () => {
    const preview = await shown("a\ufffd b", "c\ufffd");
    expect(preview.tokens.map((t) => t.text).join("")).toContain("c\ufffd");
    expect(formatPreview(preview)).not.toContain("\ufffd");
    expect(formatPreview(made("-\ufffd", "-\u001b[2J", "-\u009b", "-\u202e", "-\u2028", '-"', "-\n", "-\u007f", "-\ufeff"))).toContain(
      '\\ufffd|\\u001b[2J|\\u009b|\\u202e|\\u2028|\\"|\\n|\\u007f|\\ufeff',
    );
  });
});

it("tokens are those of the row, each with its text and whether it is trained", () => {
  const ids = [1, 2];
  const [bos, eos] = [tokenizer.bosToken, tokenizer.eosToken];
  expect(previewTokens({ inputIds: ids, labels: [-100, 2] }, tokenizer)).toEqual([{ id: 1, text: bos, supervised: false }, { id: 2, text: eos, supervised: true }]); // prettier-ignore
  expect(previewTokens({ inputIds: [], labels: [] }, tokenizer)).toEqual([]);
});

it("a row that ends within a character shows what its bytes are", async () => {
  const whole = await tokenizer.encode("語");
  const cut = whole.slice(0, -1);
  const tokens = previewTokens({ inputIds: cut, labels: cut }, tokenizer);
  expect(tokens.map((t) => t.text).join("")).toBe(tokenizer.decode(cut));
  expect(tokens.at(-1)!.text).not.toBe("");
});

describe("formatPreview", () => {
  const many = (n: number) => made(...Array.from({ length: n }, (_, i) => `${i % 10 === 9 ? "+" : "-"}${i}`));

  it("shows the first and the last tokens of a long row, and says how many it leaves out", async () => {
    expect(formatPreview(many(20), { maxTokens: 5 })).toBe("line 7 (messages): 20 tokens, 2 trained\n  · 0|1|2\n  … 15 tokens are not shown, 1 of them trained\n  · 18\n  + 19"); // prettier-ignore
    expect(formatPreview(many(20), { maxTokens: 1 })).toMatch(/trained\n {2}· 0\n {2}… 19 tokens are not shown, 2 of them trained$/);
    expect(() => formatPreview({ tokens: [] } as never)).toThrow(/^formatPreview: preview: expected a preview of Dataset\.preview/);
    expect(formatPreview(many(20), { maxTokens: 20 })).not.toContain("not shown");
    expect(formatPreview(many(512))).not.toContain("not shown");
    expect(formatPreview(many(513))).toContain("… 1 tokens are not shown, 0 of them trained");
    const long = await shown("word ".repeat(20_000), "z");
    expect(formatPreview(long).length).toBeLessThan(6000);
    expect(formatPreview(long)).toMatch(/… \d{5} tokens are not shown, 0 of them trained\n(.|\n)*\n {2}\+ z\|<\|end\|>$/);
  });

  it("lists warnings", () => {
    expect(formatPreview({ ...made("+a"), warnings: ["adapted", "dropped"] })).toBe("line 7 (messages): 1 tokens, 1 trained\n  + a\n  warning: adapted\n  warning: dropped"); // prettier-ignore
    expect(formatPreview(made())).toBe("line 7 (messages): 0 tokens, 0 trained");
  });
});

describe("Dataset.preview", () => {
  const row = (content: string) => ({ messages: [{ role: "user", content }, { role: "assistant", content: "" }] }); // prettier-ignore

  it("gives the first n rows; a bad one is an error or left out", async () => {
    const rows = [row("a"), { none: 1 }, row("b"), row("c")];
    expect(await Dataset.fromRows(rows).preview(0, { tokenizer })).toEqual([]);
    expect((await Dataset.fromRows(rows).preview(1, { tokenizer })).map((p) => p.line)).toEqual([1]);
    await expect(Dataset.fromRows(rows).preview(2, { tokenizer })).rejects.toThrow(/row 2: /);
    await expect(Dataset.fromRows([{ none: 1 }], { onBadRow: "skip" }).preview(2, { tokenizer })).rejects.toThrow(
      /no usable row \(1 rows, 1 bad\)/,
    );
    await expect(Dataset.fromRows([]).preview(2, { tokenizer })).rejects.toThrow(/no usable row \(0 rows, 0 bad\)/);
    const skipping = await Dataset.fromRows(rows, { onBadRow: "skip" }).preview(2, { tokenizer });
    expect(skipping.map((p) => [p.line, p.shape, p.warnings])).toEqual([[1, "messages", ["empty-answer"]], [3, "messages", ["empty-answer"]]]); // prettier-ignore
  });
});
