// The typed functions of lib/ops.ts against the native argument lists: every op has one, and it fills every argument.
// The tables are complete: a small valid call per op.
// No GPU. Alone: npx vitest run test/ops/bindings.test.ts

import { describe, expect, it } from "vitest";
import { native } from "../../lib/native.ts";
import * as ops from "../../lib/ops.ts";
import { bind } from "../../lib/ops/bind.ts";
import { Device } from "../../lib/tensor.ts";
import { bases } from "./cases/index.ts";

const camel = (name: string): string => name.replace(/_(\w)/g, (_, c: string) => c.toUpperCase());
/** Any property is a mark with its own name, so that a swapped argument shows. */
const marks = (): Record<string, unknown> =>
  new Proxy(
    {},
    { get: (_, key) => (typeof key !== "string" ? undefined : ["rule", "layout", "activation"].includes(key) ? marks() : `mark ${key}`) },
  );
/** Arguments that TypeScript calls otherwise. */
const renamed: Readonly<Record<string, string>> = {
  act: "kind",
  x_act: "kind",
  n_group: "groups",
  topk_group: "topkGroups",
  drop: "dropped",
};
const functions = ops as unknown as Record<string, (...args: unknown[]) => void>;

/** What op `name` submits for `args`, by argument. */
function submitted(name: string, args: unknown): Record<string, unknown> {
  const seen: { op: number; values: readonly unknown[] }[] = [];
  const device = { submit: (op: number, values: readonly unknown[]) => seen.push({ op, values }) } as unknown as Device;
  const f = functions[camel(name)];
  expect(f, `lib/ops.ts has no ${camel(name)}`).toBeTypeOf("function");
  if (name === "gemm") f!(device, "tn", args);
  else f!(device, args);
  const [{ op, values }] = seen as [(typeof seen)[0]];
  expect(seen).toHaveLength(1);
  expect(native.ops[op]!.name).toBe(name);
  expect(values).toHaveLength(native.ops[op]!.fields.length);
  return Object.fromEntries(native.ops[op]!.fields.map((field, i) => [field.name, values[i]]));
}

describe("lib/ops.ts", () => {
  for (const { name, fields } of native.ops)
    it(name, () => {
      const expected = fields.map((field) => [
        field.name,
        name === "gemm" && field.name === "mode" ? 2 : `mark ${renamed[field.name] ?? camel(field.name)}`,
      ]);
      expect(submitted(name, marks())).toEqual(Object.fromEntries(expected));
    });

  it("has no function that the addon has no op for", () => {
    expect(Object.keys(ops).sort()).toEqual(native.ops.map(({ name }) => camel(name)).sort());
  });

  it("gives defaults, flags and codes", () => {
    expect(submitted("add", {})["alpha"]).toBe(1);
    expect(submitted("add", { alpha: 0 })["alpha"]).toBe(0);
    expect(submitted("embedding", { scale: null })["scale"]).toBe(1);
    expect(submitted("rope", {})).toMatchObject({ offset: 0, interleaved: 0, inverse: 0 });
    expect(submitted("linear_cross_entropy", {})).toMatchObject({ grad_scale: 1, logit_scale: 1, accumulate: 0, precision: 0 });
    // What the device reads need not be given; without either there is nothing to take.
    expect(submitted("adamw", { rates: null })).toMatchObject({ lr: undefined, step: undefined });
    expect(submitted("adamw", { rates: {} })).toMatchObject({ lr: 0, step: 1 });
    expect([submitted("load_balance", {}), submitted("load_balance", { scale: {} })]).toMatchObject([
      { coefficient: undefined },
      { coefficient: 0 },
    ]);
    expect(submitted("grouped_gemm_nn", { activation: { kind: "swiglu" }, precision: "bf16" })).toMatchObject({
      segments: 1,
      act: 1,
      alpha: 0,
      limit: 0,
      precision: 1,
    });
    const clamped = { activation: { kind: "clamped swiglu", alpha: 1.7, limit: 7 } };
    expect(submitted("grouped_gemm_nt", clamped)).toMatchObject({ act: 2, alpha: 1.7, limit: 7 });
    expect(submitted("swiglu", { activation: { kind: "gelu tanh gate" } })).toMatchObject({ act: 3, alpha: 0, limit: 0 });
    expect(submitted("swiglu", {})).toMatchObject({ act: 1 });
    expect(submitted("grouped_gemm_tn", { activation: null, precision: "f32" })).toMatchObject({ x_act: 0, accumulate: 0, precision: 0 });
    expect(submitted("rms_norm_backward", { accumulateWeight: true })).toMatchObject({ accumulate: 0, accumulate_weight: 1 });
    const rule = {
      score: "sigmoid",
      groups: 4,
      topkGroups: 2,
      groupScore: "top2Sum",
      dropped: "minusInfinity",
      renormalize: true,
      normEps: 1e-20,
      scale: 2.5,
    };
    expect(submitted("topk_route", { rule })).toMatchObject({
      score: 1,
      n_group: 4,
      topk_group: 2,
      group_score: 1,
      drop: 1,
      renormalize: 1,
      norm_eps: 1e-20,
      scale: 2.5,
    });
  });

  it("refuses words that it does not know", () => {
    using device = new Device({ kind: "ref" });
    const x = device.empty("f32", [2, 2]);
    const c = device.empty("f32", [2, 2]);
    const gemm = (mode: string, more: object) => () => functions["gemm"]!(device, mode, { a: x, b: x, c, ...more });
    expect(gemm("nt", {})).not.toThrow();
    expect(gemm("tt", {})).toThrow(/^gemm: mode must be "nt", "nn" or "tn", received tt/);
    expect(gemm("toString", {})).toThrow(/^gemm: mode/);
    expect(gemm("nt", { precision: "f16" })).toThrow(/^gemm: precision must be an integer/);
    expect(gemm("nt", { accumulate: "yes" })).toThrow(/^gemm: accumulate must be an integer/);
    expect(gemm("nt", { a: undefined })).toThrow(/^gemm: a must be a Tensor, received undefined/);
    expect(gemm("nt", { a: device.list([x]) })).toThrow(/^gemm: a must be a Tensor, received an object/);
    expect(gemm("nt", { a: device })).toThrow(/^gemm: a must be a Tensor, received an object/);
  });

  it("binds only what the addon has", () => {
    expect(() => bind("no_such_op")).toThrow(/no op "no_such_op".*build:native/);
    expect(() => bind<{ alpha: number }>("add", { alhpa: 1 })).toThrow(/"add" has no argument "alhpa".*build:native/);
  });

  it("has one small valid call per op in the case tables", () => {
    expect(bases.map((b) => b.op).sort()).toEqual(native.ops.map((o) => o.name).sort());
  });
});
