// Shapes that reach the kernels the common tables do not: rows for blocks and beyond registers, whole vectors, both dtypes of
// activations, many chunks. Alone: npx vitest run test/cuda/dense_shapes.test.ts

import { adamw, adamwCases } from "../ops/cases/training.ts";
import { embedding, embeddingBackward, rmsNorm, rmsNormBackward, rope } from "../ops/cases/dense.ts";
import { i32, out, strided } from "../ops/host.ts";
import type { Args, HostTensor, Random } from "../ops/host.ts";
import type { OpCase } from "../ops/support.ts";
import { describeCudaCases } from "./support.ts";

const aligned = (t: HostTensor): HostTensor => strided(t, 8, 16);

const norms: OpCase[] = [16, 128, 256, 520, 1032, 2056, 4104, 8200, 16392, 7, 300, 5001].flatMap((C) => {
  const R = C > 4000 ? 2 : 5;
  return [
    { op: "rms_norm", name: `${C} columns`, args: rmsNorm(R, C), k: C },
    { op: "rms_norm", name: `${C} columns, bf16 weight, in a wider buffer`, args: rmsNorm(R, C, { w: "bf16", wrap: aligned }), k: C },
    { op: "rms_norm_backward", name: `${C} columns`, args: rmsNormBackward(R, C), k: C },
    {
      op: "rms_norm_backward",
      name: `${C} columns, in place, adding`,
      args: rmsNormBackward(R, C, { inPlace: true, accumulate: true }),
      k: C,
    },
    {
      op: "rms_norm_backward",
      name: `${C} columns, bf16 weight, in a wider buffer`,
      args: rmsNormBackward(R, C, { w: "bf16", wrap: aligned, accumulate: true }),
      k: C,
    },
    { op: "rms_norm_backward", name: `${C} columns, dweight only`, args: rmsNormBackward(R, C, { dx: false }), k: C },
  ];
});
const manyRows: OpCase[] = [
  { op: "rms_norm", name: "heads as rows", args: rmsNorm(3001, 64), k: 64 },
  { op: "rms_norm_backward", name: "heads as rows", args: rmsNormBackward(3001, 64), k: 3001 },
  { op: "rms_norm_backward", name: "several chunks of long rows", args: rmsNormBackward(101, 1032), k: 1032 },
];

const turned = (name: string, args: (r: Random) => Args): OpCase => ({ op: "rope", name, args });
const ropes: OpCase[] = [
  turned("whole vectors", rope(21, 3, 48, 48)),
  turned("whole vectors, interleaved", rope(21, 3, 48, 48, { interleaved: true })),
  turned("middle of a head, whole vectors", rope(21, 3, 64, 32, { offset: 16 })),
  turned("middle of a head, interleaved, whole vectors", rope(21, 3, 64, 16, { offset: 16, interleaved: true, inverse: true })),
  turned("end of a head, in place", rope(21, 3, 192, 64, { offset: 128, interleaved: true, inPlace: true })),
  turned("end of a head, in a wider buffer", rope(21, 3, 48, 16, { offset: 32, wrap: aligned })),
  turned("a half of less than a vector", rope(21, 3, 16, 8)),
];

const embeddings: OpCase[] = [
  { op: "embedding", name: "whole vectors, bf16 table", args: embedding(70, 40, 264, "bf16", 1.5) },
  { op: "embedding", name: "whole vectors in a wider buffer", args: embedding(70, 40, 64, "f32", 1.5, aligned) },
  { op: "embedding_backward", name: "whole vectors", args: embeddingBackward(300, 40, 264, 1.5), k: 40 },
  { op: "embedding_backward", name: "more tokens than threads of the sort", args: embeddingBackward(2500, 700, 16), k: 40 },
  {
    op: "embedding_backward",
    name: "one id, more tokens than threads of the sort",
    args: (r) => ({ ...embeddingBackward(2100, 300, 8)(r), ids: i32(new Array<number>(2100).fill(299)) }),
    k: 2100,
  },
];

const sums: OpCase[] = [
  [700, 264],
  [1, 8],
  [70, 1032],
  [66000, 8],
].map(([R, C]) => ({
  op: "column_sum",
  name: `${R} x ${C}`,
  args: (r: Random): Args => ({ x: r.normal([R!, C!]), y: r.normal([C!]), accumulate: 1 }),
  k: R!,
}));

const lists: OpCase[] = [
  {
    op: "adamw",
    name: "rows of several chunks",
    args: adamw(
      [
        [3, 17000],
        [2, 8196],
        [1, 3],
        [0, 7],
        [40, 1024],
      ],
      { step: 4, norm: 9 },
    ),
    k: 4,
  },
  {
    op: "adamw",
    name: "rows of several chunks in a wider buffer",
    args: (r) => {
      const a = adamw([[3, 17000]], { step: 4, norm: 9 })(r);
      const wrap = (name: string): HostTensor[] => (a[name] as HostTensor[]).map(aligned);
      return { ...a, params: wrap("params"), grads: wrap("grads"), m: wrap("m"), v: wrap("v") };
    },
    k: 4,
  },
  {
    op: "grad_norm",
    name: "rows of several chunks in a wider buffer",
    args: (r) => ({ grads: [aligned(r.normal([3, 70000])), strided(r.normal([2, 33000])), r.normal([5])], norm: out([1], "f64") }),
    k: 300_000,
  },
  ...adamwCases.filter((c) => c.name.includes("copies")),
];

const activations = [...norms, ...manyRows, ...ropes, ...embeddings, ...sums];
describeCudaCases("dense shapes", [...activations, ...lists]);
describeCudaCases("dense shapes, f32 activations", activations, { asIs: true });
