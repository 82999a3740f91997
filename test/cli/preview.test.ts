// `esft preview`: what of the rows is trained, which are bad, and what the template leaves out. No GPU.
// Run alone: npx vitest run test/cli/preview.test.ts

import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { cli, scratch, writeRows } from "./support.ts";

const root = scratch();
const at = (...parts: string[]): string => join(root, ...parts);
const [model, data] = [at("model"), at("rows.jsonl")];

beforeAll(async () => {
  await writeTinyModel(model, tinyDeepseek);
  writeRows(data);
});

describe("preview", () => {
  it("preview shows what is trained; --lint finds bad rows and fails", async () => {
    const { out } = await cli(["preview", model, data, "-n", "1"]);
    expect(out).toMatch(/line 1 \(messages\): \d+ tokens, \d+ trained/);
    expect(out).toMatch(/^ {2}· .*<\|assistant\|>/m);
    const bad = writeRows(at("bad.jsonl"), [...toyRows(2), { messages: [{ role: "wizard", content: "x" }] }, { text: 1 }]);
    const lint = await cli(["preview", model, bad, "--lint", "--json", "-n", "0"]);
    expect(lint.code).toBe(1);
    expect(JSON.parse(lint.out).report).toMatchObject({ rows: 4, good: 2, bad: 2 });
  });

  it("--lint reads every row, counts every kind of fault and lists the first; without a usable row it is an error", async () => {
    const wizard = { messages: [{ role: "wizard", content: "x" }] };
    const bad = writeRows(at("bad300.jsonl"), [...Array.from({ length: 150 }, () => [wizard, { text: 1 }]).flat(), ...toyRows(2)]);
    const { code, out } = await cli(["preview", model, bad, "--lint", "-n", "0"]);
    const lines = out.trimEnd().split("\n");
    expect([code, lines[0], lines.length]).toEqual([1, "302 rows: 2 usable, 300 not (150 role, 150 unknown-shape)", 22]);
    expect(lines[1]).toMatch(/bad300\.jsonl:1: .*unknown role "wizard".* \[role\]$/);
    expect(lines.at(-1)).toBe("  … and 280 more bad rows (--errors 300 lists them all)");
    expect((await cli(["preview", model, bad, "--lint", "-n", "0", "--errors", "300"])).out.trimEnd().split("\n")).toHaveLength(301);
    const empty = writeRows(at("empty.jsonl"), []);
    for (const [file, more, words] of [
      [empty, ["--lint"], "no usable row (0 rows, 0 bad)"],
      [empty, [], "no usable row (0 rows, 0 bad)"],
      [writeRows(at("worse.jsonl"), [wizard]), ["--lint"], "no usable row (1 rows, 1 bad)"],
      [at("worse.jsonl"), ["--on-bad-row", "skip"], "no usable row (1 rows, 1 bad)"],
    ] as const) {
      const { code, err } = await cli(["preview", model, file, ...more]);
      expect([code, err]).toEqual([1, `error [ERR_DATA]: ${file}: ${words}\n`]);
    }
    const fine = await cli(["preview", model, data, "--lint", "-n", "0"]);
    expect([fine.code, fine.out]).toEqual([0, "60 rows: 60 usable, 0 not\n"]);
  });

  it("preview shows as many tokens of a row as one wants", async () => {
    const long = writeRows(at("long.jsonl"), [{ prompt: "a b c d e f g h i j".repeat(100), completion: "k" }]);
    expect((await cli(["preview", model, long])).out).toMatch(/… \d+ tokens are not shown, 0 of them trained/);
    expect((await cli(["preview", model, long, "--max-tokens", "0"])).out).not.toContain("not shown");
  });

  it("a row of which the template drops tool calls is refused, or counted", async () => {
    const call = { role: "assistant", content: null, tool_calls: [{ type: "function", function: { name: "f", arguments: "{}" } }] };
    const rows = writeRows(at("calls.jsonl"), [...toyRows(1), { messages: [{ role: "user", content: "x" }, call] }]);
    const refused = await cli(["preview", model, rows, "-n", "0", "--lint"]);
    expect([refused.code, refused.out]).toEqual([
      1,
      expect.stringMatching(/calls\.jsonl:2: .*the chat template leaves out messages\[1\]\.tool_calls.*onDropped to "allow"/),
    ]);
    const train = [
      "train",
      "--model",
      model,
      "--data",
      rows,
      "--method",
      "full",
      "--out",
      at("dropped"),
      "--steps",
      "1",
      "--max-length",
      "64",
      "--eval-fraction",
      "0",
    ];
    const [stopped, trained] = [await cli(train), await cli([...train, "--on-dropped", "allow"])];
    expect([stopped.code, stopped.err]).toEqual([1, expect.stringMatching(/calls\.jsonl:2: .*leaves out messages\[1\]\.tool_calls/)]);
    expect([trained.code, trained.err]).toEqual([
      0,
      expect.stringMatching(/^warning: .*calls\.jsonl: 1 of 2 rows are trained without the messages, tool calls or tools/m),
    ]);
    const counted = await cli(["preview", model, rows, "-n", "0", "--lint", "--on-dropped", "allow"]);
    expect([counted.code, counted.out]).toEqual([0, "2 rows: 2 usable, 0 not\nrows with warnings: 1 dropped, 1 adapted\n"]);
  });
});
