// Typed access to config.json for the family files: every field is checked, and the error names file and key.

import { ConfigError } from "../../errors.ts";

export type JsonObject = { readonly [key: string]: unknown };

/** What numbers of published models lie well within; outside, config.json is damaged. */
export const ranges = {
  /** Added to a mean of squares. */
  eps: [1e-12, 1e-2],
  theta: [2, 1e12],
  /** Factors on weights, scores, angles and lengths. */
  factor: [1e-3, 1e4],
  /** Factors by which positions are stretched. */
  stretch: [1, 1e4],
  /** NTK: the base of rotary angles is stretched by a power of it. */
  alpha: [1, 1e6],
  /** Of yarn; 0 turns it off. */
  mscale: [0, 100],
  clip: [1e-3, 1e6],
  /** Dimensions of a head. */
  headDim: [1, 2 ** 16],
  positions: [1, 2 ** 27],
} as const satisfies Record<string, Range>;

export type Range = readonly [min: number, max: number];

export class ConfigReader {
  readonly config: JsonObject;
  readonly source: string;
  /** What was asked for: key → value, fallbacks included. */
  readonly read = new Map<string, unknown>();
  constructor(config: JsonObject, source: string) {
    this.config = config;
    this.source = source;
  }

  fail(key: string, expected: string): never {
    throw new ConfigError(`${this.source}: "${key}" must be ${expected}, found ${JSON.stringify(this.config[key]) ?? "nothing"}`, {
      where: { file: this.source, key },
    });
  }

  private value(key: string, fallback: unknown): unknown {
    const value = this.config[key] ?? fallback;
    this.read.set(key, value);
    return value;
  }

  /** An integer, positive unless the range says otherwise (fallback only when the key is absent or null). */
  int(key: string, fallback?: number, [min, max]: Range = [1, 2 ** 31]): number {
    const v = this.value(key, fallback);
    if (typeof v !== "number" || !Number.isSafeInteger(v) || v < min || v > max) this.fail(key, `an integer from ${min} to ${max}`);
    return v;
  }
  /** An integer or null/absent. */
  intOrNull(key: string): number | null {
    return this.value(key, null) === null ? null : this.int(key);
  }
  number(key: string, [min, max]: Range, fallback?: number): number {
    const v = this.value(key, fallback);
    if (typeof v !== "number" || !(v >= min && v <= max)) this.fail(key, `a number from ${min} to ${max}`);
    return v;
  }
  numberOrNull(key: string, range: Range): number | null {
    return this.value(key, null) === null ? null : this.number(key, range);
  }
  bool(key: string, fallback: boolean): boolean {
    const v = this.value(key, fallback);
    if (typeof v !== "boolean") this.fail(key, "true or false");
    return v;
  }
  string(key: string, fallback?: string): string {
    const v = this.value(key, fallback);
    if (typeof v !== "string") this.fail(key, "a string");
    return v;
  }
  oneOf<T extends string>(key: string, allowed: readonly T[], fallback?: T): T {
    const v = this.string(key, fallback);
    if (!(allowed as readonly string[]).includes(v)) this.fail(key, `one of ${allowed.map((a) => JSON.stringify(a)).join(", ")}`);
    return v as T;
  }
  /** Of several names of one thing the one that is there, else the first. @throws ConfigError two are there and differ */
  anyOf(...keys: readonly [string, ...string[]]): string {
    const there = keys.filter((key) => (this.config[key] ?? null) !== null);
    const [first = keys[0], ...others] = there;
    for (const key of others)
      if (this.config[key] !== this.config[first]) this.fail(key, `${JSON.stringify(this.config[first])} as "${first}"`);
    return first;
  }
  /**
   * What each layer is, by a list with an entry per layer, or by `otherwise` where there is none.
   * @param layers length that the list must have
   */
  perLayer<T extends string>(key: string, layers: number, allowed: readonly T[], otherwise: (l: number) => T): (l: number) => T {
    const list = this.value(key, null);
    if (list === null) return otherwise;
    const kinds = allowed.map((a) => JSON.stringify(a)).join(" or ");
    if (!Array.isArray(list) || list.length !== layers || !list.every((x): x is T => allowed.includes(x as T)))
      this.fail(key, `a list of ${layers} (num_hidden_layers) of ${kinds}`);
    return (l) => list[l] as T;
  }
  /** An integer for all layers, or a list with one for each. */
  intPerLayer(key: string, layers: number, fallback?: number): (l: number) => number {
    const v = this.config[key];
    if (!Array.isArray(v)) {
      const n = this.int(key, fallback);
      return () => n;
    }
    this.read.set(key, v);
    if (v.length !== layers || !v.every((n): n is number => Number.isSafeInteger(n) && n >= 1 && n <= 2 ** 31))
      this.fail(key, `a positive integer, or a list of ${layers} (num_hidden_layers) of them`);
    return (l) => v[l] as number;
  }
  /** Integers; null or absent: none. */
  intList(key: string, [min, max]: Range): readonly number[] {
    const v = this.value(key, []);
    if (!Array.isArray(v) || !v.every((n): n is number => Number.isSafeInteger(n) && n >= min && n <= max))
      this.fail(key, `a list of integers from ${min} to ${max}`);
    return v;
  }
  /** A list of `length` numbers. */
  numberList(key: string, length: number, [min, max]: Range): readonly number[] {
    const v = this.value(key, null);
    if (!Array.isArray(v) || v.length !== length || !v.every((n): n is number => typeof n === "number" && n >= min && n <= max))
      this.fail(key, `a list of ${length} numbers from ${min} to ${max}`);
    return v;
  }
  /** The fields of an object as a reader of their own; none where it is absent. */
  section(key: string): ConfigReader {
    return new ConfigReader(this.object(key) ?? {}, `${this.source} ${key}`);
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
    this.read.set(key, v);
    if (v !== undefined && !allowed.some((a) => a === v))
      this.fail(key, `${allowed.map((a) => JSON.stringify(a)).join(" or ")} (nothing else is supported)`);
  }
  /** Token ids: one, a list, or none where the key is null or absent. */
  ids(key: string, [min, max]: Range): number[] {
    const v = this.config[key];
    if (v === null || v === undefined) return [];
    const list: unknown[] = Array.isArray(v) ? v : [v];
    if (!list.every((x): x is number => Number.isSafeInteger(x) && (x as number) >= min && (x as number) <= max))
      this.fail(key, `an id from ${min} to ${max} (below vocab_size), or a list of such`);
    return list;
  }
}
