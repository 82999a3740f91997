// Files of answers: the bytes of a finished one are the same wherever it was killed, at every byte and every operation of the disk; rows
// in any order; what belongs to something else or is damaged is refused.

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { AnswersFile, readAnswers, type AnswerRow, type AnswersHeader } from "../../lib/answers/answers_file.ts";
import { ConfigError, DataError, IoError, LayoutError, LockError } from "../../lib/errors.ts";
import { everyPoint, FAULTS, leftovers, withoutFsync } from "../support/faulty_disk.ts";

const header: AnswersHeader = {
  model: "a".repeat(64),
  adapter: null,
  data: "b".repeat(64),
  rows: 5,
  metrics: ["exact", "bleu"],
  options: { temperature: 0, maxNewTokens: 64, stop: ["\n"] },
};
const row = (n: number): AnswerRow => ({
  row: n,
  ...(n % 2 === 0 ? { prompt: `Frage ${n}:\n数学` } : {}),
  answer: `"${n}" 🙂 \ud83d`, // half a pair is written as an escape
  references: ["a", "b"],
  scores: { exact: n % 2, bleu: 100 / 3 },
  finish_reason: n === 3 ? "length" : "stop",
  tokens: 7 * n,
});

withoutFsync();
let dir: string;
let path: string;
let whole: Buffer;
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), "esft-answers-"))));
afterAll(() => rm(dir, { recursive: true }));
beforeEach(async () => {
  await rm(dir, { recursive: true });
  path = join(dir, "sub", "law.answers.jsonl");
  await fill();
  whole = await readFile(path);
});

/** Answers what is missing, from the last row back. @returns rows that were there */
async function fill(asked = header): Promise<number> {
  await using file = await AnswersFile.open(path, asked);
  const there = file.rows.length;
  for (let n = asked.rows - 1; n >= there; n--) await file.add(row(n));
  expect(file.complete).toBe(true);
  return there;
}

test("lines of a finished file", async () => {
  const lines = whole.toString().split("\n");
  expect(lines).toHaveLength(7);
  expect(lines[6]).toBe("");
  expect(JSON.parse(lines[0]!)).toEqual({ format: "esft-answers", version: 1, ...header });
  expect(lines[1]).toBe(
    String.raw`{"row":0,"prompt":"Frage 0:\n数学","answer":"\"0\" 🙂 \ud83d","references":["a","b"],"scores":{"exact":0,"bleu":33.333333333333336},"finish_reason":"stop","tokens":0}`,
  );
  expect(await readAnswers(path)).toEqual({ header, rows: [0, 1, 2, 3, 4].map(row), whole: whole.length });
  expect(await leftovers(dir)).toEqual([]);
});

test("a finished file is left as it is", async () => {
  expect(await fill()).toBe(5);
  expect(await readFile(path)).toEqual(whole);
});

test("cut inside a line and at the end of each it goes on to the same bytes", async () => {
  const first = whole.indexOf("\n") + 1;
  const kept = new Set<number>();
  const second = whole.indexOf('{"row":2');
  for (let at = first; at <= whole.length; at++) {
    if ((at > second || at % 3 !== 0) && whole[at - 1] !== 10 && whole[at] !== 10) continue;
    await writeFile(path, whole.subarray(0, at));
    kept.add(await fill());
    expect(await readFile(path), `cut at ${at}`).toEqual(whole);
  }
  expect([...kept]).toEqual([0, 1, 2, 3, 4, 5]);
  for (const text of ["", `${whole.subarray(0, first).toString()}${"\0".repeat(4096)}`]) {
    await writeFile(path, text);
    expect(await fill()).toBe(0);
    expect(await readFile(path)).toEqual(whole);
  }
});

describe.each(FAULTS)("%s", (fault) => {
  test("at any operation of the disk: the next run ends in the same bytes", async () => {
    const points = await everyPoint(
      fault,
      () => rm(dir, { recursive: true, force: true }),
      async () => void (await fill()),
      async (point, error) => {
        if (fault === "ENOSPC" || fault === "EIO") {
          // a lock that cannot be removed is no failure of the work
          if (error !== null) expect(error, point).toBeInstanceOf(IoError);
        }
        await fill();
        expect(await readFile(path), point).toEqual(whole);
        expect(await leftovers(dir), point).toEqual([]);
      },
    );
    expect(points).toBeGreaterThan(3);
  });
});

