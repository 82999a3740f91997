// What a file belongs to, as facts that are compared when work goes on from it: key paths, and values as JSON.

import { isPlain } from "../options.ts";

export function flatFacts(facts: unknown, path = ""): Map<string, string> {
  if (!isPlain(facts)) return new Map([[path, JSON.stringify(facts)]]);
  return new Map(Object.entries(facts).flatMap(([key, value]) => [...flatFacts(value, path === "" ? key : `${path}.${key}`)]));
}

/** A hash by its beginning, where that tells it from the other one. */
export function shownFact(value: string | undefined, other: string | undefined): string {
  if (value === undefined || value === "null") return "none";
  const short = /^"[0-9a-f]{64}/.test(value) && value.slice(0, 13) !== other?.slice(0, 13);
  return short ? value.slice(1, 13) : value;
}
