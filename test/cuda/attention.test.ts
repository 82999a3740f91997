// attention on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/attention.test.ts

import { attentionBackwardCases, attentionCases, attentionTileCases } from "../ops/cases/attention.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("attention", [...attentionCases, ...attentionBackwardCases, ...attentionTileCases]);
