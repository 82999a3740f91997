// Formats of data files: every format with every shape gives the rows and tokens of the same JSONL; what cannot be read says where and
// why. No GPU. Alone: npx vitest run test/data/formats.test.ts

import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { formatOf, readValues } from "../../lib/data/formats.ts";
import { readJsonArray } from "../../lib/data/json_array.ts";
import type { Row, Shape } from "../../lib/data/rows.ts";
import { ConfigError, DataError } from "../../lib/errors.ts";
import type { Format } from "../../lib/options.ts";
import { loadTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-formats-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const fixtures = join(import.meta.dirname, "../fixtures/data");
const SETS = ["messages", "sharegpt", "alpaca", "prompt_completion", "prompt_messages", "text"] as const;
type Cells = Record<string, unknown>;

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(join(import.meta.dirname, "../../examples/embedded"));
});

function write(name: string, content: string | Uint8Array): string {
  writeFileSync(join(dir, name), content);
  return join(dir, name);
}

const jsonl = (set: string): string => readFileSync(join(fixtures, `${set}.jsonl`), "utf8").replaceAll("NaN", "null");
const rowsOf = (set: string): Cells[] => jsonl(set).trim().split("\n").map((line) => JSON.parse(line) as Cells); // prettier-ignore

/** A cell as spreadsheets write it: quoted where it must be. */
const cell = (value: unknown): string => {
  const text = value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value);
  return /[",\r\n]|^ | $/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
function csv(rows: readonly Cells[], newline = "\n"): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return [columns, ...rows.map((row) => columns.map((column) => row[column]))].map((line) => line.map(cell).join(",") + newline).join("");
}

const shapeOf = (set: string): Shape | undefined => (set === "text" ? "text" : undefined);

async function read(file: string, shape?: Shape, format?: Format): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const row of Dataset.fromFile(file, { shape, format }).rows()) {
    if (!row.ok) throw row.error;
    rows.push(row.row);
  }
  return rows;
}

describe.each(SETS)("%s", (set) => {
  const formats: Record<string, () => string> = {
    "jsonl.gz": () => write(`${set}.jsonl.gz`, gzipSync(jsonl(set))),
    "jsonl of many gzip members": () => write(`${set}2.jsonl.gz`, Buffer.concat(jsonl(set).split(/(?<=\n)/).map((line) => gzipSync(line)))), // prettier-ignore
    ndjson: () => write(`${set}.ndjson`, jsonl(set)),
    json: () => write(`${set}.json`, JSON.stringify(rowsOf(set), null, 2)),
    "json.gz": () => write(`${set}.json.gz`, gzipSync(`\ufeff${JSON.stringify(rowsOf(set))}\n`)),
    ...(set === "prompt_messages" // a prompt in CSV is text
      ? {}
      : {
          csv: () => write(`${set}.csv`, csv(rowsOf(set))),
          "csv.gz": () => write(`${set}.csv.gz`, gzipSync(`\ufeff${csv(rowsOf(set), "\r\n")}`)),
        }),
    parquet: () => join(fixtures, `${set}.parquet`),
    "parquet.gz": () => write(`${set}.parquet.gz`, gzipSync(readFileSync(join(fixtures, `${set}.parquet`)))),
  };
  it.each(Object.keys(formats))("%s has the rows and tokens of the same JSONL", async (name) => {
    const [shape, file] = [shapeOf(set), formats[name]!()];
    const expected = write(`${set}.jsonl`, jsonl(set));
    expect(await read(file, shape)).toEqual(await read(expected, shape));
    const encoding = { tokenizer, template: "esft", onDropped: "allow" } as const;
    const encode = async (path: string) => (await Dataset.fromFile(path, { shape, onBadRow: "skip" }).encode(encoding)).examples;
    const [own, theirs] = [await encode(file), await encode(expected)];
    expect([own.length, own.fingerprint()]).toEqual([theirs.length, theirs.fingerprint()]);
  });
});

