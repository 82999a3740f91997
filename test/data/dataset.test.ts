import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AbortError, ConfigError, DataError, IoError } from "../../lib/errors.ts";
import { Dataset } from "../../lib/data/dataset.ts";
import { formatPreview } from "../../lib/data/preview.ts";
import { loadTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";

let dir: string;
let tokenizer: Tokenizer;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "esft-dataset-"));
  tokenizer = await loadTokenizer("test/fixtures/text/tokenizers/deepseek-v2");
});
afterAll(() => rm(dir, { recursive: true }));

const CHATML = {
  source:
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
};
const good = (text: string): string =>
  JSON.stringify({
    messages: [
      { role: "user", content: "Hi" },
      { role: "assistant", content: text },
    ],
  });

async function file(name: string, content: string | Buffer): Promise<string> {
  await writeFile(join(dir, name), content);
  return join(dir, name);
}

describe("files", () => {
  test("BOM, CRLF, blank lines, no last newline, long lines, invalid UTF-8", async () => {
    const long = "x".repeat(3_000_000); // longer than a read chunk
    const path = await file(
      "a.jsonl",
      Buffer.concat([
        Buffer.from(`\ufeff${good("1")}\r\n\r\n \t\n${good(long)}\nnot json\n`),
        Buffer.from([0x22, 0xff, 0x22, 10]),
        Buffer.from(good("3")),
      ]),
    );
    const seen: unknown[] = [];
    for await (const row of Dataset.fromFile(path).rows())
      seen.push(row.ok ? [row.line, row.row.shape] : [row.line, row.error.where["rule"], row.error.where["file"], row.error.where["says"]]);
    expect(seen).toEqual([
      [1, "messages"],
      [4, "messages"],
      [5, "json", path, expect.stringMatching(/^not JSON \(.+\)$/)],
      [6, "json", path, "not valid UTF-8"],
      [7, "messages"],
    ]);
  });

  test("a bad row refuses the dataset and every one is named", async () => {
    const path = await file("b.jsonl", [good("1"), "{", '{"messages": []}', '{"text": "x"}', good("2")].join("\n"));
    const error = await Dataset.fromFile(path)
      .encode({ tokenizer, template: CHATML })
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(DataError);
    expect((error as DataError).message).toMatch(
      /3 of 5 rows cannot be used[\s\S]*b\.jsonl:2: [\s\S]*b\.jsonl:3: messages: messages is empty \[empty\][\s\S]*b\.jsonl:4/,
    );
    expect((error as DataError).where).toMatchObject({ file: path, line: 2, rule: "json", bad: 3, rows: 5 });
  });

  test("onBadRow skip leaves them out and counts them", async () => {
    const path = await file("c.jsonl", [good("1"), "{", good("2")].join("\n"));
    const { examples, report } = await Dataset.fromFile(path, { onBadRow: "skip" }).encode({ tokenizer, template: CHATML });
    expect(examples.length).toBe(2);
    expect(examples.place(1)).toBe(`${path}:3`);
    expect(report).toMatchObject({ rows: 3, good: 2, bad: 1, codes: { json: 1 }, shapes: { messages: 2 } });
  });

  test("lint also finds what only the template can refuse", async () => {
    const source =
      "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}{{ messages[0].content }}{% if messages|length > 1 %}{{ messages[1].content }}{% endif %}";
    const three = JSON.stringify({
      messages: [
        { role: "user", content: "a" },
        { role: "user", content: "b" },
        { role: "assistant", content: "c" },
      ],
    });
    const path = await file("d.jsonl", `${good("1")}\n${three}\n`);
    expect((await Dataset.fromFile(path).lint()).bad).toBe(0);
    const report = await Dataset.fromFile(path).lint({ tokenizer, template: { source } });
    expect(report.codes).toEqual({ template: 1 });
    expect(report.errors[0]?.message).toMatch(/d\.jsonl:2: the chat template refuses this conversation: too long/);
    expect(report.warnings).toEqual({ "stop-untrained": 1 });
  });

  test("a missing or empty file", async () => {
    await expect(Dataset.fromFile(join(dir, "none.jsonl")).encode({ tokenizer, template: CHATML })).rejects.toThrow(IoError);
    await expect(Dataset.fromFile(await file("e.jsonl", "\n")).encode({ tokenizer, template: CHATML })).rejects.toThrow(/no usable row/);
  });

  test("reading can be stopped", async () => {
    const path = await file("f.jsonl", good("1"));
    await expect(Dataset.fromFile(path).encode({ tokenizer, template: CHATML }, { signal: AbortSignal.abort() })).rejects.toThrow(
      AbortError,
    );
  });
});

