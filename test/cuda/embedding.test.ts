// embedding on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/embedding.test.ts

import { embeddingCases } from "../ops/cases/dense.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("embedding", embeddingCases);