describe("the format of a file", () => {
  it.each<[string, Format | undefined, Format]>([
    ["rows.jsonl", undefined, "jsonl"],
    ["rows.txt", undefined, "jsonl"],
    ["rows", undefined, "jsonl"],
    ["-", undefined, "jsonl"],
    ["-", "csv", "csv"],
    ["rows.txt.gz", "parquet", "parquet"],
    ["a.csv/rows", undefined, "jsonl"],
    ["rows.CSV", undefined, "csv"],
    ["rows.json.GZ", undefined, "json"],
    ["rows.csv", "parquet", "csv"],
    ["rows.json", "csv", "json"],
    ["rows.json", "jsonl", "jsonl"],
    ["x.constructor", undefined, "jsonl"],
  ])("%s, asked for %s: %s", (file, asked, format) => expect(formatOf(file, asked)).toBe(format));

  it("is one of four", () => {
    expect(() => Dataset.fromFile("x", { format: "xml" as never })).toThrow(ConfigError);
    expect(() => Dataset.fromFile("x", { format: "xml" as never })).toThrow(/options\.format: expected "jsonl" or .*, found "xml"/);
  });

  it("of .json with one row per line is told", async () => {
    const file = write("lines.json", jsonl("alpaca"));
    await expect(read(file)).rejects.toThrow(/lines\.json: row 1: expected an array of rows .*, found "\{".*format "jsonl"/);
    expect(await read(file, undefined, "jsonl")).toEqual(await read(write("l.jsonl", jsonl("alpaca"))));
  });
});

