// layer_norm on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/layer_norm.test.ts

import { layerNormCases } from "../ops/cases/dense.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("layer_norm", layerNormCases);
