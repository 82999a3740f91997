// Routing ops on the device "cuda" (the emulation, or a GPU: npm run test:gpu). Alone: npx vitest run test/cuda/routing.test.ts

import { balanceCases, countCases, routeBackwardCases, routeCases, sortCases } from "../ops/cases/routing.ts";
import { describeCudaCases } from "./support.ts";

describeCudaCases("topk_route", [...routeCases, ...routeBackwardCases]);
describeCudaCases("load_balance", balanceCases);
describeCudaCases("expert_sort", [...sortCases, ...countCases]);
