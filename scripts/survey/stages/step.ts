// Stage "step": a whole ESFT step of DeepSeek-V2-Lite at its real widths with random weights, which are made on the device. Ours first and
// alone, so that it is there whatever PyTorch does; then beside PyTorch, which has its turns before and after.

import type { Item, StageContext } from "../item.ts";
import { benchItems, caseNamed } from "./bench.ts";

export function items(context: StageContext): Item[] {
  const step = [caseNamed("step/deepseek-v2-lite/bf16/esft", context.dry)];
  return [
    ...benchItems(context, step, { seconds: 3, variants: null, patience: 40 }),
    ...benchItems(context, step, { seconds: 2, variants: /hand-grouped$/, patience: 80 }, " beside PyTorch"),
    ...benchItems(context, step, { seconds: 1, variants: /hf-grouped$/, optional: true, needs: 30, patience: 80 }, " beside transformers"), // prettier-ignore
  ];
}
