// All domains by name, and `generate`: rows of one domain or task, one split, one seed.
import { ConfigError } from "../../../lib/errors.ts";
import { hash32, Rng } from "../rng.ts";
import { TASKS } from "../tasks/index.ts";
import { arithmetic } from "./arithmetic.ts";
import { dates } from "./dates.ts";
import { facts } from "./facts.ts";
import { glossary } from "./glossary.ts";
import { intents } from "./intents.ts";
import { json } from "./json.ts";
import { logic } from "./logic.ts";
import { lookup } from "./lookup.ts";
import { programs } from "./programs.ts";
import { proseDe } from "./prose_de.ts";
import { proseEn } from "./prose_en.ts";
import { proseZh } from "./prose_zh.ts";
import { strings } from "./strings.ts";
import type { Domain, Row } from "./types.ts";
import { units } from "./units.ts";

export type { Domain, Message, Row } from "./types.ts";

/** The domains of the pretraining mix. */
export const DOMAINS: readonly Domain[] = [
  arithmetic,
  strings,
  json,
  dates,
  units,
  proseEn,
  proseDe,
  proseZh,
  programs,
  lookup,
  intents,
  facts,
  logic,
  glossary,
];

export const SPLITS = ["train", "validation", "test"] as const;
export type Split = (typeof SPLITS)[number];

/** Of twenty contents one is for validation and one for test, by a hash of its key: no content is ever in two splits, whatever the seeds. */
export function splitOf(domain: string, key: string): Split {
  const part = hash32(`${domain}\u0000${key}`) % 20;
  return part === 0 ? "validation" : part === 10 ? "test" : "train";
}

/** So many known rows in a row mean that a domain has no more new ones. */
const MAX_REPEATS = 200;

/** `count` rows of a domain or task by name; the same arguments give the same rows. */
export function generate(name: string, seed: number, count: number, split: Split = "train"): Row[] {
  const all = [...DOMAINS, ...TASKS];
  const domain = all.find((one) => one.name === name);
  if (domain === undefined) {
    const known = all.map((one) => one.name).join(", ");
    throw new ConfigError(`domain must be one of ${known}; found ${JSON.stringify(name)}`, { where: { domain: name } });
  }
  return rowsOf(domain, seed, count, split);
}

/** Rows of a domain; those that are held out are all different. */
export function rowsOf(domain: Domain, seed: number, count: number, split: Split): Row[] {
  const { name, splitAs = name } = domain;
  const rng = new Rng(`${name}/${split}/${seed}`);
  const rows: Row[] = [];
  const seen = new Set<string>();
  let repeats = 0;
  while (rows.length < count) {
    if (repeats > MAX_REPEATS) {
      throw new ConfigError(`domain ${name} has only about ${rows.length} different ${split} rows; found count ${count}, ask for fewer`, {
        where: { domain: name, split, count },
      });
    }
    // Nothing stands twice in one row.
    const used = new Set<string>();
    const row = domain.make(rng, (key) => {
      if (used.has(key) || splitOf(splitAs, key) !== split) return false;
      used.add(key);
      return true;
    });
    if (split !== "train") {
      const text = JSON.stringify(row);
      repeats = seen.has(text) ? repeats + 1 : 0;
      if (repeats > 0) continue;
      seen.add(text);
    }
    rows.push(row);
  }
  return rows;
}
