// Tokenizers, chat templates, loss masks, ESFT packing and dataset rows against fixtures made by Hugging Face's libraries and by
// deepseek-ai/ESFT itself: a part of them is in test/fixtures/text, all of them in the shared reference folder when it is there.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { textRows } from "../golden/text.ts";

const shared = join(process.env["ESFT_SHARED"] ?? "../shared", "golden/text");

async function check(dir: string): Promise<{ names: string[]; compared: number; failures: string[] }> {
  const rows = textRows(dir);
  const reports = await Promise.all(rows.map(async ({ name, check }) => ({ name, ...(await check()) })));
  return {
    names: rows.map(({ name }) => name),
    compared: reports.reduce((n, r) => n + r.compared, 0),
    failures: reports.flatMap((r) => r.failures.map((f) => `${r.name} ${f}`)),
  };
}

describe("text fixtures", () => {
  test("in the repository", async () => {
    const { compared, failures } = await check("test/fixtures/text");
    expect(failures).toEqual([]);
    expect(compared).toBeGreaterThan(2600);
  });

  test.skipIf(!existsSync(shared))(`in ${shared}`, { timeout: 60_000 }, async () => {
    const { names, failures } = await check(shared);
    expect(failures).toEqual([]);
    expect(names).toEqual(expect.arrayContaining(["masks.json", "esft_packing.json", "datasets.json"]));
  });
});
