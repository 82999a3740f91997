// gemm and heads_gemm on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/gemm.test.ts

import { gemmCases, gemmTileCases, mixedGemmCases } from "../ops/cases/gemm.ts";
import { headsGemmCases } from "../ops/cases/heads_gemm.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("gemm", [...gemmCases, ...gemmTileCases]);
describeCudaCases("gemm of mixed dtypes", mixedGemmCases, { asIs: true });
describeCudaCases("heads_gemm", headsGemmCases);
