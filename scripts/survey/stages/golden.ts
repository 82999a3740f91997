// Stage "golden": whole tiny models in bf16 against the numbers of Hugging Face, on the kernels of this GPU and on those of any.

import path from "node:path";
import { cudaDevice } from "../../../test/cuda/support.ts";
import type { Variant } from "../../../test/cuda/support.ts";
import { checkFamily } from "../../../test/golden/families.ts";
import { root } from "../../run.ts";
import { Broken } from "../item.ts";
import type { Item, StageContext } from "../item.ts";

const folder = path.join(root, "test", "fixtures", "families");
const paths: readonly Variant[] = [{}, { path: "portable" }];

function family(name: string, variant: Variant, dry: boolean, optional: boolean): Item {
  return {
    name: `${name}, ${variant.path ?? "this GPU's path"}`,
    optional,
    needs: 5,
    patience: 20,
    run: async () => {
      const began = performance.now();
      const { outcome, failures, checks, compared } = await checkFamily(cudaDevice(variant)!, path.join(folder, name), dry ? 1 : Infinity);
      if (outcome !== "pass") throw new Broken(`${outcome}: ${failures.slice(0, 3).join("; ")}`);
      // How near the tightest check is to its bound.
      const nearest = checks.filter((c) => c.limit > 0).toSorted((a, b) => b.error / b.limit - a.error / a.limit)[0];
      const bound = nearest ? `, nearest to its bound: ${nearest.name} at ${((nearest.error / nearest.limit) * 100).toFixed(0)} %` : "";
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      return { text: `${checks.length} checks of ${compared} comparisons in ${seconds} s${bound}` };
    },
  };
}

export function items({ dry }: StageContext): Item[] {
  if (dry) return [family("olmoe", {}, dry, false), family("deepseek-v2-lite", { path: "portable" }, dry, false)];
  const both = (names: readonly string[], optional: boolean): Item[] =>
    names.flatMap((name) => paths.map((variant) => family(name, variant, dry, optional)));
  return [...both(["olmoe", "deepseek-v2-lite"], false), ...both(["olmoe-gqa-clip", "deepseek-v2"], true)];
}
