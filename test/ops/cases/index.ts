// Every case of every op, and one small valid call per op (the base of refusals and of the fuzz test).

import type { OpCase } from "../support.ts";
import { attentionBackwardBase, attentionBackwardCases, attentionBase, attentionCases } from "./attention.ts";
import * as dense from "./dense.ts";
import { gemmBase, gemmCases } from "./gemm.ts";
import { groupedGemmCases, nnBase, ntBase, tnBase } from "./grouped_gemm.ts";
import * as routing from "./routing.ts";
import { adamwBase, adamwCases, gradNormBase, gradNormCases, lossBase, lossCases } from "./training.ts";

export const bases: readonly OpCase[] = [
  ntBase,
  nnBase,
  tnBase,
  routing.combineBase,
  routing.combineBackwardBase,
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
  dense.swigluBase,
  dense.swigluBackwardBase,
  dense.addBase,
  dense.scaleBase,
  dense.clampBase,
  dense.clampBackwardBase,
  dense.fillBase,
  dense.castBase,
  dense.maskGradBase,
  dense.columnSumBase,
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
  ...routing.combineCases,
  ...dense.embeddingCases,
  ...dense.rmsNormCases,
  ...dense.ropeCases,
  ...dense.elementwiseCases,
  ...attentionCases,
  ...attentionBackwardCases,
  ...lossCases,
  ...gradNormCases,
  ...adamwCases,
];
