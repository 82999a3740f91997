// Sampling on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/sample.test.ts

import { largeSampleCases, sampleCases } from "../ops/cases/sample.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("sample", [...sampleCases, ...largeSampleCases.slice(0, 2)]);
