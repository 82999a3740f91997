// Structured fuzzing of every format that esft reads, as much as CI has time for: each case is refused in our words or understood as it
// is meant, within bounds of time and memory. On and on: npm run fuzz. No GPU. Alone: npx vitest run test/fuzz/fuzz.test.ts

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { formats } from "./formats/index.ts";
import { Watch } from "./watch.ts";
import type { Found } from "./worker.ts";

const CASES = 2000;
const seed = Number(process.env.ESFT_FUZZ_SEED ?? 1);

const watch = new Watch();
afterAll(() => watch.dispose());

describe(`seed ${seed}`, () => {
  it.each(formats.map((f) => f.name))(
    "%s",
    async (format) => {
      const found: Found[] = [];
      const task = { format, seed, from: 0, to: CASES };
      const { cases, ends } = await watch.run(task, (f) => found.push(f));
      const [first] = found;
      const { folder, found: least } = first ? await watch.shrink(task, first) : {};
      expect(
        least && { ...least, files: undefined, folder, again: `npm run fuzz -- --only ${format} --seed ${seed} --case ${first!.index}` },
      ).toBeUndefined();
      expect(found).toEqual([]);
      expect(cases).toBe(CASES);
      // Fuzzing that is refused always, or never, looks at nothing.
      expect(ends["accepted"]).toBeGreaterThan(CASES / 50);
      expect(ends["accepted"]).toBeLessThan(CASES * 0.95);
    },
    180_000,
  );
});

describe("the watch", () => {
  it("sees a defect of every kind, goes on behind it, and shows it again", async () => {
    const own = new Watch({ seconds: 2, bytes: 2 ** 31 });
    try {
      const found: Found[] = [];
      const { cases, ends } = await own.run({ format: "planted", seed, from: 0, to: 20 }, (f) => found.push(f));
      const kinds = { 3: "internal", 7: "crash", 9: "hang", 11: "memory", 13: "message", 15: "silent" };
      expect(Object.fromEntries(found.map((f) => [f.index, f.kind]))).toEqual(kinds);
      expect(cases).toBe(20);
      expect(Object.values(ends).reduce((a, b) => a + b)).toBe(20);
      const crash = await own.shrink(
        { format: "planted", seed, from: 0, to: 20 },
        found.find((f) => f.kind === "crash")!,
      );
      expect(readdirSync(crash.folder).sort()).toEqual(["finding.txt", "planted.json"]);
      expect(readFileSync(join(crash.folder, "finding.txt"), "utf8")).toMatch(
        /^crash: .*npm run fuzz -- --only planted --seed \d+ --case 7\n$/s,
      );
    } finally {
      own.dispose();
    }
  }, 60_000);

  it("says so when a fuzzer is broken instead of passing", async () => {
    const broken = watch.run({ format: "nothing", seed, from: 0, to: 1 }, () => undefined);
    await expect(broken).rejects.toThrow(/the fuzzer is broken at case 0 of nothing/);
  });
});
