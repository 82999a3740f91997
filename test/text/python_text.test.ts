import { describe, expect, test } from "vitest";
import { pythonFloatRepr, pythonSplit, pythonStringRepr, pythonStrip } from "../../lib/text/python_text.ts";
import { dumpJson, ExactNumber, parseJson } from "../../lib/text/python_json.ts";

describe("text as Python sees it", () => {
  test("strip removes U+0085 and U+001C-1F, keeps U+FEFF and U+200B", () => {
    expect(pythonStrip("\u0085\u001c x \u3000\n")).toBe("x");
    expect(pythonStrip("\ufeff x \u200b")).toBe("\ufeff x \u200b");
    expect(pythonStrip("👍x👍", "both", "👍")).toBe("x");
    expect(pythonStrip("xxaxx", "left", "x")).toBe("axx");
  });

  test("split takes the same white space", () => {
    expect(pythonSplit(" a\u0085\u001c b\u3000\u00a0c\ufeff \n")).toEqual(["a", "b", "c\ufeff"]);
    expect(pythonSplit(" \t")).toEqual([]);
  });

  test("strip knows whole characters, at both ends and one alone", () => {
    const byPoints = (text: string, side: string, chars?: string): string => {
      const points = Array.from(text);
      const drops = (c: string) => (chars === undefined ? /[\s\u0085]/.test(c) && c !== "\ufeff" : Array.from(chars).includes(c));
      while (side !== "right" && points.length > 0 && drops(points[0]!)) points.shift();
      while (side !== "left" && points.length > 0 && drops(points.at(-1)!)) points.pop();
      return points.join("");
    };
    const pieces = ["a", " ", "\n", "👍", "👎", "\ud83d", "\udc4d", "\ufeff", "\u0085"];
    const texts = pieces.flatMap((a) => pieces.flatMap((b) => [a, a + b, ...pieces.map((c) => a + b + c)]));
    for (const text of ["", ...texts])
      for (const side of ["both", "left", "right"] as const)
        for (const chars of [undefined, "", "a👍", "\udc4d"])
          expect([text, side, chars, pythonStrip(text, side, chars)]).toEqual([text, side, chars, byPoints(text, side, chars)]);
  });

  test("strip takes time by what it strips, not by the text", () => {
    const long = `  ${"x".repeat(2 ** 27)}  `;
    expect(pythonStrip(long).length).toBe(2 ** 27);
  });

  test.each([
    [1, "1.0"],
    [-0, "-0.0"],
    [0.1, "0.1"],
    [1e16, "1e+16"],
    [123456789012345680, "1.2345678901234568e+17"],
    [1e15, "1000000000000000.0"],
    [0.0001, "0.0001"],
    [0.00001, "1e-05"],
    [1.5e-7, "1.5e-07"],
    [0.000123456789, "0.000123456789"],
    [Number.NaN, "nan"],
    [Number.NEGATIVE_INFINITY, "-inf"],
  ])("repr(%d)", (x, text) => expect(pythonFloatRepr(x)).toBe(text));

  test("repr of strings", () => {
    expect(pythonStringRepr("it's")).toBe(`"it's"`);
    expect(pythonStringRepr(`it's "x"`)).toBe(`'it\\'s "x"'`);
    expect(pythonStringRepr("a\n\u0000\u200bé👍")).toBe("'a\\n\\x00\\u200bé👍'");
  });

  test("JSON keeps what Python keeps", () => {
    expect(parseJson('{"a": 1, "b": [1.5, "x"]}')).toEqual({ a: 1, b: [1.5, "x"] });
    expect(parseJson("[1.0, 1e3, 12345678901234567890]")).toEqual([
      new ExactNumber("1.0"),
      new ExactNumber("1e3"),
      new ExactNumber("12345678901234567890"),
    ]);
    for (const text of [
      '{"a": 1.0, "b": -0.0, "c": 1000.0}',
      '{"10": 1, "2": {"1": "x"}}',
      "[12345678901234567890, 1.5, true, null]",
      '"\\u0001é👍\\""',
    ]) {
      expect(dumpJson(parseJson(text))).toBe(text);
    }
    expect(dumpJson(parseJson('{"x" : [1.0,2 , {"3":""}]}'))).toBe('{"x": [1.0, 2, {"3": ""}]}');
    expect(() => parseJson("[1.0,")).toThrow(SyntaxError);
  });
});
