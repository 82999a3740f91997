// Every case of every op, one small valid call per op (the base of refusals and of the fuzz test), and every performance row.

import type { PerfRow } from "../perf.ts";
import type { OpCase } from "../support.ts";
import { attentionBackwardBase, attentionBackwardCases, attentionBase, attentionCases, attentionPerf } from "./attention.ts";
import { cachedBase, cachedCases, cachedPerf } from "./attention_cached.ts";
import * as combine from "./combine.ts";
import * as delta from "./delta.ts";
import * as dense from "./dense.ts";
import { dropoutBase, dropoutCases, dropoutPerf } from "./dropout.ts";
import * as elementwise from "./elementwise.ts";
import * as gates from "./gate.ts";
import { gemmBase, gemmCases, gemmPerf } from "./gemm.ts";
import { groupedColumnSumBase, groupedColumnSumCases, groupedColumnSumPerf } from "./grouped_column_sum.ts";
import { groupedGemmCases, groupedPerf, nnBase, ntBase, tnBase } from "./grouped_gemm.ts";
import { headsGemmBase, headsGemmCases, headsGemmPerf, largeHeadsGemmCases } from "./heads_gemm.ts";
import * as routing from "./routing.ts";
import { largeSampleCases, sampleBase, sampleCases, samplePerf } from "./sample.ts";
import {
  adamwBase,
  adamwCases,
  gradNormBase,
  gradNormCases,
  lossBase,
  lossCases,
  saliencyBase,
  saliencyCases,
  trainingPerf,
} from "./training.ts";
import { transposeBase, transposeCases, transposePerf } from "./transpose.ts";

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
  headsGemmBase,
  dense.embeddingBase,
  dense.embeddingBackwardBase,
  dense.rmsNormBase,
  dense.rmsNormBackwardBase,
  dense.layerNormBase,
  dense.layerNormBackwardBase,
  dense.ropeBase,
  attentionBase,
  attentionBackwardBase,
  cachedBase,
  elementwise.swigluBase,
  elementwise.swigluBackwardBase,
  elementwise.addBase,
  elementwise.scaleBase,
  elementwise.softCapBase,
  elementwise.clampBase,
  elementwise.clampBackwardBase,
  elementwise.fillBase,
  elementwise.castBase,
  elementwise.maskGradBase,
  elementwise.columnSumBase,
  lossBase,
  gradNormBase,
  saliencyBase,
  adamwBase,
  delta.causalConvBase,
  delta.causalConvBackwardBase,
  delta.deltaRuleBase,
  delta.deltaRuleBackwardBase,
  delta.deltaGatesBase,
  delta.deltaGatesBackwardBase,
  delta.regroupBase,
  delta.multiplyBase,
  delta.multiplyBackwardBase,
  dropoutBase,
  gates.gateBase,
  gates.gateBackwardBase,
  gates.scaleRowsBase,
  groupedColumnSumBase,
  transposeBase,
  sampleBase,
];

export const allCases: readonly OpCase[] = [
  ...groupedGemmCases,
  ...groupedColumnSumCases,
  ...gemmCases,
  ...headsGemmCases,
  ...largeHeadsGemmCases,
  ...routing.routeCases,
  ...routing.routeBackwardCases,
  ...routing.balanceCases,
  ...routing.sortCases,
  ...routing.countCases,
  ...combine.combineCases,
  ...dense.embeddingCases,
  ...dense.rmsNormCases,
  ...dense.layerNormCases,
  ...dense.ropeCases,
  ...elementwise.elementwiseCases,
  ...attentionCases,
  ...attentionBackwardCases,
  ...cachedCases,
  ...lossCases,
  ...gradNormCases,
  ...saliencyCases,
  ...adamwCases,
  ...delta.causalConvCases,
  ...delta.deltaRuleCases,
  ...delta.deltaGatesCases,
  ...delta.regroupCases,
  ...delta.multiplyCases,
  ...gates.gateCases,
  ...transposeCases,
  ...dropoutCases,
  ...sampleCases,
  ...largeSampleCases,
];

export const perfRows: readonly PerfRow[] = [
  ...gemmPerf,
  ...headsGemmPerf,
  ...groupedPerf,
  ...groupedColumnSumPerf,
  ...attentionPerf,
  ...cachedPerf,
  ...trainingPerf,
  ...dense.densePerf,
  ...elementwise.elementwisePerf,
  ...routing.routingPerf,
  ...combine.combinePerf,
  ...delta.deltaPerfRows,
  ...gates.gatePerf,
  ...transposePerf,
  ...dropoutPerf,
  ...samplePerf,
];
