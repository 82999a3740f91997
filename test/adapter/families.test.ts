// An adapter that changes nothing, merged into every committed family fixture: the merged tensors are byte for byte those of the base,
// in its layout (f32, bf16, experts apart or fused). No GPU. Run alone: npx vitest run test/adapter/families.test.ts

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { mergeAdapter } from "../../lib/adapter/merge.ts";
import { verifyMerge } from "../../lib/adapter/verify_merge.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import type { Checkpoint } from "../../lib/files/checkpoint.ts";
import { placeSlice } from "../../lib/files/slice.ts";
import { checkpointSpec } from "../../lib/model/families/index.ts";
import { fileShape, parameterShapes } from "../../lib/model/spec.ts";
import { fresh } from "./support.ts";

const root = "test/fixtures/families";

/** The first and the last expert of every sparse layer, as the base has them. */
async function unchanged(base: Checkpoint): Promise<Adapter> {
  const spec = checkpointSpec(base);
  const last = (l: number): number => {
    const mlp = spec.layers[l]?.mlp;
    return mlp?.kind === "moe" ? mlp.experts.length - 1 : 0;
  };
  const tensors = parameterShapes(spec).flatMap(({ ref, role, layer, expert, part, ...p }) => {
    const shape = fileShape(p);
    if (expert === undefined || part === undefined || (expert !== 0 && expert !== last(layer))) return [];
    const whole = base.tensors.get(ref.name)!;
    const { begin, end } = placeSlice(ref, whole, shape);
    const read = async () => (await base.read(ref.name)).subarray(begin, end);
    return [{ ...ref, role, layer, expert, part, dtype: whole.dtype, shape, read }];
  });
  return new Adapter({ method: { type: "full" }, base: { identity: null }, experts: null, tensors });
}

describe("an adapter that changes nothing", () => {
  it.each(readdirSync(root))("leaves every byte of %s", async (name) => {
    const base = await openCheckpoint(join(root, name));
    const out = join(fresh(), "merged");
    const adapter = await unchanged(base);
    expect(adapter.tensors.size).toBeGreaterThan(0);
    await mergeAdapter(base, adapter, out);
    const merged = await openCheckpoint(out);
    expect([...merged.tensors.keys()]).toEqual([...base.tensors.keys()]);
    for (const [tensor, { dtype, shape }] of base.tensors) {
      expect(merged.tensors.get(tensor)).toMatchObject({ dtype, shape });
      expect(Buffer.compare(await merged.read(tensor), await base.read(tensor)), tensor).toBe(0);
    }
    expect(await verifyMerge(base, adapter, out)).toMatchObject({ ok: true, mismatches: [] });
  });
});
