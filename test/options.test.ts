// Numbers as people write them. Alone: npx vitest run test/options.test.ts

import { expect, it } from "vitest";
import { z } from "zod";
import { decimal, parseOptions } from "../lib/options.ts";

it("decimal takes decimal numbers alone", () => {
  const good = {
    "0": 0,
    "-1.5": -1.5,
    "+2": 2,
    "1e-5": 1e-5,
    "2.E3": 2000,
    ".5": 0.5,
    "1_000": 1000,
    "131_072_000": 131_072_000,
    " 7 ": 7,
  };
  for (const [text, value] of Object.entries(good)) expect([text, decimal(text)]).toEqual([text, value]);
  for (const text of [
    "",
    " ",
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "0x10",
    "0b1",
    "0o7",
    "1__0",
    "_1",
    "1_",
    "1,5",
    "1e",
    ".",
    "five",
    "1n",
    "1 2",
  ])
    expect([text, decimal(text)]).toEqual([text, undefined]);
});

it("a refused number is told by its bounds", () => {
  const schema = z.strictObject({
    any: z.number().optional(),
    lr: z.number().min(0).default(1),
    share: z.number().gt(0).max(1).default(1),
    count: z.int().min(2).default(2),
  });
  const message = (value: unknown): string => {
    try {
      parseOptions(schema, value, "x");
      return "accepted";
    } catch (error) {
      return (error as Error).message;
    }
  };
  expect(message({ any: "a" })).toBe('x.any: expected a number, found "a"');
  expect(message({ any: NaN })).toBe("x.any: expected a number, found NaN");
  expect(message({ lr: -Infinity })).toBe("x.lr: expected a number >= 0, found -Infinity");
  expect(message({ lr: -2 })).toBe("x.lr: expected a number >= 0, found -2");
  expect(message({ share: null })).toBe("x.share: expected a number > 0 and <= 1, found null");
  expect(message({ share: 2 })).toBe("x.share: expected a number <= 1, found 2");
  expect(message({ share: 0 })).toBe("x.share: expected a number > 0, found 0");
  expect(message({ count: 2.5 })).toBe("x.count: expected a whole number >= 2, found 2.5");
  expect(message({ count: 2 ** 60 })).toBe("x.count: expected a whole number <= 9007199254740991, found 1152921504606847000");
  expect(message({ count: 3 })).toBe("accepted");
});