describe("rows", () => {
  test("wait for those before them, and are written in order by writers side by side", async () => {
    await rm(path);
    await using file = await AnswersFile.open(path, header);
    await file.add(row(1));
    expect(file.rows).toEqual([]);
    expect((await readAnswers(path)).rows).toEqual([]);
    await file.add(row(0));
    expect(file.rows).toEqual([row(0), row(1)]);
    expect((await readAnswers(path)).rows).toEqual([row(0), row(1)]);
    await Promise.all([4, 2, 3].map((n) => file.add(row(n))));
    expect(file.complete).toBe(true);
    await file.close();
    await file.close();
    expect(await readFile(path)).toEqual(whole);
    await expect(file.add(row(0))).rejects.toThrow(/is closed/);
  });

  test("a write that failed is tried again by the next one", async () => {
    let failed = 0;
    let mended = 0;
    await everyPoint(
      "EIO",
      () => rm(dir, { recursive: true, force: true }),
      async () => {
        await using file = await AnswersFile.open(path, header);
        const before = failed;
        for (let n = 0; n < 5; n++)
          await file.add(row(n)).catch((error: unknown) => {
            expect(error).toBeInstanceOf(IoError);
            failed++;
          });
        if (failed > before && file.complete) mended++;
      },
      async (point) => {
        await fill();
        expect(await readFile(path), point).toEqual(whole);
      },
    );
    expect([failed, mended]).toEqual([5, 4]); // nothing comes after the last row
  });

  test("refused: twice, beyond the data, not a row", async () => {
    await writeFile(path, whole.subarray(0, whole.indexOf('{"row":2')));
    await using file = await AnswersFile.open(path, header);
    await file.add(row(3));
    await expect(file.add(row(1))).rejects.toThrow(/row 1 has an answer already/);
    await expect(file.add(row(3))).rejects.toThrow(/row 3 has an answer already/);
    await expect(file.add(row(5))).rejects.toThrow(/expected a row below 5, found 5/);
    for (const wrong of [{ tokens: -1 }, { scores: { exact: NaN } }, { answer: undefined }, { seconds: 1 }])
      await expect(file.add({ ...row(2), ...wrong } as AnswerRow)).rejects.toThrow(DataError);
    expect(file.rows).toHaveLength(2);
  });
});

describe("refused", () => {
  test("another writer at the same time", async () => {
    await using _ = await AnswersFile.open(path, header);
    await expect(AnswersFile.open(path, header)).rejects.toThrow(LockError);
  });

  test("what belongs to another evaluation, with all that differs", async () => {
    const other = {
      ...header,
      model: "c".repeat(64),
      adapter: "d".repeat(64),
      metrics: ["exact"],
      options: { temperature: 0.5, maxNewTokens: 64, top: 1 },
    };
    const opened = AnswersFile.open(path, other);
    await expect(opened).rejects.toThrow(ConfigError);
    await expect(opened).rejects.toThrow(
      `${path}: the answers in it belong to another evaluation: the base model aaaaaaaaaaaa → cccccccccccc, adapter none → dddddddddddd, metrics ["exact","bleu"] → ["exact"], options.temperature 0 → 0.5, options.stop ["\\n"] → none, options.top none → 1; evaluate with the same, or choose another file`,
    );
    expect(await readFile(path)).toEqual(whole);
    expect(await leftovers(dir)).toEqual([]);
    await expect(AnswersFile.open(path, { ...header, rows: -1 })).rejects.toThrow(ConfigError);
  });

  const edits: [string, (lines: string[]) => string[], RegExp][] = [
    [
      "a line that is no JSON",
      (l) => l.with(2, "{"),
      /jsonl:3: expected a line of JSON, found: .*; remove the file, or the line and what follows/,
    ],
    ["a line with another key", (l) => l.with(2, l[2]!.replace('"tokens"', '"words"')), /jsonl:3: .*tokens/],
    ["a line that is gone", (l) => l.toSpliced(2, 1), /jsonl:3: expected the answer to row 1 of 5, found one to row 2/],
    ["a line twice", (l) => l.toSpliced(2, 0, l[1]!), /jsonl:3: expected the answer to row 1 of 5, found one to row 0/],
    ["more lines than rows", (l) => l.toSpliced(6, 0, l[5]!.replace('"row":4', '"row":5')), /jsonl:7: expected the answer to row 5 of 5/],
    ["another kind of file", (l) => l.with(0, '{"messages":[]}'), /jsonl:1: .*format/],
    ["another version", (l) => l.with(0, l[0]!.replace('"version":1', '"version":2')), /jsonl:1: version/],
    ["text without a line", () => ["words"], /expected a file of answers, found no whole line/],
  ];
  test.each(edits)("%s", async (_, edit, message) => {
    const text = edit(whole.toString().split("\n")).join("\n");
    await writeFile(path, text);
    const opened = AnswersFile.open(path, header);
    await expect(opened).rejects.toThrow(LayoutError);
    await expect(opened).rejects.toThrow(message);
    expect(await readFile(path, "utf8")).toBe(text);
    expect(await leftovers(dir)).toEqual([]);
  });

  test("a folder, a part of the path that is a file", async () => {
    await expect(AnswersFile.open(dir, header)).rejects.toThrow(/expected a regular file, found a directory/);
    await expect(AnswersFile.open(join(path, "x"), header)).rejects.toThrow(IoError);
  });
});
