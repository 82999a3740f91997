// Valid inputs that several formats begin with.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ErrorClass } from "../../../lib/files/json.ts";
import { parseStrictJson } from "../../../lib/files/json.ts";
import { sealedJson } from "../../../lib/files/sealed.ts";
import { jsonOf } from "../tree.ts";

export const families = ["olmoe", "olmoe-gqa-clip", "deepseek-v2", "deepseek-v2-lite"];

export const readJson = (path: string): Record<string, unknown> => JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
export const readFamily = (family: string): Record<string, unknown> => readJson(join("test/fixtures/families", family, "config.json"));

/** As readJsonFile has it, without the file: for most cases, since files are slow. */
export function parseBytes(bytes: Uint8Array, file: string, Failure: ErrorClass): unknown {
  try {
    return parseStrictJson(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new Failure(`${file}: expected valid JSON, found: ${(cause as Error).message}`, { cause });
  }
}

/** A changed file sealed again; null where it is no object that can be printed. What JSON cannot say (1e999) is then null. */
export function resealed(bytes: Uint8Array): { readonly value: Record<string, unknown>; readonly text: string } | null {
  const value = jsonOf(bytes)?.value;
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  try {
    return { value: JSON.parse(JSON.stringify(value)) as Record<string, unknown>, text: sealedJson(value as Record<string, unknown>) };
  } catch {
    return null; // nested too deeply
  }
}
