// gated_delta_rule and delta_gates on every instruction set against the reference (token by token), bits against threads, the reference
// against plain JavaScript and finite differences, refusals. No GPU. Alone: npx vitest run test/ops/delta_rule.test.ts

import { describe, it } from "vitest";
import {
  deltaGates,
  deltaGatesBackwardBase,
  deltaGatesBase,
  deltaGatesCases,
  deltaRule,
  deltaRuleBackwardBase,
  deltaRuleBase,
  deltaRuleCases,
} from "./cases/delta.ts";
import type { DeltaShape } from "./cases/delta.ts";
import { Random, f32, i32, out, tensor, zeros } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run, weighted } from "./support.ts";

describeCases("delta_rule", [...deltaRuleCases, ...deltaGatesCases]);

const rows = [
  { name: "a document that starts after its token", change: { doc_start: i32([0, 0, 3, 3, 3]) }, says: ["doc_start[2]", "received 3"] },
  { name: "document starts that go back", change: { doc_start: i32([0, 0, 2, 1, 2]) }, says: ["doc_start[3]", "received 1"] },
  { name: "key heads that do not divide the heads", change: { key_heads: 3 }, says: ["key_heads", "divisor of 4"] },
  { name: "more key heads than heads", change: { key_heads: 8 }, says: ["key_heads", "1..4"] },
  { name: "no heads", change: { heads: 0 }, says: ["heads"] },
  { name: "a negative eps", change: { eps: -1 }, says: ["eps"] },
  { name: "q of half a head more", change: { q: out([5, 7]) }, says: ["q", "multiple of 2"] },
  { name: "v of half a head more", change: { v: out([5, 9]) }, says: ["v", "multiple of 4"] },
];
describeRefusals([
  {
    base: deltaRuleBase,
    rows: [
      ...rows,
      { name: "a state too few", change: { states: [out([12, 2])] }, says: ["states", "2 documents", "received 1"] },
      { name: "a state of other heads", change: { states: [out([12, 2]), out([6, 2])] }, says: ["states[1]", "[12, 2]"] },
    ],
  },
  { base: deltaRuleBackwardBase, rows },
  { base: deltaGatesBase, rows: [{ name: "a_log of other heads", change: { a_log: out([4]) }, says: ["a_log", "3"] }] },
  { base: deltaGatesBackwardBase, rows: [{ name: "da_log of other heads", change: { da_log: out([4]) }, says: ["da_log", "3"] }] },
]);

describe("gradients against finite differences", () => {
  const shapes: readonly (readonly [string, DeltaShape])[] = [
    ["two value heads per key head, documents", { T: 9, keyHeads: 2, heads: 4, dk: 3, dv: 2, docs: [0, 1, 5] }],
    ["one head", { T: 7, keyHeads: 1, heads: 1, dk: 4, dv: 3, decay: 0.5 }],
  ];
  for (const [name, shape] of shapes)
    it(`gated_delta_rule: ${name}`, async () => {
      const random = new Random(name);
      const args = deltaRule(shape)(random);
      const names = ["q", "k", "v", "beta", "g"];
      const inputs = Object.fromEntries(names.map((n) => [n, Float32Array.from(tensor(args, n).values)]));
      const forward = (i: Readonly<Record<string, Float32Array>>) =>
        run(device("ref"), "gated_delta_rule", {
          ...args,
          ...Object.fromEntries(names.map((n) => [n, f32(tensor(args, n).shape, i[n]!)])),
        });
      const c = random.normal(tensor(args, "o").shape);
      const { o: _o, ...operands } = args;
      const like = (n: string) => out(tensor(args, n).shape);
      const made = await run(device("ref"), "gated_delta_rule_backward", {
        ...operands,
        dout: c,
        ...Object.fromEntries(names.map((n) => [`d${n}`, like(n)])),
      });
      await checkGradients({
        inputs,
        gradients: Object.fromEntries(names.map((n) => [n, pick(made, `d${n}`)])),
        loss: async (i) => weighted(pick(await forward(i), "o"), c.values),
      });
    });

  it("delta_gates", async () => {
    const [T, H] = [6, 3];
    const random = new Random("delta_gates");
    const args = deltaGates(T, H)(random);
    const names = ["b", "a", "a_log", "dt_bias"];
    const inputs = Object.fromEntries(names.map((n) => [n, Float32Array.from(tensor(args, n).values)]));
    const forward = (i: Readonly<Record<string, Float32Array>>) =>
      run(device("ref"), "delta_gates", { ...args, ...Object.fromEntries(names.map((n) => [n, f32(tensor(args, n).shape, i[n]!)])) });
    const [cb, cg] = [random.normal([T, H]), random.normal([T, H])];
    const { beta: _beta, g: _g, ...operands } = args;
    const made = await run(device("ref"), "delta_gates_backward", {
      ...operands,
      dbeta: cb,
      dg: cg,
      db: out([T, H]),
      da: out([T, H]),
      da_log: zeros("f32", [H]),
      ddt_bias: zeros("f32", [H]),
    });
    await checkGradients({
      inputs,
      gradients: Object.fromEntries(names.map((n) => [n, pick(made, `d${n}`)])),
      loss: async (i) => {
        const r = await forward(i);
        return weighted(pick(r, "beta"), cb.values) + weighted(pick(r, "g"), cg.values);
      },
    });
  });
});
