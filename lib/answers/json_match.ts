// Answers that should be JSON, white space around it aside: a fence or a word beside it makes it none.
//
//   json         share of leaves that answer and reference have in common: 2·common / (leaves of the one + of the other), so 1 exactly
//                where both are deeply equal, and 0 for an answer that is not JSON
//   json-exact   1 where both are deeply equal, else 0
//   json-valid   1 where the answer is JSON; the reference is not read
//
// A leaf is a scalar, an empty list or an empty object together with its path. The order of an object's keys does not count, that of a
// list does; 1 and 1.0 are one number, and integers beyond 2^53 are told apart as f64 only. Keys that stand twice are no JSON here: what
// such an object holds depends on the reader.

import { DataError } from "../errors.ts";
import { parseStrictJson } from "../files/json.ts";
import { isPlain } from "../options.ts";
import { bestOf, meanMetric } from "./metric.ts";
import type { Answered } from "./metric.ts";

type Leaves = ReadonlyMap<string, string>;

function leaves(value: unknown, path = "", into = new Map<string, string>()): Leaves {
  if (Array.isArray(value) && value.length > 0) for (const [i, item] of value.entries()) leaves(item, `${path}[${i}]`, into);
  else if (isPlain(value) && Object.keys(value).length > 0)
    for (const [key, item] of Object.entries(value)) leaves(item, `${path}.${JSON.stringify(key)}`, into);
  else into.set(path, typeof value === "number" ? String(value) : JSON.stringify(value)); // 1e999 is no null
  return into;
}

/** @returns null: it is no JSON */
function read(text: string): Leaves | null {
  try {
    return leaves(parseStrictJson(text));
  } catch {
    return null;
  }
}

function readReference(text: string, place: string): Leaves {
  try {
    return leaves(parseStrictJson(text));
  } catch (cause) {
    const says = `${place}: expected a reference in JSON, found: ${(cause as Error).message}`;
    throw new DataError(says, { where: { place }, cause });
  }
}

function inCommon(a: Leaves, b: Leaves): number {
  let common = 0;
  for (const [path, value] of a) if (b.get(path) === value) common++;
  return (2 * common) / (a.size + b.size);
}

function share(row: Answered): number {
  const answer = read(row.answer);
  return bestOf(row, (text) => {
    const reference = readReference(text, row.place);
    return answer === null ? 0 : inCommon(answer, reference);
  });
}

export const json = meanMetric("json", share);
export const jsonExact = meanMetric("json-exact", (row) => (share(row) === 1 ? 1 : 0));
export const jsonValid = meanMetric("json-valid", ({ answer }) => (read(answer) === null ? 0 : 1));
