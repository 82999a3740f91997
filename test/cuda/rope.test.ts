// rope on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/rope.test.ts

import { ropeCases } from "../ops/cases/dense.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("rope", ropeCases);
