// The gates on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/gate.test.ts

import { gateCases } from "../ops/cases/gate.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("gate", gateCases);
