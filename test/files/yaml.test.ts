// YAML of options: keys and values, the lines of keys, and what is refused. No GPU, no addon.
// Alone: npx vitest run test/files/yaml.test.ts

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readYaml } from "../../lib/files/yaml.ts";
import { scratch } from "../cli/support.ts";

const file = join(scratch(), "options.yaml");
const read = (text: string) => {
  writeFileSync(file, text);
  return readYaml(file);
};

describe("the line of a key", () => {
  it.each([
    ["a top one", ["steps"], 2],
    ["one below", ["data", "file"], 4],
    ["one of an item in a list", ["list", "1", "name"], 8],
    ["an item", ["list", "0"], 6],
    ["one in braces", ["list", "2", "deep", "er"], 10],
    ["one that is a number", ["list", "2", "3"], 11],
    ["the deepest that is there", ["data", "fiel", "x"], 3],
    ["one of a list that is shorter", ["list", "7"], 5],
    ["none that is there", ["nothing"], null],
  ])("%s", async (_, path, line) => {
    const text = "model: m\nsteps: 3\ndata:\n  file: a\nlist:\n  - name: x\n  -\n    name: y\n  - deep:\n      {er: 1}\n    3: z\n";
    const { value, lineOf } = await read(text);
    expect(value).toMatchObject({ steps: 3, list: [{ name: "x" }, { name: "y" }, { deep: { er: 1 } }] });
    expect(lineOf(path)).toBe(line);
  });

  it("is known in JSON too", async () => {
    const { lineOf } = await read('{\n  "a": {\n    "b": 1\n  }\n}\n');
    expect(lineOf(["a", "b"])).toBe(3);
  });
});

it.each([
  ["what is no YAML", "a: [1\nb: 2", /options\.yaml: not YAML: .*line/],
  ["a tag that nobody knows", "a: !mine 3", /options\.yaml: not YAML: /],
  ["a list", "- a\n", /options\.yaml: expected keys and values, found \["a"\]/],
  ["nothing", "", /options\.yaml: expected keys and values, found null/],
])("%s is refused", async (_, text, words) => {
  await expect(read(text)).rejects.toMatchObject({ code: "ERR_CONFIG", message: expect.stringMatching(words) });
});
