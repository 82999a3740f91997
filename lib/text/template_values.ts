// Values a chat template computes with, and Python's rules for them: printing, truth, equality, order, length, iteration.
//
//   None null · bool boolean · int number (bigint beyond 2^53) · float Float · str string · list array · tuple Tuple · dict Map

import { pythonFloatRepr, pythonStringRepr } from "./python_text.ts";
import { ExactNumber, joinJson, quoteJson, type DumpOptions, type JsonValue } from "./python_json.ts";

export class Float {
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
}

/** jinja2's Undefined: prints as nothing, is false and empty; everything else fails with `why`. */
export class Undefined {
  readonly why: string;
  constructor(why: string) {
    this.why = why;
  }
}

export class Tuple extends Array<Value> {
  static override get [Symbol.species](): ArrayConstructor {
    return Array;
  }
}

export function tuple(...items: readonly Value[]): Tuple {
  const out = new Tuple();
  for (const item of items) out.push(item);
  return out;
}

/**
 * What Python computes lazily: a generator (filters like map and select) can be read once, is always true and has no length;
 * dictionary views and ranges have a length but are no JSON. Silently treating them as lists would give other text.
 */
export class Lazy extends Array<Value> {
  static override get [Symbol.species](): ArrayConstructor {
    return Array;
  }
  kind: "generator" | "dict_items" | "dict_keys" | "dict_values" | "range" = "generator";
  read = false;
}

export function lazy(items: readonly Value[], kind: Lazy["kind"] = "generator"): Lazy {
  const out = new Lazy();
  for (const item of items) out.push(item);
  out.kind = kind;
  return out;
}

export class Namespace {
  readonly attributes = new Map<string, Value>();
}

export interface Args {
  readonly positional: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

/** A macro, a method or a global function. */
export class Callable {
  readonly name: string;
  readonly call: (args: Args) => Value;
  constructor(name: string, call: (args: Args) => Value) {
    this.name = name;
    this.call = call;
  }
}

export type Key = string | number | boolean | null | bigint;
export type Dict = Map<Key, Value>;
export type Value = null | boolean | number | bigint | string | Float | Undefined | Namespace | Callable | Value[] | Dict;

/** What the evaluator throws where Python would raise anything but the template's own raise_exception. */
export class TemplateFault extends Error {}

export function fail(message: string): never {
  throw new TemplateFault(message);
}

/** JSON-like data as template values: integers stay integers, everything with a fraction or exponent is a float. */
export function fromJson(value: JsonValue | undefined): Value {
  if (value === undefined || value === null) return null;
  if (typeof value === "number") return Number.isInteger(value) && !Object.is(value, -0) ? value : new Float(value);
  if (typeof value === "string" || typeof value === "boolean") return value;
  if (value instanceof ExactNumber) return value.isFloat ? new Float(Number(value.text)) : integer(BigInt(value.text));
  if (Array.isArray(value)) return value.map(fromJson);
  const out: Dict = new Map();
  for (const [key, v] of value instanceof Map ? value : Object.entries(value)) if (v !== undefined) out.set(key, fromJson(v));
  return out;
}

export function integer(value: bigint): number | bigint {
  const small = Number(value);
  return Number.isSafeInteger(small) ? small : value;
}

export function typeName(value: Value): string {
  if (value === null) return "NoneType";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "number" || typeof value === "bigint") return "int";
  if (typeof value === "string") return "str";
  if (value instanceof Float) return "float";
  if (value instanceof Tuple) return "tuple";
  if (value instanceof Lazy) return value.kind;
  if (Array.isArray(value)) return "list";
  if (value instanceof Map) return "dict";
  if (value instanceof Namespace) return "Namespace";
  return value instanceof Undefined ? "Undefined" : "function";
}

