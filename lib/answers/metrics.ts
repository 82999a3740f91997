// The metrics by their names: "exact,rouge-l,./mine.mjs".

import { listArgument, textArgument } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import { nearest } from "../options/suggest.ts";
import { bleu, bleuZh } from "./bleu.ts";
import { exact, exactSquad } from "./exact.ts";
import { intent } from "./intent.ts";
import { json, jsonExact, jsonValid } from "./json_match.ts";
import type { Metric } from "./metric.ts";
import { isModulePath, moduleMetric } from "./module.ts";
import { regex, regexFull } from "./pattern.ts";
import { rougeLMetric } from "./rouge.ts";

const known: readonly Metric[] = [exact, exactSquad, rougeLMetric, bleu, bleuZh, json, jsonExact, jsonValid, regex, regexFull, intent];

export const metricNames: readonly string[] = known.map(({ name }) => name);

/**
 * Metrics in the order of their names; a path of a .js, .mjs or .cjs file is a user's module (module.ts), which is run.
 * @throws ConfigError listing the names, where one is unknown, empty or stands twice
 */
export async function metricsByName(list: string | readonly string[], key = "metric"): Promise<Metric[]> {
  const words = (typeof list === "string" ? list.split(",") : listArgument(list, key)).map((word) => textArgument(word, key).trim());
  const fail = (says: string): never => {
    const all = `expected one or more of ${metricNames.join(", ")}, or the path of a JavaScript module`;
    throw new ConfigError(`${key}: ${all}; found ${says}`, { where: { key } });
  };
  const metrics: Metric[] = [];
  for (const [i, word] of words.entries()) {
    if (word === "") fail(words.length === 1 ? "none" : "an empty name");
    if (words.indexOf(word) < i) fail(`"${word}" twice`);
    const metric = known.find(({ name }) => name === word) ?? (isModulePath(word) ? await moduleMetric(word) : null);
    if (metric === null) {
      const meant = nearest(word, metricNames);
      return fail(`"${word}"${meant === undefined ? "" : `; did you mean ${meant}?`}`);
    }
    metrics.push(metric);
  }
  return metrics.length === 0 ? fail("none") : metrics;
}
