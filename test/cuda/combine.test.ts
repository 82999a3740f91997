// combine on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/combine.test.ts

import { combineCases } from "../ops/cases/combine.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("combine", combineCases);
