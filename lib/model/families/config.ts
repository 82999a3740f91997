// Typed access to config.json for the family files: every field is checked, and the error names file and key.

import { ConfigError } from "../../errors.ts";

export type JsonObject = { readonly [key: string]: unknown };

export class ConfigReader {
  readonly config: JsonObject;
  readonly source: string;
  constructor(config: JsonObject, source: string) {
    this.config = config;
    this.source = source;
  }

  private fail(key: string, expected: string): never {
    throw new ConfigError(`${this.source}: "${key}" must be ${expected}, found ${JSON.stringify(this.config[key]) ?? "nothing"}`, {
      where: { file: this.source, key },
    });
  }

  /** A positive integer (fallback only when the key is absent or null). */
  int(key: string, fallback?: number, min = 1): number {
    const v = this.config[key] ?? fallback;
    if (typeof v !== "number" || !Number.isSafeInteger(v) || v < min || v > 2 ** 31) this.fail(key, `an integer >= ${min}`);
    return v;
  }
  /** An integer or null/absent. */
  intOrNull(key: string): number | null {
    return this.config[key] === null || this.config[key] === undefined ? null : this.int(key);
  }
  number(key: string, fallback?: number): number {
    const v = this.config[key] ?? fallback;
    if (typeof v !== "number" || !Number.isFinite(v)) this.fail(key, "a finite number");
    return v;
  }
  numberOrNull(key: string): number | null {
    return this.config[key] === null || this.config[key] === undefined ? null : this.number(key);
  }
  bool(key: string, fallback: boolean): boolean {
    const v = this.config[key] ?? fallback;
    if (typeof v !== "boolean") this.fail(key, "true or false");
    return v;
  }
  string(key: string, fallback?: string): string {
    const v = this.config[key] ?? fallback;
    if (typeof v !== "string") this.fail(key, "a string");
    return v;
  }
  oneOf<T extends string>(key: string, allowed: readonly T[], fallback?: T): T {
    const v = this.string(key, fallback);
    if (!(allowed as readonly string[]).includes(v)) this.fail(key, `one of ${allowed.map((a) => JSON.stringify(a)).join(", ")}`);
    return v as T;
  }
  object(key: string): JsonObject | null {
    const v = this.config[key];
    if (v === null || v === undefined) return null;
    if (typeof v !== "object" || Array.isArray(v)) this.fail(key, "an object or null");
    return v as JsonObject;
  }
  /** Refuses a field that would change the computation and is not supported. */
  requireValue(key: string, allowed: readonly unknown[]): void {
    const v = this.config[key];
    if (v !== undefined && !allowed.some((a) => a === v))
      this.fail(key, `${allowed.map((a) => JSON.stringify(a)).join(" or ")} (nothing else is supported)`);
  }
  eosIds(): number[] {
    const v = this.config["eos_token_id"];
    if (v === null || v === undefined) return [];
    const list = Array.isArray(v) ? v : [v];
    if (!list.every((x): x is number => Number.isSafeInteger(x))) this.fail("eos_token_id", "an integer or a list of integers");
    return list;
  }
}
