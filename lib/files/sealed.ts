// JSON files that carry their own sha256, as their last key: over the whole text, with zeros in the place of the hash.
import { LayoutError } from "../errors.ts";
import type { ErrorClass } from "./json.ts";
import { formatJson, parseStrictJson } from "./json.ts";
import { sha256 } from "./hash.ts";
import { readTextFile } from "./regular.ts";

const ZEROS = "0".repeat(64);
const SEAL = /"sha256": "([0-9a-f]{64})"\n\}\n$/;

/** The text of a file that holds `value` and its hash. */
export function sealedJson(value: Readonly<Record<string, unknown>>): string {
  const blank = formatJson({ ...value, sha256: ZEROS });
  return blank.replace(SEAL, (seal) => seal.replace(ZEROS, sha256(blank)));
}

/**
 * Reads such a file. @returns what it holds without the hash; `sealed` false: it has none
 * @throws LayoutError it was changed after it was written · Failure it is no JSON · IoError
 */
export async function readSealedJson(path: string, Failure: ErrorClass = LayoutError): Promise<{ value: unknown; sealed: boolean }> {
  const text = await readTextFile(path, 2 ** 28);
  const expected = SEAL.exec(text)?.[1];
  if (expected !== undefined) {
    const found = sha256(text.replace(SEAL, (seal) => seal.replace(expected, ZEROS)));
    if (found !== expected) throw damaged(path, expected, found);
  }
  let value: unknown;
  try {
    value = parseStrictJson(text);
  } catch (cause) {
    throw new Failure(`${path}: expected valid JSON, found: ${(cause as Error).message}`, { where: { file: path }, cause });
  }
  if (typeof value !== "object" || value === null || !("sha256" in value)) return { value, sealed: false };
  if (expected === undefined) throw damaged(path, "at the end of the file", "elsewhere");
  const { sha256: _, ...rest } = value;
  return { value: rest, sealed: true };
}

/** A file whose bytes are not those that were written. */
export function damaged(path: string, expected: string, found: string, cause?: unknown): LayoutError {
  return new LayoutError(`${path}: expected sha256 ${expected}, found ${found}; the file was damaged or changed after it was written`, {
    where: { file: path, expected, found },
    cause,
  });
}