export function isTrue(value: Value): boolean {
  if (value === null || value instanceof Undefined) return false;
  if (value instanceof Float) return value.value !== 0;
  if (Array.isArray(value)) return value.length > 0 || (value instanceof Lazy && value.kind === "generator");
  if (value instanceof Map) return value.size > 0;
  return typeof value === "object" ? true : Boolean(value);
}

/** str(value). */
export function print(value: Value): string {
  if (typeof value === "string") return value;
  return value instanceof Undefined ? "" : repr(value);
}

/** repr(value). */
export function repr(value: Value): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  if (typeof value === "string") return pythonStringRepr(value);
  if (value instanceof Float) return pythonFloatRepr(value.value);
  if (value instanceof Tuple) return `(${value.map(repr).join(", ")}${value.length === 1 ? "," : ""})`;
  if (value instanceof Lazy && (value.kind === "generator" || value.kind === "range"))
    return fail(`printing a ${value.kind} has no useful text; add |list`);
  if (Array.isArray(value))
    return value instanceof Lazy ? `${value.kind}([${value.map(repr).join(", ")}])` : `[${value.map(repr).join(", ")}]`;
  if (value instanceof Map) return `{${Array.from(value, ([k, v]) => `${repr(k)}: ${repr(v)}`).join(", ")}}`;
  if (value instanceof Undefined) return "Undefined";
  return fail(`printing a ${typeName(value)} has no portable text`);
}

export function asNumber(value: Value): number | null {
  if (typeof value === "number") return value;
  if (typeof value === "boolean") return Number(value);
  if (value instanceof Float) return value.value;
  return typeof value === "bigint" ? Number(value) : null;
}

export function equals(a: Value, b: Value): boolean {
  if (a === b) return true;
  if (a instanceof Undefined || b instanceof Undefined) return a instanceof Undefined && b instanceof Undefined;
  if (typeof a === "bigint" && typeof b === "bigint") return a === b;
  const x = asNumber(a);
  const y = asNumber(b);
  if (x !== null || y !== null) return x === y;
  if (a instanceof Lazy || b instanceof Lazy) return false;
  if (Array.isArray(a) && Array.isArray(b)) {
    return a instanceof Tuple === b instanceof Tuple && a.length === b.length && a.every((v, i) => equals(v, b[i] as Value));
  }
  if (a instanceof Map && b instanceof Map) {
    return a.size === b.size && Array.from(a).every(([key, v]) => b.has(key) && equals(v, b.get(key) as Value));
  }
  return false;
}

