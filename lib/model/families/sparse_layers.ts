// Which layers of the Qwen families are sparse: every decoder_sparse_step-th, except those that mlp_only_layers lists.

import type { Builder } from "./build.ts";

export function sparseLayers({ c }: Builder): (l: number) => boolean {
  const step = c.int("decoder_sparse_step", 1);
  const dense = new Set(c.intList("mlp_only_layers", [0, 2 ** 31]));
  return (l) => !dense.has(l) && (l + 1) % step === 0;
}
