// Every case of every op, and one small valid call per op (the base of refusals and of the fuzz test).

import type { OpCase } from "../support.ts";
import { attentionBackwardBase, attentionBackwardCases, attentionBase, attentionCases } from "./attention.ts";
import * as combine from "./combine.ts";
import * as dense from "./dense.ts";
import * as elementwise from "./elementwise.ts";
import { gemmBase, gemmCases } from "./gemm.ts";
import { groupedGemmCases, nnBase, ntBase, tnBase } from "./grouped_gemm.ts";
import * as routing from "./routing.ts";
import { adamwBase, adamwCases, gradNormBase, gradNormCases, lossBase, lossCases } from "./training.ts";

export const bases: readonly OpCase[] = [
  ntBase,
  nnBase,
  tnBase,
  combine.combineBase,
  combine.combineBackwardBase,
  routing.routeBase,
  routing.routeBackwardBase,
  routing.balanceBase,
  routing.sortBase,
  routing.countBase,
  gemmBase,
  dense.embeddingBase,
  dense.embeddingBackwardBase,
  dense.rmsNormBase,
  dense.rmsNormBackwardBase,
  dense.ropeBase,
  attentionBase,
  attentionBackwardBase,
  elementwise.swigluBase,
  elementwise.swigluBackwardBase,
  elementwise.addBase,
  elementwise.scaleBase,
  elementwise.clampBase,
  elementwise.clampBackwardBase,
  elementwise.fillBase,
  elementwise.castBase,
  elementwise.maskGradBase,
  elementwise.columnSumBase,
  lossBase,
  gradNormBase,
  adamwBase,
];

export const allCases: readonly OpCase[] = [
  ...groupedGemmCases,
  ...gemmCases,
  ...routing.routeCases,
  ...routing.routeBackwardCases,
  ...routing.balanceCases,
  ...routing.sortCases,
  ...routing.countCases,
  ...combine.combineCases,
  ...dense.embeddingCases,
  ...dense.rmsNormCases,
  ...dense.ropeCases,
  ...elementwise.elementwiseCases,
  ...attentionCases,
  ...attentionBackwardCases,
  ...lossCases,
  ...gradNormCases,
  ...adamwCases,
];
