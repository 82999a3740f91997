// Stage "headline": what the floors are measured on, first ours alone, then beside cuBLAS and PyTorch as far as time allows. Variants that
// torch.compile has to make first (half a minute each) come last.

import { floors } from "../../../bench/gpu/floors.ts";
import { gpuCases } from "../../../bench/gpu/run.ts";
import type { Item, StageContext } from "../item.ts";
import { benchItems } from "./bench.ts";

export function items(context: StageContext): Item[] {
  const needed = new Set(floors.flatMap((f) => f.cases));
  // The whole step has a stage of its own.
  const all = gpuCases(context.dry).filter((c) => c.headline && !c.alone);
  const ours = all.filter((c) => needed.has(c.id));
  if (context.dry) return benchItems(context, ours, { seconds: 0.001, variants: null });
  return [
    ...benchItems(context, ours, { seconds: 0.5, variants: null, patience: 15 }),
    ...benchItems(context, all, { seconds: 1, variants: /^(?!.*compile)/, optional: true, needs: 8, patience: 60 }, " beside PyTorch"),
    ...benchItems(
      context,
      ours.filter((c) => /^(head|layer)\//.test(c.id)),
      { seconds: 1, variants: /hand-grouped-compile$|chunk-compile$/, optional: true, needs: 40, patience: 90 },
      " beside compiled PyTorch",
    ),
  ];
}