describe.skipIf(process.platform !== "linux")("a file that is left", () => {
  const open = (file: string): boolean =>
    readdirSync("/proc/self/fd").some((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`) === file;
      } catch {
        return false; // closed meanwhile
      }
    });
  const row = '{"prompt": "a", "completion": "b"}';
  it.each<[string, string | Uint8Array]>([
    ["left.jsonl", `${row}\n`.repeat(100_000)],
    ["left.json", `[${`${row},\n`.repeat(100_000)}${row}]`],
    ["left.csv", `prompt,completion\n${"a,b\n".repeat(400_000)}`],
    ["left2.jsonl.gz", gzipSync(Array.from({ length: 10_000 }, () => `${JSON.stringify({ prompt: randomBytes(300).toString("base64") })}\n`).join(""))],
    ["fault.json", `{"data": [${`${row},\n`.repeat(100_000)}${row}]}`],
  ])("%s is closed", async (name, content) => {
    const file = write(name, content);
    let seen = false;
    try {
      for await (const _ of readValues(file)) {
        seen = open(file);
        break;
      }
    } catch (error) {
      expect(error).toBeInstanceOf(DataError);
      seen = true;
    }
    expect(seen).toBe(true);
    await vi.waitFor(() => expect(open(file)).toBe(false));
  });
}); // prettier-ignore

it.each(["le", "be"])("text in UTF-16 (%s) is told as such, whatever its format", async (end) => {
  for (const [name, text] of [["wide.jsonl", '{"prompt": "a"}\n'], ["wide.csv", "prompt,completion\na,b\n"], ["wide.json", "[]"]] as const) {
    const bytes = Buffer.from(`\ufeff${text}`, "utf16le");
    const found = await outcome(write(name, end === "be" ? bytes.swap16() : bytes));
    expect(found).toEqual([`ended: ${name}: expected text in UTF-8, found UTF-16 (by its first two bytes); save it as UTF-8`]);
  }
}); // prettier-ignore

/** What reading a file ends in: its good rows, the words of its bad ones, and of what ended it. */
async function outcome(file: string): Promise<unknown[]> {
  const out: unknown[] = [];
  const words = (error: unknown): string => {
    expect(error).toBeInstanceOf(DataError);
    expect((error as DataError).where["file"]).toBe(file);
    return (error as DataError).message.replace(file, basename(file));
  };
  try {
    for await (const row of readValues(file)) out.push(row.ok ? [row.line, row.value] : words(row.error));
  } catch (error) {
    out.push(`ended: ${words(error)}`);
  }
  return out;
}

describe("a CSV file", () => {
  it.each<[string, string, unknown[]]>([
    ["quotes, commas and lines in cells; a row is known by its first line", 'a,b\n\n"x\n,y","q""z"\r\nc,d\n\n\ne,f', [[3, { a: "x\n,y", b: 'q"z' }], [5, { a: "c", b: "d" }], [8, { a: "e", b: "f" }]]],
    ["old Macintosh lines", "a,b\rc,d\r", [[2, { a: "c", b: "d" }]]],
    ["columns that are missing or too many", "a,b\n1\n1,2,3\n4,5\n", ["csv:2: expected 2 columns (a, b), found 1; quote cells that hold commas or quotes", "csv:3: expected 2 columns (a, b), found 3; quote cells that hold commas or quotes", [4, { a: "4", b: "5" }]]],
    ["a list that is no JSON, and none", 'messages,x\n"[{",1\n,2\n"[1]",3\n', [expect.stringMatching(/^csv:2: messages: not JSON \(.+\)$/), [3, { x: "2" }], [4, { messages: [1], x: "3" }]]],
    ["answers that are a list, and that are not", 'answers,tools\n"[""a""]",\n[a],"[]"\n', [[2, { answers: ["a"] }], [3, { answers: "[a]", tools: "[]" }]]],
    ["a quote that does not close", 'a,b\n1,"2\n3,4\n', ["ended: csv:3: expected a closing quote, found the end of the file; double the quotes inside of quoted cells"]],
    ["text behind a quote", 'a,b\n1,"2"3\n', ["ended: csv:2: expected a comma or the end of the line after a closing quote; double the quotes inside of quoted cells"]],
    ["a quote within a cell", 'a,b\n1,2"3"\n', ["ended: csv:2: expected no quote inside of a cell without quotes; quote the cell and double the quotes inside"]],
    ["nothing", "", ["ended: csv:1: expected a header that names the columns, found an empty file"]],
    ["a header alone", "a,b\n", []],
    ["a header with a name twice", "a,b,a\n", ['ended: csv:1: expected columns of different names, found "a" twice; rename one']],
    ["semicolons", "a;b\n1;2\n", ['ended: csv:1: expected columns between commas, found ";" between them; save it with commas']],
    ["__proto__ as a column", "__proto__,a\n1,2\n", [[2, Object.fromEntries([["__proto__", "1"], ["a", "2"]])]]],
  ])("with %s", async (name, text, expected) => {
    const found = await outcome(write(`${name.replace(/\W+/g, "-")}.csv`, text));
    expect(found.map((x) => (typeof x === "string" ? x.replace(/[\w-]+\.csv/, "csv") : x))).toEqual(expected);
  }); // prettier-ignore

  it("with bytes that are no UTF-8 has a bad row, or no header", async () => {
    const bad = Buffer.from([0xff]);
    const file = write("latin.csv", Buffer.concat([Buffer.from("a,b\n1,"), bad, Buffer.from("\n2,3\n")]));
    expect(await outcome(file)).toEqual(["latin.csv:2: b: not valid UTF-8", [3, { a: "2", b: "3" }]]);
    expect(await outcome(write("head.csv", Buffer.concat([bad, Buffer.from(",b\n1,2\n")])))).toEqual([
      "ended: head.csv:1: expected a header in UTF-8, found bytes that are none; save it as UTF-8",
    ]);
  });
});

describe("a JSON file", () => {
  const shown = (name: string): RegExp => new RegExp(`^(ended: )?${name}: row \\d+: `);
  it.each<[string, string, unknown[]]>([
    ["an empty array", " [ ] ", []],
    ["brackets and quotes in texts", '[{"a": "],}\\"[{\\\\"},\n{"b": [{}, []]}]\n', [[1, { a: '],}"[{\\' }], [2, { b: [{}, []] }]]],
    ["exact numbers, and rows that are none", '[{"a": 1.5}, 1, nul, "x"]', [[1, { a: 1.5 }], [2, 1], expect.stringMatching(/row 3: not JSON/), [4, "x"]]],
    ["an object", '{"a": [1]}', [expect.stringMatching(/^ended: .*row 1: expected an array of rows .* found "\{"/)]],
    ["nothing", "", ['ended: json: row 1: expected an array of rows ("[ … ]"), found an empty file']],
    ["an end within a row", '[{"a": 1}, {"a"', [[1, { a: 1 }], "ended: json: row 2: expected the end of the array (]), found the end of the file; it is cut off"]],
    ["an end after a row", '[{"a": 1}', ["ended: json: row 1: expected the end of the array (]), found the end of the file; it is cut off"]],
    ["a comma at the end", '[{"a": 1},]', [[1, { a: 1 }], 'ended: json: row 2: expected a row, found "]"']],
    ["no row between commas", "[1,,2]", [[1, 1], 'ended: json: row 2: expected a row, found ","']],
    ["a bracket too many", '[{"a": 1}}]', ['ended: json: row 1: expected a row, found "}" without its beginning']],
    ["more after the array", "[1] [2]", [[1, 1], 'ended: json: row 2: expected nothing after the array, found "["']],
    ["no comma between rows", '[{"a": 1} {"b": 2}]', [expect.stringMatching(/^json: row 1: not JSON/)]],
  ])("of %s", async (name, text, expected) => {
    const path = `${name.replace(/\W+/g, "-")}.json`;
    const found = await outcome(write(path, text));
    for (const words of found) if (typeof words === "string") expect(words).toMatch(shown(path));
    expect(found.map((x) => (typeof x === "string" ? x.replace(path, "json") : x))).toEqual(expected);
  }); // prettier-ignore

  it("is cut at the same places wherever a piece of it ends", async () => {
    const rows = [{ a: 'é],"\\' }, [1, [2]], "x", { b: { c: "👍" } }];
    const file = write("big.json", `[${"[1],".repeat(300_000)}${rows.map((r) => JSON.stringify(r)).join(" ,\n")}]`); // pieces are 1 MiB
    const tail: unknown[] = [];
    for await (const row of readValues(file)) if (row.line > 300_000) tail.push(row.ok && row.value);
    expect(tail).toEqual(rows);
  });

  it("changed anywhere has the rows that JSON.parse finds, or a fault where it finds one", async () => {
    const good = Buffer.from(JSON.stringify([{ a: 'x],}"[{', b: [1, { c: null }] }, "t,\\", [[]], { d: "é" }, 12, true], null, 1));
    let [whole, faulty] = [0, 0];
    for (let i = 0; i < 600; i++) {
      const bytes = Buffer.from(good);
      const to = '{}[]",:\\ -ax'.charCodeAt(i % 12);
      bytes[(i * 7919) % bytes.length] = to;
      if (i % 5 === 0) bytes[(i * 104_729 + 3) % bytes.length] = to;
      let expected: unknown;
      try {
        expected = JSON.parse(bytes.toString());
      } catch {
        expected = undefined;
      }
      const found = await outcome(write("changed.json", bytes));
      if (Array.isArray(expected) && !bytes.toString().includes("\ufffd")) {
        whole++;
        expect(
          found.map((row) => (row as [number, unknown])[1]),
          bytes.toString(),
        ).toEqual(expected);
      } else {
        faulty++;
        expect(found.some((row) => typeof row === "string"), bytes.toString()).toBe(true); // prettier-ignore
      }
    }
    expect([whole > 50, faulty > 200]).toEqual([true, true]);
  });

  it("of a row without end is not held", async () => {
    const file = write("long.json", `["${"x".repeat(3_000_000)}"]`);
    const all = async (max: number) => { for await (const _ of readJsonArray(file, undefined, max)); }; // prettier-ignore
    await all(4_000_000);
    await expect(all(1_000_000)).rejects.toThrow(/row 1: expected rows of at most 1000000 bytes/);
  });

  it("with bytes that are no UTF-8 has a bad row", async () => {
    const file = write("latin.json", Buffer.concat([Buffer.from('[{"a": "'), Buffer.from([0xff]), Buffer.from('"}, 2]')]));
    expect(await outcome(file)).toEqual(["latin.json: row 1: not valid UTF-8", [2, 2]]);
  });
});

describe("gzip", () => {
  const whole = gzipSync('{"a": 1}\n'.repeat(1000));
  it.each<[string, Uint8Array, RegExp]>([
    ["cut off", whole.subarray(0, whole.length - 5), /^ended: .*: expected gzip bytes, found an end in the midst of them after \d+ bytes of text; copy or download it again$/],
    ["damaged", Buffer.concat([whole.subarray(0, -8), Buffer.alloc(8)]), /^ended: .*: expected gzip bytes, found other bytes \(incorrect data check\)/],
    ["not gzip at all", Buffer.from('{"a": 1}\n'), /^ended: .*: expected gzip bytes, found other bytes \(incorrect header check\) after 0 bytes of text; rename it without \.gz/],
    ["empty", Buffer.alloc(0), /^ended: .*: expected gzip bytes, found an end/],
  ])("that is %s", async (name, bytes, expected) => {
    const found = await outcome(write(`${name.replaceAll(" ", "-")}.jsonl.gz`, bytes));
    expect(found.at(-1)).toMatch(expected);
  }); // prettier-ignore

  it("is told by its bytes too", async () => {
    expect(await read(write("zipped.jsonl", gzipSync(jsonl("alpaca"))))).toEqual(await read(write("plain.jsonl", jsonl("alpaca"))));
  });

  it("may be left before its end", async () => {
    const file = write("left.jsonl.gz", gzipSync(jsonl("messages").repeat(5000)));
    for await (const row of readValues(file)) if (row.line === 3) break;
    const [first] = await Dataset.fromFile(file).preview(1, { tokenizer, template: "esft", onDropped: "allow" });
    expect([first?.line, first?.unit]).toEqual([1, "line"]);
  });
});

describe("a Parquet file", () => {
  const good = readFileSync(join(fixtures, "messages.parquet"));
  it.each<[string, Uint8Array, RegExp]>([
    ["nothing", Buffer.alloc(0), /^ended: .*: expected Parquet, found what cannot be read as such/],
    ["text", Buffer.from(jsonl("alpaca")), /footer != PAR1.*; copy or write it again$/],
    ["its first half", good.subarray(0, good.length >> 1), /footer != PAR1/],
    ["a footer of no length", Buffer.concat([good.subarray(0, -8), Buffer.from([255, 255, 255, 255]), good.subarray(-4)]), /metadata length/],
    ["damaged pages", Buffer.concat([good.subarray(0, 40), Buffer.alloc(400, 0xa5), good.subarray(440)]), /in row group 1 of 3 \(from row 1 on\): /],
  ])("of %s", async (name, bytes, expected) => {
    const found = await outcome(write(`${name.replaceAll(" ", "-")}.parquet`, bytes));
    expect(found.at(-1)).toMatch(expected);
  }); // prettier-ignore

  it("may hold lists as JSON; rows are known by their number", async () => {
    const file = join(fixtures, "messages_json.parquet");
    const rows = (await outcome(file)) as [[number, unknown], string];
    expect(rows[0]).toEqual([
      1,
      {
        messages: [
          { role: "user", content: "a" },
          { role: "assistant", content: "b" },
        ],
      },
    ]);
    expect(rows[1]).toMatch(/^messages_json\.parquet: row 2: messages: not JSON/);
    const { examples } = await Dataset.fromFile(file, { onBadRow: "skip" }).encode({ tokenizer, template: "esft" });
    expect(examples.place(0)).toBe(`${file}: row 1`);
  });

  /** The file once for each place of `from` in its footer, with `to` there. */
  const patched = (from: readonly number[], to: readonly number[]): Buffer[] => {
    const end = good.length - 8;
    const out: Buffer[] = [];
    for (let at = good.indexOf(Buffer.from(from), end - good.readUInt32LE(end)); at >= 0 && at < end; at = good.indexOf(Buffer.from(from), at + 1)) {
      const bytes = Buffer.concat([good.subarray(0, at), Buffer.from(to), good.subarray(at + from.length)]);
      bytes.writeUInt32LE(good.readUInt32LE(end) + to.length - from.length, bytes.length - 8);
      out.push(bytes);
    }
    return out;
  }; // prettier-ignore

  it("whose numbers of rows do not agree is refused before it is read", async () => {
    // A field of 64 bits (0x16) with the 7 rows of a group, or the 20 of all (zigzag): made 39, and 2³¹, which would be made for hours.
    const last = async (bytes: Buffer): Promise<unknown> => (await outcome(write("rows.parquet", bytes))).at(-1);
    const says = async (from: readonly number[], to: readonly number[]) => (await Promise.all(patched(from, to).map(last))).map(String);
    const SMALL =
      /^ended: .*(values in a row group of \d+ rows|its row groups have 20 rows, and it as a whole 39); copy or write it again$/;
    const found = [...(await says([0x16, 14], [0x16, 78])), ...(await says([0x16, 40], [0x16, 78]))];
    expect(found.filter((words) => SMALL.test(words)).length, found.join("\n")).toBeGreaterThanOrEqual(3);
    const HUGE = /^ended: .*it names a row group of 2147483648 rows, expected at most 16777216 \(in pyarrow row_group_size=100000\);/;
    const huge = await says([0x16, 14], [0x16, 0x80, 0x80, 0x80, 0x80, 0x10]);
    expect(huge.filter((words) => HUGE.test(words)).length, huge.join("\n")).toBeGreaterThanOrEqual(1);
  });

  it("that is gzip is told by its bytes, and by its name in capitals", async () => {
    const expected = await outcome(join(fixtures, "messages.parquet"));
    expect(expected).toHaveLength(20);
    for (const name of ["zipped.parquet", "zipped.parquet.GZ"]) expect(await outcome(write(name, gzipSync(good)))).toEqual(expected);
  });

  it("damaged anywhere is refused in words, or read", async () => {
    let [read, refused] = [0, 0];
    for (let i = 0; i < 400; i++) {
      const bytes = Buffer.from(good);
      for (let k = 0; k <= i % 3; k++) bytes[(i * 7919 + k * 104_729) % bytes.length]! ^= 1 << ((i + k) % 8);
      const last = (await outcome(write("fuzz.parquet", bytes))).at(-1);
      if (typeof last === "string" && last.startsWith("ended")) refused++;
      else read++;
    }
    expect(read).toBeGreaterThan(20);
    expect(refused).toBeGreaterThan(100);
  });
});
