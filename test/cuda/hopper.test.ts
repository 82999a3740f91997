// Aligned shapes must reach the kernels made for Hopper: elsewhere a silent detour would only cost speed, and no test would see it.

import { attentionTileCases } from "../ops/cases/attention.ts";
import { gemmTileCases } from "../ops/cases/gemm.ts";
import { groupedGemmTileCases } from "../ops/cases/grouped_gemm.ts";
import { lossTileCases } from "../ops/cases/training.ts";
import { describeHopperCases } from "./support.ts";

// Rows of an operand must start on 16 bytes.
const aligned = gemmTileCases.filter((c) => !c.name.includes("odd sizes") && !c.name.startsWith("tn 1x512"));
describeHopperCases("gemm", aligned);
describeHopperCases("grouped_gemm", groupedGemmTileCases);
describeHopperCases("linear_cross_entropy", lossTileCases);
// k and v of an odd offset in one buffer have no tensor maps.
describeHopperCases(
  "attention",
  attentionTileCases.filter((c) => !c.name.includes("one buffer")),
);
