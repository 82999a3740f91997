// rms_norm on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/rms_norm.test.ts

import { rmsNormCases } from "../ops/cases/dense.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("rms_norm", rmsNormCases);
