// Strict JSON: what is refused and what is not, in texts and in files; faults of a schema; how JSON is printed. No GPU.
// Run alone: npx vitest run test/files/json.test.ts
import { mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { ConfigError, IoError, LayoutError } from "../../lib/errors.ts";
import { checkSchema, formatJson, parseStrictJson, readJsonFile } from "../../lib/files/json.ts";
import { tempDir } from "../support/fixture.ts";

const root = tempDir();
const nest = (levels: number): string => "[".repeat(levels) + "]".repeat(levels);

describe("strict JSON", () => {
  it.each([
    ['{"a":1,"b":{"c":1,"\\u0063":2}}', /duplicate key "c"/],
    ['{"a":1 , "b":2,"a":3}', /duplicate key "a"/],
    ['[{"a" \t\r\n:1,"a"\n:2}]', /duplicate key "a"/],
    ['{"a":{},"b":[],"a":1}', /duplicate key "a"/], // after what was closed in between
    ['{"\\"":1,"\\"":2}', /duplicate key "\\""/],
    ['{"a\\\\":1,"a\\\\":2}', /duplicate key/],
    ['{"a":{"__proto__":1}}', /key "__proto__"/],
    ['{"a":{"__pr\\u006fto__":1}}', /key "__proto__"/],
    [`{"${"x".repeat(300)}":1,"${"x".repeat(300)}":1}`, new RegExp(`duplicate key "x{200}"$`)],
    [nest(65), /nesting deeper than 64/],
    ["[".repeat(100_000), /nesting/],
    ['{"a":'.repeat(65), /nesting deeper than 64/],
    ['{"a\\', SyntaxError],
    ['{"\\u12":1,"\\u12":1}', SyntaxError],
    ['{"a":1', SyntaxError],
    ['"a', SyntaxError],
    ["}", SyntaxError],
    ["]", SyntaxError],
    ["[1]]", SyntaxError],
    ["", SyntaxError],
    ['{"a"', SyntaxError],
    ['{"a" ', SyntaxError],
  ])("refuses %j", (text, why) => {
    expect(() => parseStrictJson(text)).toThrow(why);
  });

  it.each([
    ['[{"a":"a: {"},{"a":2}]'],
    ['{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}'],
    ['{"a":"a","b":["a","a","b"],"c":"b"}'], // texts are no keys
    ['["a","a",{"a":1},"a"]'],
    ['{"x":"\\"x\\":","y":"\\\\","z":"{[\\"}]"}'],
    ['{"a":"__proto__","b":["__proto__"]}'],
    ['" \\" : {[,"'],
    [nest(64)],
    [`[${"[],".repeat(100)}[]]`], // side by side
    [`[${"{},".repeat(100)}{}]`],
    ["5"],
  ])("takes %j as JSON.parse does", (text) => {
    expect(parseStrictJson(text)).toEqual(JSON.parse(text));
  });

  it("counts keys, commas and brackets as items, up to a bound", () => {
    for (const [text, items] of [
      ["[1,1,1,1]", 4],
      ['{"a":1,"b":2}', 4],
      ["[[],[]]", 4],
      ['{"a":{}}', 3],
      ['[",,{[","a"]', 2],
      ["5", 0],
    ] as const) {
      expect(parseStrictJson(text, { maxItems: items })).toEqual(JSON.parse(text));
      if (items > 0) expect(() => parseStrictJson(text, { maxItems: items - 1 }), text).toThrow(`more than ${items - 1} items`);
    }
    expect(parseStrictJson(nest(3), { maxDepth: 3 })).toEqual([[[]]]);
    expect(() => parseStrictJson(nest(3), { maxDepth: 2 })).toThrow("nesting deeper than 2");
    expect(() => parseStrictJson("[".repeat(3), { maxDepth: 2 })).toThrow("nesting deeper than 2"); // before it is parsed
  });
});

describe("a JSON file", () => {
  const write = (content: string | Uint8Array): string => {
    const path = join(mkdtempSync(join(root, "j-")), "x.json");
    writeFileSync(path, content);
    return path;
  };

  it("is read, up to its bounds", async () => {
    const path = write('{"a": [1]}');
    expect(await readJsonFile(path, ConfigError)).toEqual({ a: [1] });
    expect(await readJsonFile(path, ConfigError, { maxBytes: 10, maxDepth: 2, maxItems: 3 })).toEqual({ a: [1] });
    for (const [limit, message] of [
      [{ maxBytes: 9 }, "expected at most 9 bytes of JSON, found 10"],
      [{ maxDepth: 1 }, "expected valid JSON, found: nesting deeper than 1"],
      [{ maxItems: 2 }, "expected valid JSON, found: more than 2 items"],
    ] as const)
      await expect(readJsonFile(path, ConfigError, limit)).rejects.toMatchObject({ code: "ERR_CONFIG", message: `${path}: ${message}` });
  });

  it("that is none is refused by name, in the class that is asked for", async () => {
    for (const content of ["{", '{"a":1,"a":1}', "", Uint8Array.of(0x22, 0xff, 0x22)]) {
      const path = write(content);
      for (const Failure of [ConfigError, LayoutError]) {
        const error = await readJsonFile(path, Failure).catch((e: unknown) => e);
        expect(error).toBeInstanceOf(Failure);
        expect(error).toMatchObject({ message: expect.stringContaining(`${path}: expected valid JSON, found: `) as string, where: { file: path } }); // prettier-ignore
        expect((error as Error).cause).toBeInstanceOf(Error);
      }
    }
    await expect(readJsonFile(join(root, "absent"), ConfigError)).rejects.toBeInstanceOf(IoError);
  });
});

describe("a value of a schema", () => {
  const schema = z.strictObject({ a: z.object({ b: z.array(z.int()) }) });

  it("is given back, or its faults with their paths", () => {
    expect(checkSchema(schema, { a: { b: [1] } }, "f")).toEqual({ a: { b: [1] } });
    const fault = (value: unknown, Failure?: typeof ConfigError) => {
      try {
        return checkSchema(schema, value, "f.json", Failure);
      } catch (error) {
        return error;
      }
    };
    expect(fault({ a: { b: [1, "x"] } })).toMatchObject({
      code: "ERR_LAYOUT",
      message: `f.json: a.b.1: ${schema.safeParse({ a: { b: [1, "x"] } }).error!.issues[0]!.message}`,
      where: { file: "f.json", key: "a.b.1" },
    });
    expect(fault(5, ConfigError)).toMatchObject({ code: "ERR_CONFIG", message: expect.stringMatching(/^f\.json: \(top\): /) as string });
    const many = (n: number) => (fault({ a: { b: Array.from({ length: n }, () => "x") } }) as Error).message;
    expect(many(5)).toMatch(/^f\.json: a\.b\.0: .*; a\.b\.4: [^;]*$/);
    expect(many(7)).toMatch(/; a\.b\.4: [^;]*; and 2 more$/);
    const trap = Object.defineProperty({}, "a", { enumerable: true, get: () => { throw new Error("no"); } }); // prettier-ignore
    expect(fault(trap)).toMatchObject({ code: "ERR_CONFIG", message: expect.stringMatching(/^f\.json: expected values that can be read/) as string }); // prettier-ignore
  });
});

describe("JSON is printed", () => {
  it("with arrays of scalars on one line, two spaces and a last newline", () => {
    const value = { a: [1, -2.5e-7, 3], b: [{ c: ["x, [y]", '"q"\\', true, false, null] }], d: [], e: [[1, 2], [3]], f: { g: [{}] } };
    expect(formatJson(value)).toBe(`{
  "a": [1, -2.5e-7, 3],
  "b": [
    {
      "c": ["x, [y]", "\\"q\\"\\\\", true, false, null]
    }
  ],
  "d": [],
  "e": [
    [1, 2],
    [3]
  ],
  "f": {
    "g": [
      {}
    ]
  }
}
`);
    expect([formatJson(5), formatJson([1, 2]), formatJson("[\n 1,\n 2\n]")]).toEqual(["5\n", "[1, 2]\n", '"[\\n 1,\\n 2\\n]"\n']);
  });
});
