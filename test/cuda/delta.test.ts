// causal_conv, gated_delta_rule, delta_gates, regroup and multiply on the device "cuda" (the emulation, or a GPU: npm run test:gpu).
// Alone: npx vitest run test/cuda/delta.test.ts

import { causalConvCases, deltaGatesCases, deltaRuleCases, multiplyCases, regroupCases } from "../ops/cases/delta.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("delta", [...causalConvCases, ...deltaRuleCases, ...deltaGatesCases, ...regroupCases, ...multiplyCases]);
