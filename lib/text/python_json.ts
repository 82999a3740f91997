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

/** Levels of lists and objects that a value may have; everything that walks one may recurse. */
export const MAX_DEPTH = 128;
/** Values in one value: a short text of brackets is many objects. */
export const MAX_VALUES = 1_000_000;

/** JSON, but more of it than a row, its tools or its arguments can mean. */
export class JsonTooBig extends SyntaxError {}

/** One pass over the text, before JSON.parse builds anything. Broken JSON may pass here; JSON.parse refuses it afterwards. */
function refuseBombs(text: string): void {
  let depth = 0;
  let values = 1;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 34 /* " */) {
      for (i++; i < text.length && text.charCodeAt(i) !== 34; i++) if (text.charCodeAt(i) === 92 /* \ */) i++;
    } else if (c === 123 /* { */ || c === 91 /* [ */) {
      values++;
      if (++depth > MAX_DEPTH) throw new JsonTooBig(`nested deeper than ${MAX_DEPTH} levels`);
    } else if (c === 125 /* } */ || c === 93 /* ] */) depth--;
    else if (c === 44 /* , */ && ++values > MAX_VALUES) throw new JsonTooBig(`more than ${MAX_VALUES} values`);
  }
}

/** JSON.parse that keeps what Python would keep. Throws SyntaxError like JSON.parse, JsonTooBig beyond MAX_DEPTH and MAX_VALUES. */
export function parseJson(text: string): JsonValue {
  refuseBombs(text);
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
}

/** json.dumps(value, ensure_ascii=False). */
export function dumpJson(value: JsonValue, options: DumpOptions = {}, depth = 0): string {
  const quote = (text: string): string => {
    const quoted = JSON.stringify(text);
    if (options.ensureAscii !== true) return quoted;
    return quoted.replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  };
  if (typeof value === "string") return quote(value);
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : pythonFloatRepr(value);
  if (value instanceof ExactNumber) return value.isFloat ? pythonFloatRepr(Number(value.text)) : BigInt(value.text).toString();
  const [comma, colon] = options.separators ?? [typeof options.indent === "string" ? "," : ", ", ": "];
  const inner = (v: JsonValue): string => dumpJson(v, options, depth + 1);
  const items = Array.isArray(value)
    ? value.map(inner)
    : (value instanceof Map ? [...value] : Object.entries(value)).map(([key, v]) => quote(key) + colon + inner(v));
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  if (items.length === 0 || typeof options.indent !== "string") return open + items.join(comma) + close;
  const line = (d: number): string => `\n${options.indent!.repeat(d)}`;
  return open + line(depth + 1) + items.join(comma + line(depth + 1)) + line(depth) + close;
}
