// JSON as Python reads and writes it. JSON.parse loses three things a chat template prints:
// `1.0` becomes 1, integers beyond 2^53 are rounded, and keys that look like array indices are moved to the front.

import { pythonFloatRepr } from "./python_text.ts";

/** A number whose Python form differs from that of its JavaScript value: `1.0`, `1e3`, integers beyond 2^53. */
export class ExactNumber {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
  get isFloat(): boolean {
    return /[.eE]/.test(this.text);
  }
  valueOf(): number {
    return Number(this.text);
  }
  toJSON(): number {
    return Number(this.text);
  }
}

/** Parsed JSON. A Map stands for an object only where a key looks like an array index (the order would be lost). */
export type JsonValue = null | boolean | number | string | ExactNumber | JsonValue[] | JsonObject | Map<string, JsonValue>;
export interface JsonObject {
  [key: string]: JsonValue;
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Map) && !(value instanceof ExactNumber);
}

const NEEDS_EXACT = /\d\.0*(?!\d)|\d[eE]|\.\d+[eE]|\d{16}|\.0+[^\d]|"\d+"\s*:|\\u003[0-9]/;

/** JSON.parse that keeps what Python would keep. Throws SyntaxError like JSON.parse. */
export function parseJson(text: string): JsonValue {
  const plain = JSON.parse(text) as JsonValue; // also the syntax check for the exact reader below
  return NEEDS_EXACT.test(text) ? new ExactReader(text).read() : plain;
}

class ExactReader {
  #at = 0;
  readonly #text: string;
  constructor(text: string) {
    this.#text = text;
  }

  read(): JsonValue {
    this.#space();
    return this.#value();
  }

  #space(): void {
    while (/[ \t\r\n]/.test(this.#text[this.#at] ?? "")) this.#at++;
  }

  #value(): JsonValue {
    const char = this.#text[this.#at];
    if (char === "{") return this.#object();
    if (char === "[") return this.#array();
    if (char === '"') return this.#string();
    const end = /[,\]}\s]|$/g;
    end.lastIndex = this.#at;
    const stop = end.exec(this.#text)?.index ?? this.#text.length;
    const word = this.#text.slice(this.#at, stop);
    this.#at = stop;
    const value = JSON.parse(word) as null | boolean | number;
    if (typeof value !== "number") return value;
    const isFloat = /[.eE]/.test(word);
    return isFloat === !Number.isInteger(value) && (isFloat || Number.isSafeInteger(value)) ? value : new ExactNumber(word);
  }

  #string(): string {
    const start = this.#at++;
    while (this.#text[this.#at] !== '"') this.#at += this.#text[this.#at] === "\\" ? 2 : 1;
    return JSON.parse(this.#text.slice(start, ++this.#at)) as string;
  }

  #array(): JsonValue[] {
    const out: JsonValue[] = [];
    this.#at++;
    for (this.#space(); this.#text[this.#at] !== "]"; this.#space()) {
      if (this.#text[this.#at] === ",") this.#at++;
      this.#space();
      out.push(this.#value());
    }
    this.#at++;
    return out;
  }

  #object(): JsonObject | Map<string, JsonValue> {
    const out = new Map<string, JsonValue>();
    this.#at++;
    for (this.#space(); this.#text[this.#at] !== "}"; this.#space()) {
      if (this.#text[this.#at] === ",") this.#at++;
      this.#space();
      const key = this.#string();
      this.#space();
      this.#at++; // the colon
      this.#space();
      out.set(key, this.#value());
    }
    this.#at++;
    return Array.from(out.keys()).some((key) => /^\d+$/.test(key)) ? out : Object.fromEntries(out);
  }
}

export interface DumpOptions {
  readonly ensureAscii?: boolean;
  readonly indent?: string | null;
  readonly separators?: readonly [string, string] | null;
  readonly sortKeys?: boolean;
}

export function quoteJson(text: string, ensureAscii = false): string {
  const quoted = JSON.stringify(text);
  return ensureAscii ? quoted.replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`) : quoted;
}

/** json.dumps of a container layout: `items` are already JSON text. Shared by dumpJson and the template filter `tojson`. */
export function joinJson(open: string, close: string, items: readonly string[], depth: number, options: DumpOptions): string {
  const indent = options.indent ?? null;
  const comma = options.separators?.[0] ?? (indent === null ? ", " : ",");
  if (items.length === 0) return open + close;
  if (indent === null) return open + items.join(comma) + close;
  const inner = `\n${indent.repeat(depth + 1)}`;
  return open + inner + items.join(comma + inner) + `\n${indent.repeat(depth)}` + close;
}

/** json.dumps(value, ensure_ascii=False). */
export function dumpJson(value: JsonValue, options: DumpOptions = {}, depth = 0): string {
  if (value === null) return "null";
  if (typeof value === "string") return quoteJson(value, options.ensureAscii);
  if (typeof value === "boolean") return String(value);
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : pythonFloatRepr(value);
  if (value instanceof ExactNumber) return value.isFloat ? pythonFloatRepr(Number(value.text)) : BigInt(value.text).toString();
  if (Array.isArray(value)) {
    return joinJson(
      "[",
      "]",
      value.map((v) => dumpJson(v, options, depth + 1)),
      depth,
      options,
    );
  }
  const entries = value instanceof Map ? Array.from(value) : Object.entries(value);
  const colon = options.separators?.[1] ?? ": ";
  const items = entries.map(([key, v]) => quoteJson(key, options.ensureAscii) + colon + dumpJson(v, options, depth + 1));
  return joinJson("{", "}", items, depth, options);
}
