// Options checked by their schema, with errors that name the key, what was expected, and the nearest valid key.

import type { z } from "zod";
import { ConfigError } from "../errors.ts";

/** Levenshtein distance, for suggestions. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length]!;
}

/** The nearest of `valid` to `word`. */
export function nearest(word: string, valid: readonly string[]): string | undefined {
  return [...valid].sort((a, b) => distance(word.toLowerCase(), a.toLowerCase()) - distance(word.toLowerCase(), b.toLowerCase()))[0];
}

function keysAt(schema: unknown, path: readonly PropertyKey[]): string[] {
  let s = schema as
    | { shape?: Record<string, unknown>; unwrap?: () => unknown; options?: unknown[]; def?: { innerType?: unknown } }
    | undefined;
  const unwrap = (x: typeof s): typeof s => {
    while (x && !x.shape && !x.options && x.def?.innerType) x = x.def.innerType as typeof s;
    return x;
  };
  s = unwrap(s);
  for (const key of path) s = unwrap(s?.shape?.[String(key)] as typeof s);
  if (s?.shape) return Object.keys(s.shape);
  return (s?.options ?? []).flatMap((o) => Object.keys((o as { shape?: object }).shape ?? {}));
}

/** @throws ConfigError the first problem, with its key path */
export function parseOptions<S extends z.ZodType>(schema: S, value: unknown, source: string): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  // A misspelt key explains the missing one better than the other way round.
  const issue = result.error.issues.find((i) => i.code === "unrecognized_keys") ?? result.error.issues[0]!;
  const at = [source, ...issue.path.map(String)].filter((s) => s !== "").join(".");
  if (issue.code === "unrecognized_keys") {
    const key = issue.keys[0]!;
    const valid = keysAt(schema, issue.path);
    const hint = nearest(key, valid);
    throw new ConfigError(`${at}: unknown key "${key}"${hint ? `; did you mean "${hint}"?` : ""} (valid: ${valid.join(", ")})`, {
      where: { key: [...issue.path.map(String), key].join(".") },
    });
  }
  let found: unknown = value;
  for (const key of issue.path) found = (found as Record<PropertyKey, unknown> | undefined)?.[key];
  throw new ConfigError(`${at}: ${issue.message}, found ${JSON.stringify(found) ?? "nothing"}`, {
    where: { key: issue.path.map(String).join(".") },
  });
}
