// esft init: a job that runs, and explains itself. Run alone: npx vitest run test/cli/init.test.ts

import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { suggestedLengths } from "../../lib/cli/init_plan.ts";
import { jobYaml } from "../../lib/cli/init_yaml.ts";
import { tinyOlmoe, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { cli, scratch, writeRows } from "./support.ts";

const root = scratch();
const at = (name: string): string => join(root, name);
beforeAll(() => writeTinyModel(at("model"), tinyOlmoe));

async function init(...args: string[]) {
  const result = await cli(["init", at("model"), "--out", at("job.yaml"), "--force", ...args]);
  return { ...result, text: existsSync(at("job.yaml")) ? readFileSync(at("job.yaml"), "utf8") : "" };
}

describe("esft init", () => {
  it("writes a job that runs as it stands, after the commands that it prints", async () => {
    const data = writeRows(at("rows.jsonl"), toyRows(80));
    const { code, out, err, text } = await init("--data", data);
    expect({ code, err }).toMatchObject({ code: 0 });
    expect(err).toMatch(/80 rows of JSONL \(80 messages\), \d+ tokens, \d+ of them trained/);
    const job = parse(text) as Record<string, Record<string, unknown>>;
    expect(job).toMatchObject({
      model: at("model"),
      data: { file: data, template: "tokenizer", maxLength: 128 },
      method: { type: "esft", profile: at("job.profile.json"), select: { score: "token", p: 0.2 } },
      evalFraction: 0.1,
      optimizer: { lr: 1e-5, schedule: "cosine" },
    });
    const lines = out.split("\n").filter((line) => line.startsWith("  esft "));
    expect(lines).toHaveLength(2);
    writeFileSync(at("job.yaml"), text.replace("outDir: out/rows", `outDir: ${at("run")}`).replace(/epochs: .*/, "steps: 2"));
    for (const line of lines) {
      const ran = await cli(line.trim().split(" ").slice(1));
      expect(ran).toMatchObject({ code: 0 });
    }
    expect(existsSync(at("run/adapter.json"))).toBe(true);
  }, 240_000); // three command lines on a busy machine

  it("says of each option what it does, and what else could stand there", async () => {
    const { text } = await init("--data", writeRows(at("rows.jsonl"), toyRows(80)));
    const lines = text.split("\n");
    expect(lines.every((line) => line.length <= 160)).toBe(true);
    for (const line of lines.filter((l) => /^ *[a-zA-Z]+: ./.test(l))) expect(lines[lines.indexOf(line) - 1]).toMatch(/^ *# ./);
    expect(text.replace(/\n *# /g, " ")).toContain("(constant | linear | cosine | wsd; default constant)");
    expect(text).toMatch(/# onOverflow: truncateRight/);
    // What is in comments is valid where it stands.
    const all = text.replace(/^( *)# ([a-zA-Z]+:(?: .*)?)$/gm, "$1$2");
    expect(parse(all)).toMatchObject({ keep: "best", earlyStop: { patience: 3 }, data: { packing: "document" } });
  });

  it("does not replace a file unless told to, and no data that it reads", async () => {
    const data = writeRows(at("rows.jsonl"));
    writeFileSync(at("mine.yaml"), "mine");
    const refused = await cli(["init", at("model"), "--data", data, "--out", at("mine.yaml")]);
    expect(refused).toMatchObject({ code: 1, err: `error [ERR_CONFIG]: ${at("mine.yaml")} is there already; --force replaces it, --out FILE names another\n` }); // prettier-ignore
    expect(readFileSync(at("mine.yaml"), "utf8")).toBe("mine");
    expect((await cli(["init", at("model"), "--data", data, "--out", data, "--force"])).err).toMatch(
      /expected an output file apart from what is read/,
    );
  });

  it.each([
    [
      "rows.txt",
      toyRows(3)
        .map((r) => JSON.stringify(r))
        .join("\n"),
      { format: "jsonl" },
    ],
    ["list.txt", JSON.stringify(toyRows(3)), { format: "json" }],
    [
      "lines.json",
      toyRows(3)
        .map((r) => JSON.stringify(r))
        .join("\n"),
      { format: "jsonl" },
    ],
    ["table.dat", "prompt,completion\na,b\nc,d\n", { format: "csv" }],
    ["plain.jsonl", '{"text": "one two"}\n{"text": "three"}\n', { shape: "text" }],
    ["table.csv", "prompt,completion\na,b\n", {}],
  ])("finds out how %s is read", async (name, content, found) => {
    writeFileSync(at(name), content);
    const { code, err, text } = await init("--data", at(name));
    expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
    const { data } = parse(text) as { data: Record<string, unknown> };
    expect({ format: data["format"], shape: data["shape"] }).toEqual({ format: undefined, shape: undefined, ...found });
  });

  it("leaves out rows that cannot be used, and says which; refuses a file of nothing else", async () => {
    writeRows(at("some.jsonl"), [...toyRows(5), { messages: "none" }]);
    const { err, text } = await init("--data", at("some.jsonl"));
    expect(err).toMatch(/1 rows? cannot be used and (?:is|are) left out; esft preview .* --lint/);
    expect(parse(text)).toMatchObject({ data: { onBadRow: "skip" } });
    expect(text).toContain("# 1 of 6 rows cannot be used, the first: ");
    rmSync(at("job.yaml"));
    writeRows(at("none.jsonl"), [{ messages: "none" }]);
    expect(await init("--data", at("none.jsonl"))).toMatchObject({
      code: 1,
      err: expect.stringMatching(/no usable row/) as string,
      text: "",
    });
  });

  it("without data names a file to put rows into", async () => {
    const { code, err, text } = await init();
    expect(code).toBe(0);
    expect(err).toMatch(/no --data: the file names train\.jsonl/);
    expect(parse(text)).toMatchObject({ data: { file: "train.jsonl", maxLength: 256 } });
  });
});

describe("suggestions", () => {
  const facts = (lengths: number[]) => ({ file: "f", askedFormat: null, format: "jsonl", askedShape: null, shapes: {}, rows: lengths.length, bad: 0, firstFault: null, lengths: lengths.sort((a, b) => a - b), tokens: lengths.reduce((a, b) => a + b, 0), trained: 1 }) as const; // prettier-ignore
  const model = { maxPositions: 4096, sparseLayers: 2, experts: 8 };
  it.each([
    [
      "many short rows",
      Array.from({ length: 10_000 }, () => 100),
      { "data.maxLength": 128, epochs: 1, rowsPerStep: 32, evalFraction: 0.02 },
    ],
    ["a long tail", [...Array.from({ length: 9990 }, () => 500), ...Array.from({ length: 10 }, () => 9000)], { "data.maxLength": 512, epochs: 1, rowsPerStep: 32 }], // prettier-ignore
    ["one row", [50], { "data.maxLength": 128, epochs: 4, rowsPerStep: 1, evalEvery: 1 }],
    ["rows longer than the model takes", [9000, 9000], { "data.maxLength": 4096 }],
  ])("for %s", (_, lengths, expected) => {
    expect(suggestedLengths(facts(lengths), model).values).toMatchObject(expected);
  });

  it("a value that YAML would misread is quoted", () => {
    const text = jobYaml([], [{ title: "t", options: [{ path: "model", value: "yes: #1" }, { path: "data.file", value: "- x" }, { path: "optimizer.lr", value: 1e-5 }] }]); // prettier-ignore
    expect(parse(text)).toEqual({ model: "yes: #1", data: { file: "- x" }, optimizer: { lr: 1e-5 } });
  });
});
