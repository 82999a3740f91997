// The smallest calls that reach the kernels of a GPU: one tile of each product and of each width of attention, and a small call of every
// op. What hangs or traps on hardware shows here first, by name.

import { attention, attentionBackward } from "../ops/cases/attention.ts";
import { gemmTileCases } from "../ops/cases/gemm.ts";
import { nn, nt, tn } from "../ops/cases/grouped_gemm.ts";
import { allCases, bases } from "../ops/cases/index.ts";
import { lossTileCases } from "../ops/cases/training.ts";
import { sizeOf } from "../ops/host.ts";
import { Random } from "../ops/host.ts";
import type { OpCase } from "../ops/support.ts";

const [ROWS, D, F] = [[64], 64, 64] as const;
const bf16 = { bf16: true, w: "bf16" } as const;

const products: readonly OpCase[] = [
  { op: "grouped_gemm_nt", name: "one tile", args: nt(ROWS, F, D, bf16), k: D },
  { op: "grouped_gemm_nt", name: "one tile, gathered SwiGLU", args: nt(ROWS, 2 * F, D, { ...bf16, act: true, segments: 2, gather: true }), k: D }, // prettier-ignore
  { op: "grouped_gemm_nn", name: "one tile", args: nn(ROWS, D, F, bf16), k: D },
  { op: "grouped_gemm_nn", name: "one tile, gathered SwiGLU", args: nn(ROWS, D, F, { ...bf16, act: true, gather: true }), k: D },
  { op: "grouped_gemm_tn", name: "one tile", args: tn(ROWS, F, D, bf16), k: 64 },
  { op: "grouped_gemm_tn", name: "one tile, activation on load, scaled", args: tn(ROWS, D, F, { ...bf16, act: true, gather: true, scale: true }), k: 64 }, // prettier-ignore
  ...gemmTileCases.filter((c) => c.name.includes("whole tiles")),
  ...lossTileCases.slice(-1),
];

/** Widths of keys, and how many of them all heads share. */
const widths = [
  ["64 wide", { kDim: 64 }],
  ["128 wide", { kDim: 128 }],
  ["latent", { kDim: 128, vDim: 128, shared: 64 }],
] as const;
const heads = widths.flatMap(([name, width]): OpCase[] => {
  const shape = { T: 64, heads: 1, bf16: true, ...width };
  const k = 64 + width.kDim + ("shared" in width ? width.shared : 0);
  return [
    { op: "attention", name: `one tile, ${name}`, args: attention(shape), k },
    { op: "attention_backward", name: `one tile, ${name}`, args: attentionBackward(shape), k: 4 * k, scale: 1 },
  ];
});

/** Hopper's own kernels serve all of these, and the portable ones too. */
export const tileCases: readonly OpCase[] = [...products, ...heads];

const tableSize = (c: OpCase): number =>
  Object.values(c.args(new Random(c.name))).reduce<number>(
    (n, a) => n + (a !== null && typeof a === "object" && "dtype" in a ? sizeOf(a.shape) : 0),
    0,
  );

/** A small call of every op, and the largest of the table where many sizes have kernels of their own. */
export const smallCases: readonly OpCase[] = [
  ...bases.map((c) => ({ ...c, k: 64 })),
  ...["topk_route", "rms_norm", "rms_norm_backward", "expert_sort"].flatMap((op) => {
    const of = allCases.filter((c) => c.op === op && !c.cudaUnsupported);
    return of.toSorted((a, b) => tableSize(b) - tableSize(a)).slice(0, 1);
  }),
];
