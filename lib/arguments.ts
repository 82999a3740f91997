// Arguments of public functions, as plain JavaScript may give them: each check says the argument's name, what was expected and what was
// found. Getters and proxies of a caller may throw, so that everything is read once, here.

import { isAbsolute } from "node:path";
import { ConfigError, EsftError, IoError } from "./errors.ts";
import { shown } from "./options.ts";

function refuse(key: string, expected: string, value: unknown): never {
  throw new ConfigError(`${key}: expected ${expected}, found ${shown(value)}`, { where: { key } });
}

/** Runs what reads a caller's object; what that throws is the caller's fault, not ours. */
export function readSafely<T>(key: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (cause instanceof EsftError) throw cause;
    const why = cause instanceof Error ? cause.message : "it threw";
    throw new ConfigError(`${key}: expected values that can be read, found one that cannot (${why})`, { where: { key }, cause });
  }
}

export function textArgument(value: unknown, key: string): string {
  return typeof value === "string" ? value : refuse(key, "a string", value);
}

/** A path of a file or a folder: a word that is not empty and that the system can take. */
export function pathArgument(value: unknown, key: string): string {
  if (typeof value !== "string" || value === "") return refuse(key, "a path", value);
  if (value.includes("\0")) return refuse(key, "a path without NUL", value);
  if (!isAbsolute(value))
    try {
      process.cwd();
    } catch (cause) {
      throw new IoError(`${key}: ${value} is relative to the current folder, which is gone; change to one that exists`, {
        where: { key, file: value, errno: "ENOENT" },
        cause,
      });
    }
  return value;
}

/** An object of options as a copy of its own; absent is empty. `signal` and `onProgress` are checked, wherever they occur. */
export function optionsArgument<T extends object>(value: T | undefined, key: string): T {
  if (value === undefined) return {} as T;
  if (typeof value !== "object" || value === null || readSafely(key, () => Array.isArray(value)))
    return refuse(key, "an object of options", value);
  const copy = readSafely(key, () => ({ ...value }));
  const { signal, onProgress } = copy as { signal?: unknown; onProgress?: unknown };
  if (signal !== undefined && !(signal instanceof AbortSignal)) refuse(`${key}.signal`, "an AbortSignal", signal);
  if (onProgress !== undefined && typeof onProgress !== "function") refuse(`${key}.onProgress`, "a function", onProgress);
  return copy;
}

export function instanceArgument<T>(value: unknown, type: abstract new (...args: never[]) => T, key: string): T {
  return readSafely(key, () => value instanceof type) ? (value as T) : refuse(key, `an object of class ${type.name}`, value);
}

/** Something that can be iterated, as an array. */
export function listArgument<T>(value: Iterable<T>, key: string): T[] {
  const iterable = readSafely(key, () => typeof value === "object" && value !== null && Symbol.iterator in value);
  return iterable ? readSafely(key, () => [...value]) : refuse(key, "a list", value);
}

export function wholeArgument(value: unknown, key: string): number {
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : refuse(key, "a whole number >= 0", value);
}

/** An object with these methods or properties, of whatever class. */
export function shapeArgument<T extends object>(value: T, has: readonly (keyof T & string)[], expected: string, key: string): T {
  const fits = readSafely(
    key,
    () => typeof value === "object" && value !== null && has.every((name) => value[name] !== undefined && value[name] !== null),
  );
  return fits ? value : refuse(key, expected, value);
}
