// Figure 3 of the ESFT paper: of the experts that one task uses most in a layer, how many another task has among its own.
import type { Profile } from "../../lib/index.ts";

/** As many as the router takes for a token. */
export const TOP = 4;

/** [task][task]: experts among the TOP of both, mean over the layers. */
export function sharedExperts(profiles: readonly Profile[]): number[][] {
  const tops = profiles.map((p) => {
    const { layers } = p.select({ score: "token", topKPerLayer: TOP });
    return p.layers.map((layer) => new Set(layers.get(layer)!.ranked));
  });
  return tops.map((of) =>
    tops.map((other) => of.reduce((sum, experts, l) => sum + [...experts].filter((e) => other[l]!.has(e)).length, 0) / of.length),
  );
}

/** Mean over the pairs of different tasks. */
export const meanShared = (shared: readonly (readonly number[])[]): number => {
  const pairs = shared.flatMap((row, a) => row.filter((_, b) => b !== a));
  return pairs.reduce((sum, x) => sum + x, 0) / pairs.length;
};

export function overlapTable(names: readonly string[], shared: readonly (readonly number[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [
    line(["", ...names]),
    line(names.map(() => "---:").toSpliced(0, 0, "---")),
    ...names.map((name, a) => line([name, ...shared[a]!.map((x) => x.toFixed(1))])),
    "",
    `Of the ${TOP} experts of 32 that a task uses most, those that are among the ${TOP} of the other, mean over the layers; by chance ${((TOP * TOP) / 32).toFixed(1)}.`,
  ].join("\n");
}
