// Stage "tables": the case tables against the reference, on every path, and the same bits again. Grouped products, attention and routing
// are required; the other ops follow as far as time allows.

import { attentionBackwardCases, attentionCases, attentionTileCases } from "../../../test/ops/cases/attention.ts";
import { cachedCases } from "../../../test/ops/cases/attention_cached.ts";
import { groupedGemmCases, groupedGemmTileCases } from "../../../test/ops/cases/grouped_gemm.ts";
import { gemmTileCases } from "../../../test/ops/cases/gemm.ts";
import { allCases } from "../../../test/ops/cases/index.ts";
import { balanceCases, countCases, routeBackwardCases, routeCases, sortCases } from "../../../test/ops/cases/routing.ts";
import { lossTileCases } from "../../../test/ops/cases/training.ts";
import { cudaDevice, expectSameBits, expectValue, forms, hasClusters } from "../../../test/cuda/support.ts";
import { run } from "../../../test/ops/support.ts";
import type { OpCase } from "../../../test/ops/support.ts";
import type { Item, StageContext } from "../item.ts";

const required: readonly (readonly OpCase[])[] = [
  [...groupedGemmTileCases, ...groupedGemmCases],
  [...attentionTileCases, ...attentionCases, ...attentionBackwardCases, ...cachedCases],
  [...routeCases, ...routeBackwardCases, ...balanceCases, ...sortCases, ...countCases],
];
const asked = new Set(required.flat());
const rest = [...gemmTileCases, ...lossTileCases, ...allCases.filter((c) => !asked.has(c))];

async function check(c: OpCase, make: () => Parameters<typeof expectValue>[1]): Promise<void> {
  const args = make();
  await expectValue(c, args);
  if (c.cudaUnsupported) return;
  const first = await run(cudaDevice()!, c.op, args);
  expectSameBits("again", await run(cudaDevice()!, c.op, args), first);
  if (hasClusters(c.op)) expectSameBits("clusters", await run(cudaDevice({ cluster: "2" })!, c.op, args), first);
}

const rows = (cases: readonly OpCase[], optional: boolean): Item[] =>
  cases.flatMap((c) =>
    forms(c).map(({ name, args }): Item => ({
      name,
      optional,
      patience: 10,
      run: async () => {
        await check(c, args);
        return { text: "right, same bits" };
      },
    })),
  );

export function items({ dry }: StageContext): Item[] {
  const every = dry ? 24 : 1;
  const some = (cases: readonly OpCase[]): OpCase[] => cases.filter((_, i) => i % every === every - 1 || every === 1);
  return [...required.flatMap((cases) => rows(some(cases), false)), ...(dry ? [] : rows(rest, true))];
}
