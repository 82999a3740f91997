// quant_method "mxfp4" (GPT-OSS): X_blocks u8 [E, R, C/32, 16] and X_scales u8 [E, R, C/32] make X [E, C, R]: transposed. Low nibble =
// even column, code · 2^(scale − 127) as one operation. Source: openai gpt-oss torch/weights.py, transformers integrations/mxfp4.py.
import type { WeightFinder } from "./packed.ts";
import { plainParts } from "./packed.ts";

const BLOCKS = "_blocks";
const SCALES = "_scales";

export function findMxfp4(find: WeightFinder): void {
  for (const codes of find.tensors.values()) {
    if (!codes.name.endsWith(BLOCKS)) continue;
    const name = codes.name.slice(0, -BLOCKS.length);
    const scales = find.need(name + SCALES, codes);
    const [E = 1, R = 1, groups = 1] = codes.shape;
    find.expect(codes, ["U8"], [E, R, groups, 16]);
    find.expect(scales, ["U8"], [E, R, groups]);
    find.add({
      name,
      shape: [E, groups * 32, R],
      parts: { codes, scales },
      layout: {
        ...plainParts,
        scheme: "MXFP4, block 32, transposed",
        codes: "e2m1",
        scale: "ldexp",
        rounding: "bf16",
        held: "BF16",
        matrices: E,
        rows: R,
        cols: groups * 32,
        transposed: true,
        blockCols: 32,
      },
    });
  }
}
