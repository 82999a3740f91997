import { describe, expect, test } from "vitest";
import { pythonFloatRepr, pythonStringRepr, pythonStrip } from "../../lib/text/python_text.ts";
import { dumpJson, ExactNumber, parseJson } from "../../lib/text/python_json.ts";

describe("text as Python sees it", () => {
  test("strip removes U+0085 and U+001C-1F, keeps U+FEFF and U+200B", () => {
    expect(pythonStrip("\u0085\u001c x \u3000\n")).toBe("x");
    expect(pythonStrip("\ufeff x \u200b")).toBe("\ufeff x \u200b");
    expect(pythonStrip("👍x👍", "both", "👍")).toBe("x");
    expect(pythonStrip("xxaxx", "left", "x")).toBe("axx");
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
