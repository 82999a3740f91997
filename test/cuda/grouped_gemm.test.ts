// grouped_gemm on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/grouped_gemm.test.ts

import { groupedGemmCases, groupedGemmTileCases } from "../ops/cases/grouped_gemm.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("grouped_gemm", [...groupedGemmCases, ...groupedGemmTileCases]);
