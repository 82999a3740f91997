// Tokenizers, chat templates, loss masks, ESFT packing and dataset rows against fixtures made by Hugging Face's libraries and by
// deepseek-ai/ESFT itself: a part of them is in test/fixtures/text, all of them in the shared reference folder when it is there.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { checkTextGolden } from "../../scripts/check-text-golden.ts";

const shared = join(process.env["ESFT_SHARED"] ?? "../shared", "golden/text");

describe("text fixtures", () => {
  test("in the repository", async () => {
    const rows = await checkTextGolden("test/fixtures/text");
    expect(rows.flatMap((r) => r.failures.map((f) => `${r.name} ${f}`))).toEqual([]);
    expect(rows.reduce((n, r) => n + r.compared, 0)).toBeGreaterThan(3000);
  });

  test.skipIf(!existsSync(shared))(`in ${shared}`, { timeout: 60_000 }, async () => {
    const rows = await checkTextGolden(shared);
    expect(rows.flatMap((r) => r.failures.map((f) => `${r.name} ${f}`))).toEqual([]);
    expect(rows.map((r) => r.name)).toEqual(expect.arrayContaining(["masks.json", "esft_packing.json", "datasets.json"]));
  });
});
