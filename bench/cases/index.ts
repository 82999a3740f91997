// The table: every benchmark case of the CPU, of the GPU and of the peer.

import { perfRows } from "../../test/ops/cases/index.ts";
import type { Backend } from "../../test/ops/perf.ts";
import { tiny } from "./case.ts";
import type { BenchCase } from "./case.ts";
import { layerCases } from "./layer.ts";
import { opCase } from "./ops.ts";
import { stepCases } from "./step.ts";

/** What the peer measures beside the cases of cuda: cuBLAS and torch's copy. */
function ceilings(small: boolean): BenchCase[] {
  const of = (id: string, full: Record<string, number>, cost: (s: Record<string, number>) => { flops?: number; bytes?: number }) => {
    const sizes = small ? tiny(full) : full;
    return {
      id,
      on: "peer" as const,
      sizes,
      headline: true,
      cost: () => cost(sizes),
      setup: () => Promise.reject(new Error(`${id} is the peer's`)),
    };
  };
  return [
    of("ceiling/gemm/bf16/8192", { M: 8192, N: 8192, K: 8192 }, ({ M, N, K }) => ({ flops: 2 * M! * N! * K! })),
    of("ceiling/copy/bf16/1GiB", { rows: 1024, cols: 524288 }, ({ rows, cols }) => ({ bytes: 4 * rows! * cols! })),
  ];
}

/** Cases of a backend, in the order of the tables; with `small` the same cases at sizes that prove them and measure nothing. */
export function benchCases(on: Backend, small: boolean): BenchCase[] {
  const all = [...perfRows.map((row) => opCase(row, small)), ...layerCases(small), ...stepCases(small)];
  return all.filter((c) => c.on === on);
}

/** What the peer is told: the cases that are asked for, and on cuda the ceilings. */
export function peerCases(on: Backend, small: boolean, cases: readonly BenchCase[]): BenchCase[] {
  return [...(on === "cuda" ? ceilings(small) : []), ...cases];
}
