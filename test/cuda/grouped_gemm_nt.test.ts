// grouped_gemm_nt on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/grouped_gemm_nt.test.ts

import { groupedGemmCases, groupedGemmTileCases } from "../ops/cases/grouped_gemm.ts";
import { describeCudaCases } from "./support.ts";

const cases = [...groupedGemmCases, ...groupedGemmTileCases];
describeCudaCases(
  "grouped_gemm_nt",
  cases.filter(({ op }) => op === "grouped_gemm_nt"),
);
