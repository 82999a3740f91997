// linear_cross_entropy on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/linear_cross_entropy.test.ts

import { lossCases, lossTileCases } from "../ops/cases/training.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("linear_cross_entropy", [...lossCases, ...lossTileCases]);
