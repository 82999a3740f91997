// attention on every instruction set against the reference (loops), bits against threads, the reference against plain JavaScript and
// finite differences, refusals. No GPU. Alone: npx vitest run test/ops/attention.test.ts

import { describe, it } from "vitest";
import { attention, attentionBackwardBase, attentionBackwardCases, attentionBase, attentionCases } from "./cases/attention.ts";
import type { Shape } from "./cases/attention.ts";
import { Random, f32, has, i32, out, tensor } from "./host.ts";
import { checkGradients, describeCases, describeRefusals, device, pick, run, weighted } from "./support.ts";

describeCases("attention", [...attentionCases, ...attentionBackwardCases]);

const rows = [
  { name: "a document that starts after its token", change: { doc_start: i32([0, 0, 3, 3, 3]) }, says: ["doc_start[2]", "received 3"] },
  { name: "document starts that go back", change: { doc_start: i32([0, 0, 2, 1, 2]) }, says: ["doc_start[3]", "received 1"] },
  { name: "a negative document start", change: { doc_start: i32([-1, 0, 2, 2, 2]) }, says: ["doc_start[0]", "received -1"] },
  { name: "kv heads that do not divide the heads", change: { kv_heads: 3 }, says: ["kv_heads", "divisor of 4"] },
  { name: "more kv heads than heads", change: { kv_heads: 8 }, says: ["kv_heads", "1..4"] },
  { name: "no heads", change: { heads: 0 }, says: ["heads"] },
  { name: "a k_dim beyond k", change: { k_dim: 7 }, says: ["k_dim", "0..6", "received 7"] },
  { name: "a k_offset beyond k", change: { k_offset: 4 }, says: ["k_offset"] },
  { name: "a k_stride that makes heads overlap", change: { k_stride: 2 }, says: ["k_stride"] },
  { name: "a k_stride past k", change: { k_stride: 4 }, says: ["k_stride"] },
  { name: "no v_dim", change: { v_dim: 0 }, says: ["v_dim"] },
  { name: "a v_stride past v", change: { v_stride: 3 }, says: ["v_stride"] },
  { name: "precision = 2", change: { precision: 2 }, says: ["precision"] },
  { name: "an infinite scale", change: { scale: Infinity }, says: ["scale"] },
  { name: "a q of another width", change: { q: out([5, 15]) }, says: ["q", "[5, 16]"] },
  { name: "a sink too few", change: { sinks: out([3]) }, says: ["sinks", "4 elements", "received [3]"] },
];
describeRefusals([
  // k, v and (with nothing to fix it) their gradients may have foreign columns; k_shared's width is fixed by q.
  { base: attentionBase, rows, freeCols: ["k", "v"] },
  {
    base: attentionBackwardBase,
    rows: [
      ...rows,
      { name: "dsinks without sinks", change: { sinks: null }, says: ["dsinks", "absent"] },
      { name: "a gradient of a sink too few", change: { dsinks: out([3]) }, says: ["dsinks", "4 elements"] },
      { name: "dk_shared without k_shared", change: { k_shared: null, q: out([5, 12]), dq: out([5, 12]) }, says: ["dk_shared", "absent"] },
      {
        name: "dk over dv in one buffer",
        change: { dk: out([5, 6]), k: out([5, 6]), v: out([5, 6]), dv: { same: "dk" } },
        says: ["dk", "dv"],
      },
    ],
  },
]);

describe("gradients of q, k, v, the shared keys and the sinks against finite differences", () => {
  const shapes: readonly (readonly [string, Shape])[] = [
    ["grouped heads, shared keys, documents", { T: 7, heads: 4, kvHeads: 2, kDim: 3, vDim: 5, shared: 2, docs: [0, 3] }],
    ["window", { T: 7, heads: 2, kDim: 4, window: 3 }],
    ["k and v in one buffer", { T: 5, heads: 2, kDim: 3, vDim: 4, joint: true, shared: 1 }],
    ["sinks, window", { T: 7, heads: 4, kvHeads: 2, kDim: 4, window: 3, sinks: "f32" }],
    ["sinks, documents, shared keys", { T: 7, heads: 2, kDim: 3, vDim: 5, shared: 2, docs: [0, 3], sinks: "f32" }],
  ];
  for (const [name, shape] of shapes)
    it(name, async () => {
      const random = new Random(name);
      const args = attention(shape)(random);
      const names = ["q", "k", ...(shape.joint ? [] : ["v"]), ...(shape.shared ? ["k_shared"] : []), ...(shape.sinks ? ["sinks"] : [])];
      const inputs = Object.fromEntries(names.map((n) => [n, Float32Array.from(tensor(args, n).values)]));
      const forward = (i: Readonly<Record<string, Float32Array>>) =>
        run(device("ref"), "attention", { ...args, ...Object.fromEntries(names.map((n) => [n, f32(tensor(args, n).shape, i[n]!)])) });
      const made = await forward(inputs);
      const c = random.normal(tensor(args, "out").shape);
      const zero = (n: string) => f32(tensor(args, n).shape, new Float32Array(tensor(args, n).values.length));
      const { lse: _lse, out: _out, ...rest } = args;
      const back = await run(device("ref"), "attention_backward", {
        ...rest,
        dout: c,
        out: f32(c.shape, pick(made, "out")),
        lse: f32([shape.T, shape.heads], pick(made, "lse")),
        dq: zero("q"),
        dk: zero("k"),
        dv: shape.joint ? { same: "dk" } : zero("v"),
        dk_shared: has(args, "k_shared") ? zero("k_shared") : null,
        dsinks: has(args, "sinks") ? zero("sinks") : null,
      });
      await checkGradients({
        inputs,
        gradients: Object.fromEntries(names.map((n) => [n, pick(back, `d${n}`)])),
        loss: async (i) => weighted(pick(await forward(i), "out"), c.values),
      });
    });
});
