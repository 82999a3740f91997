// The typed functions of lib/ops.ts against the native argument lists: every op has one, and it fills every argument.
// The tables are complete: a small valid call per op.
// No GPU. Alone: npx vitest run test/ops/bindings.test.ts

import { describe, expect, it } from "vitest";
import { native } from "../../lib/native.ts";
import * as ops from "../../lib/ops.ts";
import type { Device } from "../../lib/tensor.ts";
import { bases } from "./cases/index.ts";

const camel = (name: string): string => name.replace(/_(\w)/g, (_, c: string) => c.toUpperCase());
/** Any property is a mark with its own name, so that a swapped argument shows. */
const marks = (): Record<string, unknown> =>
  new Proxy({}, { get: (_, key) => (typeof key !== "string" ? undefined : key === "rule" || key === "layout" ? marks() : `mark ${key}`) });

describe("lib/ops.ts", () => {
  for (const [index, op] of native.ops.entries())
    it(op.name, () => {
      let submitted: { index: number; args: Record<string, unknown> } | undefined;
      const device = { run: (i: number, args: Record<string, unknown>) => (submitted = { index: i, args }) } as unknown as Device;
      const f = (ops as unknown as Record<string, (...args: unknown[]) => void>)[camel(op.name)];
      expect(f, `lib/ops.ts has no ${camel(op.name)}`).toBeTypeOf("function");
      if (op.name === "gemm") f!(device, "tn", marks());
      else f!(device, marks());
      expect(submitted?.index).toBe(index);
      expect(Object.keys(submitted!.args).sort()).toEqual(op.fields.map((x) => x.name).sort());
      for (const { name, kind } of op.fields) {
        const value = submitted!.args[name];
        if (/^(list |act )?(in|out|inout)\??$/.test(kind) || kind === "f64") expect(value, name).toBe(`mark ${camel(name)}`);
      }
    });

  it("has one small valid call per op in the case tables", () => {
    expect(bases.map((b) => b.op).sort()).toEqual(native.ops.map((o) => o.name).sort());
  });
});
