// Tokenizers, chat templates, loss masks, ESFT packing and dataset rows against fixtures made by Hugging Face's libraries and by
// deepseek-ai/ESFT itself: a part of them is in test/fixtures/text, all of them in the shared reference folder when it is there.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { textRows } from "../golden/text.ts";

const shared = join(process.env["ESFT_SHARED"] ?? "../shared", "golden/text");

/** Comparisons that each kind of row has at least, in the repository. */
const enough: Readonly<Record<string, number>> = {
  tokenizers: 340,
  templates: 35,
  "masks.json": 95,
  "esft_packing.json": 50,
  "datasets.json": 90,
};

describe("text fixtures in the repository", () => {
  const rows = textRows("test/fixtures/text");

  test.each(rows)("$name", async ({ name, check }) => {
    const { compared, failures } = await check();
    expect(failures).toEqual([]);
    expect(compared).toBeGreaterThanOrEqual(enough[name.split("/")[0]!]!);
  });

  test("are of every kind", () => {
    expect(new Set(rows.map(({ name }) => name.split("/")[0]))).toEqual(new Set(Object.keys(enough)));
  });
});

describe.skipIf(!existsSync(shared))(`text fixtures in ${shared}`, () => {
  const rows = existsSync(shared) ? textRows(shared) : [];

  test.each(rows)("$name", { timeout: 60_000 }, async ({ check }) => {
    expect((await check()).failures).toEqual([]);
  });

  test("are whole", () => {
    expect(rows.map(({ name }) => name)).toEqual(expect.arrayContaining(["masks.json", "esft_packing.json", "datasets.json"]));
  });
});
