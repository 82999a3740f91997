// elementwise, dropout and transpose on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/elementwise.test.ts

import { elementwiseCases } from "../ops/cases/elementwise.ts";
import { dropoutCases } from "../ops/cases/dropout.ts";
import { transposeCases } from "../ops/cases/transpose.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("elementwise", [...elementwiseCases, ...transposeCases, ...dropoutCases]);
