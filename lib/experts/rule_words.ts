// The rule of an expert set in words, for tables and pages.

import { count } from "../format.ts";
import type { SelectionRule } from "./expert_set.ts";

/** "token scores up to p = 0.2, in groups of 2 neighbours"; null where the rule is not known. */
export function ruleWords(rule: SelectionRule | undefined): string | null {
  if (rule === undefined) return null;
  const { score, average, gateNormalize, p, compat, topKPerLayer, maxTrainableParams, fixed, groupSize, random, seed } = rule;
  const how = [
    ...(gateNormalize === "perLayer" ? ["scaled per layer"] : []),
    ...(average === "sequences" ? ["averaged over sequences"] : []),
    ...(compat === undefined ? [] : [`as in ${String(compat)}`]),
  ];
  const by = `${String(score ?? "unknown")} scores${how.length === 0 ? "" : ` (${how.join(", ")})`}`;
  const words: string[] = [];
  if (fixed !== undefined) words.push("experts that were named");
  else if (p !== undefined) words.push(`${by} up to p = ${String(p)}`);
  else if (topKPerLayer !== undefined) words.push(`the best ${String(topKPerLayer)} of each layer by ${by}`);
  else if (typeof maxTrainableParams === "number") words.push(`the best within ${count(maxTrainableParams)} parameters by ${by}`);
  if (groupSize !== undefined) words.push(`in groups of ${String(groupSize)} neighbours`);
  if (random !== undefined) words.push(`as many drawn at random, seed ${String(random === true ? seed : random)}`);
  return words.length === 0 ? null : words.join(", ");
}
