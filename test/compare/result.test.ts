// compare.json and compare.times.json: what is written is read again, and what is none of ours is refused. No GPU.
// Alone: npx vitest run test/compare/result.test.ts

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { readComparison, writeComparison } from "../../lib/compare/result.ts";
import { scratch } from "../cli/support.ts";
import { sample } from "./sample.ts";

const dir = scratch();
const file = join(dir, "compare.json");

it("is read as it was written", async () => {
  await writeComparison(dir, sample);
  expect(await readComparison(dir)).toEqual(sample);
});

it.each([
  ["a key that is not ours", { more: 1 }, /compare\.json: .*more/],
  ["another version", { version: 2 }, /compare\.json: version: /],
  ["no cells", { cells: null }, /compare\.json: cells: /],
])("%s is refused by name", async (_, wrong, words) => {
  await writeComparison(dir, sample);
  writeFileSync(file, JSON.stringify({ ...(JSON.parse(readFileSync(file, "utf8")) as object), ...wrong }));
  await expect(readComparison(dir)).rejects.toMatchObject({ code: "ERR_LAYOUT", message: expect.stringMatching(words) });
});

it("a directory without one is an error that names it", async () => {
  await expect(readComparison(join(dir, "none"))).rejects.toMatchObject({
    code: "ERR_IO",
    message: expect.stringContaining("compare.json"),
  });
});