describe("rows in memory", () => {
  const rows = [{ prompt: "2+2?", completion: "4" }];

  test("labels hold the answer and its stop token; preview shows them", async () => {
    const { examples } = await Dataset.fromRows(rows).encode({ tokenizer, template: CHATML });
    const { inputIds, labels } = examples.get(0);
    const trained = Array.from(labels).filter((l) => l !== -100);
    expect(tokenizer.decode(trained)).toBe(`4${tokenizer.eosToken}`);
    expect(tokenizer.decode(inputIds)).toBe(`<user>2+2?${tokenizer.eosToken}<assistant>4${tokenizer.eosToken}`);
    const [preview] = await Dataset.fromRows(rows).preview(3, { tokenizer, template: CHATML });
    expect(formatPreview(preview!)).toMatch(/2 trained\n {2}· .*\n {2}\+ 4\|/);
  });

  test("the ESFT format", async () => {
    const { examples } = await Dataset.fromRows(rows).encode({ tokenizer, template: "esft" });
    const { inputIds, labels } = examples.get(0);
    expect(tokenizer.decode(inputIds)).toBe(`${tokenizer.bosToken}User: 2+2?\n\nAssistant: 4${tokenizer.eosToken}`);
    expect(labels[0]).toBe(tokenizer.bosId);
  });

  test("plain text only when asked for: BOS, EOS, everything supervised", async () => {
    const text = [{ text: "raw text" }];
    await expect(Dataset.fromRows(text).encode({ tokenizer })).rejects.toThrow(/\[unknown-shape\]/);
    const { examples } = await Dataset.fromRows(text, { shape: "text" }).encode({ tokenizer });
    const { inputIds, labels } = examples.get(0);
    expect(labels).toEqual(inputIds);
    expect(inputIds[0]).toBe(tokenizer.bosId);
    expect(inputIds.at(-1)).toBe(tokenizer.eosId);
    const bare = await Dataset.fromRows(text, { shape: "text" }).encode({ tokenizer, textEos: false });
    expect(bare.examples.size(0)).toBe(inputIds.length - 1);
  });

  test("a tokenizer without a chat template says what to do", async () => {
    await expect(Dataset.fromRows(rows).encode({ tokenizer })).rejects.toThrow(ConfigError);
    await expect(Dataset.fromRows(rows).encode({ tokenizer })).rejects.toThrow(/template: "esft"/);
  });

  test("null content of a tool call is adapted and counted, not printed as None", async () => {
    const call = { role: "assistant", content: null, tool_calls: [{ function: { name: "f", arguments: {} } }] };
    const { examples, report } = await Dataset.fromRows([{ messages: [{ role: "user", content: "x" }, call] }]).encode({
      tokenizer,
      template: CHATML,
      onDropped: "allow",
    });
    expect(tokenizer.decode(examples.get(0).inputIds)).not.toContain("None");
    expect(report.warnings).toEqual({ adapted: 1, dropped: 1 });
  });

  test("templates that rewrite earlier turns can be trained on the last answer", async () => {
    const source =
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token if loop.last and m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    const turns = ["a", "b", "c", "d"].map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content }));
    const data = Dataset.fromRows([{ messages: turns }]);
    await expect(data.encode({ tokenizer, template: { source } })).rejects.toThrow(
      /later messages change how it is rendered; train only the last answer/,
    );
    const { examples } = await data.encode({ tokenizer, template: { source }, trainOn: "last" });
    expect(tokenizer.decode(Array.from(examples.get(0).labels).filter((l) => l !== -100))).toBe(`d${tokenizer.eosToken}`);
  });

  test("bad options", () => {
    expect(() => Dataset.fromRows([], { onBadRow: "warn" as never })).toThrow(ConfigError);
  });
});
