// Operators of the template language with Python's meaning: arithmetic, repetition, formatting, slices.

import { formatPercent } from "./template_format.ts";
import {
  asNumber,
  defined,
  fail,
  Float,
  integer,
  isTrue,
  Lazy,
  lazy,
  Tuple,
  tuple,
  typeName,
  Undefined,
  type Value,
} from "./template_values.ts";

/** The most characters a template may produce, whole or by one repetition. */
export const OUTPUT_LIMIT = 256 * 2 ** 20;

/** A generator or dictionary view cannot be indexed or added to. */
export function isView(value: Value): boolean {
  return value instanceof Lazy && value.kind !== "range";
}

export function missing(object: Value, name: string): Undefined {
  return new Undefined(`'${typeName(object)} object' has no attribute '${name}'`);
}

export function unary(operator: string, value: Value): Value {
  if (operator === "not") return !isTrue(value);
  const sign = operator === "-" ? -1 : 1;
  if (value instanceof Float) return new Float(sign * value.value);
  const number = asNumber(defined(value)) ?? fail(`bad operand type for unary ${operator}: '${typeName(value)}'`);
  return sign * number + 0;
}

export function arithmetic(operator: string, a: Value, b: Value): Value {
  const x = asNumber(a);
  const y = asNumber(b);
  if (x !== null && y !== null) {
    const floats = a instanceof Float || b instanceof Float;
    const result = (value: number): Value => {
      if (floats) return new Float(value);
      return Number.isSafeInteger(value) && typeof a !== "bigint" && typeof b !== "bigint" ? value + 0 : bigArithmetic(operator, a, b);
    };
    if (y === 0 && (operator === "/" || operator === "//" || operator === "%")) return fail("division by zero");
    switch (operator) {
      case "+":
        return result(x + y);
      case "-":
        return result(x - y);
      case "*":
        return result(x * y);
      case "/":
        return new Float(x / y);
      case "//":
        return result(Math.floor(x / y));
      case "%":
        return result(x - y * Math.floor(x / y));
      case "**":
        return y < 0 ? new Float(x ** y) : result(x ** y);
    }
  }
  if (operator === "+" && typeof a === "string" && typeof b === "string") return a + b;
  if (
    operator === "+" &&
    Array.isArray(a) &&
    Array.isArray(b) &&
    !(a instanceof Lazy) &&
    !(b instanceof Lazy) &&
    a instanceof Tuple === b instanceof Tuple
  )
    return a instanceof Tuple ? tuple(...a, ...b) : [...a, ...b];
  if (operator === "%" && typeof a === "string") return formatPercent(a, b instanceof Tuple ? b : [b]);
  if (operator === "*" && (typeof a === "string" || Array.isArray(a)) && typeof b === "number") return repeat(a, b);
  if (operator === "*" && (typeof b === "string" || Array.isArray(b)) && typeof a === "number") return repeat(b, a);
  if (operator === "+" && typeof a === "string") return fail(`can only concatenate str (not "${typeName(b)}") to str`);
  return fail(`unsupported operand type(s) for ${operator}: '${typeName(a)}' and '${typeName(b)}'`);
}

function bigArithmetic(operator: string, a: Value, b: Value): Value {
  const x = BigInt(a as number | bigint | boolean);
  const y = BigInt(b as number | bigint | boolean);
  if (operator === "+") return integer(x + y);
  if (operator === "-") return integer(x - y);
  if (operator === "*") return integer(x * y);
  return fail(`${operator} of integers beyond 2^53 is not supported`);
}

function repeat(value: string | Value[], count: number): Value {
  const times = Math.max(0, count);
  if (times * value.length > OUTPUT_LIMIT) return fail("a repeated value is too long");
  return typeof value === "string" ? value.repeat(times) : Array.from({ length: times }, () => Array.from(value)).flat();
}

export function slice(value: Value, [start = null, stop = null, stride = null]: readonly (number | null)[]): Value {
  if ((typeof value !== "string" && !Array.isArray(value)) || isView(value)) {
    defined(value);
    return missing(value, "slice");
  }
  const items: readonly Value[] = typeof value === "string" ? Array.from(value) : value;
  const n = items.length;
  const step = stride ?? 1;
  if (step === 0) fail("slice step cannot be zero");
  const clamp = (i: number, low: number, high: number): number => Math.min(Math.max(i < 0 ? i + n : i, low), high);
  const from = start === null ? (step > 0 ? 0 : n - 1) : step > 0 ? clamp(start, 0, n) : clamp(start, -1, n - 1);
  const to = stop === null ? (step > 0 ? n : -1) : step > 0 ? clamp(stop, 0, n) : clamp(stop, -1, n - 1);
  const out: Value[] = [];
  for (let i = from; step > 0 ? i < to : i > to; i += step) out.push(items[i] as Value);
  if (typeof value === "string") return out.join("");
  return value instanceof Tuple ? tuple(...out) : value instanceof Lazy ? lazy(out, "range") : out;
}
