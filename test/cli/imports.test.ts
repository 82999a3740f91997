// The command line loads no addon before a command needs it: `esft build` runs where none is there. No GPU, no addon.
// Run alone: npx vitest run test/cli/imports.test.ts

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, it } from "vitest";

const lib = path.join(import.meta.dirname, "..", "..", "lib");
const statement = /^(?:import|export) (?!type\b)[^;]*?from "(\.[^"]+)";|^import "(\.[^"]+)";/gm;

/** How `from` reaches `to` by imports that run when a file is loaded; null: not at all. */
function way(from: string, to: string): string[] | null {
  const before = new Map<string, string | null>([[from, null]]);
  for (const file of before.keys()) {
    if (file === to) {
      const found: string[] = [];
      for (let at: string | null = file; at !== null; at = before.get(at) ?? null) found.unshift(at);
      return found;
    }
    for (const [, named, plain] of readFileSync(path.join(lib, file), "utf8").matchAll(statement)) {
      const next = path.join(path.dirname(file), named ?? plain ?? "");
      if (!before.has(next)) before.set(next, file);
    }
  }
  return null;
}

it("libraries of formats are loaded when such a file is read", () => {
  const files = readdirSync(lib, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  const texts = files.map((name) => readFileSync(path.join(lib, name), "utf8"));
  for (const library of ["csv-parse", "hyparquet", "hyparquet-compressors"]) {
    expect(texts.some((text) => text.includes(`await import("${library}")`))).toBe(true);
    expect(texts.filter((text) => new RegExp(`^import (?!type\\b)[^;]*"${library}"`, "m").test(text))).toEqual([]);
  }
});

it("the command line loads no addon", () => {
  expect(way("index.ts", "native.ts")?.at(0)).toBe("index.ts"); // the reading finds what is there
  expect(way(path.join("cli", "main.ts"), "native.ts")).toBe(null);
});
