// Strict JSON: what JSON.parse lets through silently (duplicate keys, nesting and size bombs) is refused, and every
// failure is a typed error that names the file. Also the one way this project prints JSON.
import type { z } from "zod";
import type { EsftErrorOptions } from "../errors.ts";
import { readSafely } from "../arguments.ts";
import { LayoutError } from "../errors.ts";
import { RegularFile } from "./regular.ts";

/** The error class that fits the file: ConfigError for what a user writes, LayoutError for checkpoints and adapters. */
export type ErrorClass = new (message: string, options?: EsftErrorOptions) => Error;

export interface StrictJsonLimits {
  readonly maxDepth?: number;
  /** Bounds keys plus commas, so that a small file cannot become gigabytes of objects. */
  readonly maxItems?: number;
}

/** Parses JSON; a duplicate key, too deep nesting or too many items is an Error with a plain message (no file name). */
export function parseStrictJson(text: string, limits: StrictJsonLimits = {}): unknown {
  scan(text, limits.maxDepth ?? 64, limits.maxItems ?? 16_000_000);
  return JSON.parse(text) as unknown;
}

const QUOTE = 34;
const BACKSLASH = 92;

/** One pass over the text. Broken JSON may pass here; JSON.parse refuses it afterwards. */
function scan(text: string, maxDepth: number, maxItems: number): void {
  const keys: (Set<string> | null)[] = []; // one per open bracket; null = array
  let items = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === QUOTE) {
      const begin = i;
      let escaped = false;
      for (i++; i < text.length && text.charCodeAt(i) !== QUOTE; i++) {
        if (text.charCodeAt(i) === BACKSLASH) {
          escaped = true;
          i++;
        }
      }
      const top = keys.at(-1);
      if (!top || !followedByColon(text, i + 1)) continue;
      const key = escaped ? decodeKey(text.slice(begin, i + 1)) : text.slice(begin + 1, i);
      if (key === null) return; // broken escape: JSON.parse words it
      if (key === "__proto__") throw new Error('the key "__proto__", which no format of ours has'); // what copies an object may lose it
      if (top.has(key)) throw new Error(`duplicate key ${JSON.stringify(key.slice(0, 200))}`);
      top.add(key);
      items++;
    } else if (c === 123 /* { */ || c === 91 /* [ */) {
      keys.push(c === 123 ? new Set() : null);
      if (keys.length > maxDepth) throw new Error(`nesting deeper than ${maxDepth}`);
      items++;
    } else if (c === 125 || c === 93) {
      keys.pop();
    } else if (c === 44 /* , */) {
      items++;
    }
    if (items > maxItems) throw new Error(`more than ${maxItems} items`);
  }
}

const COLON = /[ \t\r\n]*:/y;

function followedByColon(text: string, i: number): boolean {
  COLON.lastIndex = i;
  return COLON.test(text);
}

function decodeKey(quoted: string): string | null {
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return null;
  }
}

/** Reads and strictly parses a JSON file of at most `maxBytes`. */
export async function readJsonFile(
  path: string,
  Failure: ErrorClass,
  options: StrictJsonLimits & { maxBytes?: number } = {},
): Promise<unknown> {
  const maxBytes = options.maxBytes ?? 256 * 1024 * 1024;
  const fail = (message: string, cause?: unknown): never => {
    throw new Failure(`${path}: expected ${message}`, { where: { file: path }, cause });
  };
  await using file = await RegularFile.open(path);
  if (file.size > maxBytes) fail(`at most ${maxBytes} bytes of JSON, found ${file.size}`);
  const bytes = await file.content();
  try {
    return parseStrictJson(new TextDecoder("utf-8", { fatal: true }).decode(bytes), options);
  } catch (error) {
    return fail(`valid JSON, found: ${(error as Error).message}`, error);
  }
}

/** Checks a parsed value against a schema; the error lists the first five faults with their key paths. */
export function checkSchema<S extends z.ZodType>(schema: S, value: unknown, file: string, Failure: ErrorClass = LayoutError): z.output<S> {
  const parsed = readSafely(file, () => schema.safeParse(value));
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.slice(0, 5).map((i) => `${i.path.length ? i.path.map(String).join(".") : "(top)"}: ${i.message}`);
  const more = parsed.error.issues.length - faults.length;
  throw new Failure(`${file}: ${faults.join("; ")}${more > 0 ? `; and ${more} more` : ""}`, {
    where: { file, key: parsed.error.issues[0]?.path.map(String).join(".") },
  });
}

/** Two-space JSON with arrays of scalars on one line and a final newline. */
export function formatJson(value: unknown): string {
  // Inside JSON text a raw newline never occurs within a string, so "[ newline scalar, newline … ]" is unambiguous.
  const scalar = String.raw`(?:-?[\d.eE+-]+|"(?:[^"\\\n]|\\.)*"|true|false|null)`;
  const flat = new RegExp(String.raw`\[\n\s*(${scalar}(?:,\n\s*${scalar})*)\n\s*\]`, "g");
  return JSON.stringify(value, null, 2).replace(flat, (_, body: string) => `[${body.replace(/,\n\s*/g, ", ")}]`) + "\n";
}