/** Negative, zero or positive; fails where Python has no order. Strings compare by code point. */
export function compare(a: Value, b: Value): number {
  const x = asNumber(a);
  const y = asNumber(b);
  if (x !== null && y !== null) return x - y;
  if (typeof a === "string" && typeof b === "string") {
    const left = Array.from(a, (c) => c.codePointAt(0) ?? 0);
    const right = Array.from(b, (c) => c.codePointAt(0) ?? 0);
    for (let i = 0; i < Math.min(left.length, right.length); i++) if (left[i] !== right[i]) return (left[i] ?? 0) - (right[i] ?? 0);
    return left.length - right.length;
  }
  if (Array.isArray(a) && Array.isArray(b)) {
    for (let i = 0; i < Math.min(a.length, b.length); i++) {
      if (!equals(a[i] as Value, b[i] as Value)) return compare(a[i] as Value, b[i] as Value);
    }
    return a.length - b.length;
  }
  return fail(`'<' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

/** `value ?? otherwise`, but None is a value. */
export function orElse(value: Value | undefined, otherwise: Value): Value {
  return value === undefined ? otherwise : value;
}

export function defined(value: Value): Value {
  return value instanceof Undefined ? fail(value.why) : value;
}

export function length(value: Value): number {
  if (typeof value === "string") return Array.from(value).length;
  if (value instanceof Lazy && value.kind === "generator") return fail("object of type 'generator' has no len(); add |list");
  if (Array.isArray(value)) return value.length;
  if (value instanceof Map) return value.size;
  return value instanceof Undefined ? 0 : fail(`object of type '${typeName(value)}' has no len()`);
}

export function iterate(value: Value): Value[] {
  if (typeof value === "string") return Array.from(value);
  if (value instanceof Lazy && value.kind === "generator") {
    if (value.read) return [];
    value.read = true;
  }
  if (Array.isArray(value)) return Array.from(value);
  if (value instanceof Map) return Array.from(value.keys());
  return value instanceof Undefined ? [] : fail(`'${typeName(value)}' object is not iterable`);
}

export function contains(container: Value, item: Value): boolean {
  if (typeof container === "string") {
    return typeof item === "string"
      ? container.includes(item)
      : fail(`'in <string>' requires string as left operand, not ${typeName(item)}`);
  }
  if (Array.isArray(container)) return iterate(container).some((v) => equals(v, item));
  if (container instanceof Map) return container.has(toKey(item));
  return container instanceof Undefined ? false : fail(`argument of type '${typeName(container)}' is not iterable`);
}

export function toKey(value: Value): Key {
  if (value === null || typeof value === "string" || typeof value === "boolean" || typeof value === "number" || typeof value === "bigint")
    return value;
  return fail(`unhashable or unsupported dictionary key of type '${typeName(value)}'`);
}

/** json.dumps of a template value. */
export function dump(value: Value, options: DumpOptions, depth = 0): string {
  if (value === null) return "null";
  if (typeof value === "string") return quoteJson(value, options.ensureAscii);
  if (typeof value === "boolean" || typeof value === "number" || typeof value === "bigint") return String(value);
  if (value instanceof Float) {
    if (Number.isFinite(value.value)) return pythonFloatRepr(value.value);
    return Number.isNaN(value.value) ? "NaN" : value.value < 0 ? "-Infinity" : "Infinity";
  }
  if (value instanceof Lazy) return fail(`Object of type ${value.kind} is not JSON serializable; add |list`);
  if (Array.isArray(value)) {
    return joinJson(
      "[",
      "]",
      value.map((v) => dump(v, options, depth + 1)),
      depth,
      options,
    );
  }
  if (!(value instanceof Map)) return fail(`Object of type ${typeName(value)} is not JSON serializable`);
  const entries = Array.from(value);
  if (options.sortKeys === true) entries.sort(([a], [b]) => compare(a, b));
  const colon = options.separators?.[1] ?? ": ";
  const items = entries.map(([key, v]) => {
    const name = typeof key === "string" ? key : key === null ? "null" : String(key);
    return quoteJson(name, options.ensureAscii) + colon + dump(v, options, depth + 1);
  });
  return joinJson("{", "}", items, depth, options);
}

/** Binds arguments to parameter names as Python does; absent ones are undefined. */
export function bind(args: Args, name: string, parameters: readonly string[], required = 0): (Value | undefined)[] {
  if (args.positional.length > parameters.length)
    fail(`${name}() takes at most ${parameters.length} arguments (${args.positional.length} given)`);
  const out: (Value | undefined)[] = parameters.map((_, i) => args.positional[i]);
  for (const [key, value] of args.named) {
    const at = parameters.indexOf(key);
    if (at < 0) fail(`${name}() got an unexpected keyword argument '${key}'`);
    if (at < args.positional.length) fail(`${name}() got multiple values for argument '${key}'`);
    out[at] = value;
  }
  for (let i = 0; i < required; i++) if (out[i] === undefined) fail(`${name}() missing required argument '${parameters[i]}'`);
  return out;
}

export function needText(value: Value | undefined, what: string): string {
  if (typeof value === "string") return value;
  return fail(`${what} must be str, not ${value === undefined ? "absent" : typeName(value)}`);
}

export function needInteger(value: Value | undefined, what: string): number {
  if (typeof value === "number" || typeof value === "boolean") return Number(value);
  return fail(`${what} must be an integer, not ${value === undefined ? "absent" : typeName(value)}`);
}
