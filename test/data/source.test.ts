// Where rows come from: a file, a Dataset, Examples; what the data options do to each. No GPU.
// Alone: npx vitest run test/data/source.test.ts

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { dataArgument, encodeSource, fileOf, openTemplate } from "../../lib/data/source.ts";
import { ConfigError } from "../../lib/errors.ts";
import { dataSchema } from "../../lib/options.ts";
import { loadTokenizer } from "../../lib/text/tokenizer.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-source-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const tokenizer = () => loadTokenizer(join(import.meta.dirname, "../../examples/embedded"));
const options = dataSchema.parse({});
const rows = [{ text: "one" }, { messages: [] }, { text: "two" }];
const file = join(dir, "rows.jsonl");
writeFileSync(file, rows.map((r) => `${JSON.stringify(r)}\n`).join(""));

describe("encodeSource", () => {
  it("reads a file by the data options: shape and what to do with bad rows", async () => {
    await expect(encodeSource(file, { ...options, shape: "text" }, tokenizer)).rejects.toThrow(/1 of 3 rows cannot be used/);
    const { examples, report } = await encodeSource(file, { ...options, shape: "text", onBadRow: "skip" }, tokenizer);
    expect([examples.length, report?.bad, fileOf(examples)]).toEqual([2, 1, file]);
  });

  it("leaves a Dataset its own shape and rule", async () => {
    const dataset = Dataset.fromRows(rows, { shape: "text", onBadRow: "skip" });
    expect((await encodeSource(dataset, options, tokenizer)).examples.length).toBe(2);
    expect(fileOf(dataset)).toBeNull();
  });

  it("passes Examples as they are, and asks for no tokenizer", async () => {
    const { examples } = await encodeSource(Dataset.fromRows([{ text: "one" }], { shape: "text" }), options, tokenizer);
    const none = () => Promise.reject(new Error("no tokenizer is needed"));
    expect(await encodeSource(examples, options, none)).toEqual({ examples, report: null });
  });

  it("stops at a signal", async () => {
    const signal = AbortSignal.abort();
    await expect(encodeSource(file, { ...options, shape: "text" }, tokenizer, { signal })).rejects.toMatchObject({ code: "ERR_ABORTED" });
  });
});

describe("a source", () => {
  it("is a file, a Dataset or Examples, and nothing else", () => {
    dataArgument("rows.jsonl", "data");
    dataArgument(Dataset.fromRows([]), "data");
    const trap = new Proxy({}, { getPrototypeOf: () => { throw new Error("a trap"); } }); // prettier-ignore
    for (const value of [5, null, undefined, "", "a\0b", {}, [], trap]) {
      expect(() => dataArgument(value, "eval.data")).toThrow(ConfigError);
      expect(() => dataArgument(value, "eval.data")).toThrow(/^eval\.data: expected /);
    }
    expect(fileOf("rows.jsonl")).toBe("rows.jsonl");
  });

  it("is encoded in the room that is given, and by what is allowed to be dropped", async () => {
    const asked: number[] = [];
    const room = async (bytes: number): Promise<void> => void asked.push(bytes);
    await encodeSource(file, { ...options, shape: "text", onBadRow: "skip" }, tokenizer, { room });
    expect(asked).toHaveLength(1);
    await expect(encodeSource(5 as never, options, tokenizer)).rejects.toThrow(/^data: expected a file, a Dataset or Examples/);
    const tools = [{ type: "function" }];
    const data = Dataset.fromRows([{ prompt: "a", completion: "b", tools }]);
    await expect(encodeSource(data, { ...options, template: "esft" }, tokenizer)).rejects.toThrow(/leaves out tools/);
    const { report } = await encodeSource(data, { ...options, template: "esft", onDropped: "allow" }, tokenizer);
    expect(report?.warnings).toEqual({ dropped: 1 });
  });
});

it("a template is one of two names, or a Jinja file", async () => {
  expect([await openTemplate("tokenizer"), await openTemplate("esft")]).toEqual(["tokenizer", "esft"]);
  const path = join(mkdtempSync(join(dir, "t-")), "chat.jinja");
  await expect(openTemplate(path)).rejects.toMatchObject({ code: "ERR_IO", message: expect.stringContaining(path) as string });
  writeFileSync(path, "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}");
  const template = await openTemplate(path);
  const row = { messages: [{ role: "user", content: "a" }, { role: "assistant", content: "b" }] }; // prettier-ignore
  const [shown] = await Dataset.fromRows([row]).preview(1, { tokenizer: await tokenizer(), template });
  expect(shown?.tokens.map((t) => t.text).join("")).toBe("<user>a<assistant>b");
});
