// jinja2's filters and tests. An unknown one is an error, never a guess.

import { pythonStrip } from "./python_text.ts";
import { formatPercent } from "./template_format.ts";
import { capitalize, method, replaceText } from "./template_methods.ts";
import {
  asNumber,
  bind,
  Callable,
  compare,
  contains,
  defined,
  dump,
  equals,
  fail,
  Float,
  isTrue,
  iterate,
  Lazy,
  lazy,
  length,
  needInteger,
  needText,
  orElse,
  print,
  repr,
  tuple,
  typeName,
  Undefined,
  type Args,
  type Value,
} from "./template_values.ts";

export type Filter = (value: Value, args: Args) => Value;
export type Test = (value: Value, args: readonly Value[]) => boolean;
/** `obj.name` / `obj[name]` with jinja2's rules, given by the evaluator. */
export type GetAttribute = (value: Value, name: Value) => Value;

export const TESTS: Readonly<Record<string, Test>> = {
  defined: (v) => !(v instanceof Undefined),
  undefined: (v) => v instanceof Undefined,
  none: (v) => v === null,
  string: (v) => typeof v === "string",
  number: (v) => asNumber(v) !== null,
  integer: (v) => typeof v === "number" || typeof v === "bigint",
  float: (v) => v instanceof Float,
  boolean: (v) => typeof v === "boolean",
  true: (v) => v === true,
  false: (v) => v === false,
  mapping: (v) => v instanceof Map,
  iterable: (v) => typeof v === "string" || Array.isArray(v) || v instanceof Map || v instanceof Undefined,
  sequence: (v) =>
    typeof v === "string" ||
    (Array.isArray(v) && (!(v instanceof Lazy) || v.kind === "range")) ||
    v instanceof Map ||
    v instanceof Undefined,
  callable: (v) => v instanceof Callable,
  odd: (v) => Math.abs(needInteger(v, "odd")) % 2 === 1,
  even: (v) => needInteger(v, "even") % 2 === 0,
  lower: (v) => print(v) === print(v).toLowerCase() && print(v) !== print(v).toUpperCase(),
  upper: (v) => print(v) === print(v).toUpperCase() && print(v) !== print(v).toLowerCase(),
  divisibleby: (v, [n]) => needInteger(v, "divisibleby") % needInteger(n, "divisibleby") === 0,
  sameas: (v, [other]) => v === other,
  in: (v, [container]) => contains(container ?? null, v),
  eq: (v, [other]) => equals(v, other ?? null),
  ne: (v, [other]) => !equals(v, other ?? null),
  lt: (v, [other]) => compare(defined(v), defined(other ?? null)) < 0,
  le: (v, [other]) => compare(defined(v), defined(other ?? null)) <= 0,
  gt: (v, [other]) => compare(defined(v), defined(other ?? null)) > 0,
  ge: (v, [other]) => compare(defined(v), defined(other ?? null)) >= 0,
};
const TEST_ALIASES: Readonly<Record<string, string>> = {
  equalto: "eq",
  "==": "eq",
  "!=": "ne",
  lessthan: "lt",
  "<": "lt",
  "<=": "le",
  greaterthan: "gt",
  ">": "gt",
  ">=": "ge",
};

export function findTest(name: string): Test {
  const key = TEST_ALIASES[name] ?? name;
  return (Object.hasOwn(TESTS, key) ? TESTS[key] : undefined) ?? fail(`no test named '${name}'`);
}

// "a.b.0" or an integer: the path that `attribute=` names.
function getter(attribute: Value | undefined, get: GetAttribute): (v: Value) => Value {
  if (attribute === undefined || attribute === null) return (v) => v;
  if (typeof attribute !== "string") return (v) => get(v, attribute);
  const path = attribute.split(".").map((part) => (/^\d+$/.test(part) ? Number(part) : part));
  return (v) => path.reduce<Value>((at, part) => get(at, part), v);
}

const foldCase = (v: Value, caseSensitive: Value | undefined): Value =>
  typeof v === "string" && !isTrue(caseSensitive ?? false) ? v.toLowerCase() : v;

/** map, select and reject take anything false (None too) for an empty list. */
const itemsOf = (value: Value): Value[] => (isTrue(value) ? iterate(value) : []);

function sorted(items: readonly Value[], key: (v: Value) => Value, reverse: boolean): Value[] {
  const keyed = items.map((item) => ({ item, key: key(item) }));
  keyed.sort((a, b) => (reverse ? compare(b.key, a.key) : compare(a.key, b.key)));
  return keyed.map(({ item }) => item);
}

function extreme(sign: number, get: GetAttribute): Filter {
  return (value, args) => {
    const [caseSensitive, attribute] = bind(args, "min/max", ["case_sensitive", "attribute"]);
    const key = getter(attribute, get);
    const items = iterate(value);
    if (items.length === 0) return new Undefined("No aggregated item, sequence was empty.");
    return items.reduce((best, item) =>
      sign * compare(foldCase(key(item), caseSensitive), foldCase(key(best), caseSensitive)) < 0 ? item : best,
    );
  };
}

function selecting(wanted: boolean, byAttribute: boolean, get: GetAttribute): Filter {
  return (value, { positional }) => {
    const rest = byAttribute ? positional.slice(1) : positional;
    const pick = byAttribute ? getter(positional[0] ?? fail("selectattr needs an attribute"), get) : (v: Value): Value => v;
    const test =
      rest[0] === undefined
        ? isTrue
        : (
            (t) => (v: Value) =>
              t(v, rest.slice(1))
          )(findTest(needText(rest[0], "test")));
    return lazy(itemsOf(value).filter((v) => test(pick(v)) === wanted));
  };
}

function rounded(value: Value, args: Args): Value {
  const [precision, how] = bind(args, "round", ["precision", "method"]);
  const scale = 10 ** (precision === undefined ? 0 : needInteger(precision, "precision"));
  const x = (asNumber(value) ?? fail(`round needs a number, not ${typeName(value)}`)) * scale;
  const nearest = (v: number): number => (Math.abs(v % 1) === 0.5 ? 2 * Math.round(v / 2) : Math.round(v)); // halves to even
  const kind = how ?? "common";
  if (kind === "common" && !(value instanceof Float)) return Math.round(x / scale);
  return new Float((kind === "ceil" ? Math.ceil(x) : kind === "floor" ? Math.floor(x) : nearest(x)) / scale);
}

function indent(value: Value, args: Args): Value {
  const [width, first, blank] = bind(args, "indent", ["width", "first", "blank"]);
  const margin = typeof width === "string" ? width : " ".repeat(width === undefined ? 4 : needInteger(width, "width"));
  const lines = print(value).split("\n");
  return lines
    .map((line, i) => ((i === 0 && !isTrue(first ?? false)) || (i > 0 && line === "" && !isTrue(blank ?? false)) ? line : margin + line))
    .join("\n");
}

function tojson(value: Value, args: Args): Value {
  const [ensureAscii, space, separators, sortKeys] = bind(args, "tojson", ["ensure_ascii", "indent", "separators", "sort_keys"]);
  const pair = Array.isArray(separators) ? ([needText(separators[0], "separators"), needText(separators[1], "separators")] as const) : null;
  return dump(value, {
    ensureAscii: isTrue(ensureAscii ?? false),
    indent: space === undefined || space === null ? null : typeof space === "string" ? space : " ".repeat(needInteger(space, "indent")),
    separators: pair,
    sortKeys: isTrue(sortKeys ?? false),
  });
}

function toInteger(value: Value, args: Args): Value {
  const [otherwise, base] = bind(args, "int", ["default", "base"]);
  defined(value);
  const number = asNumber(value);
  if (number !== null) return Math.trunc(number);
  const text = typeof value === "string" ? pythonStrip(value).replaceAll("_", "") : "";
  if (base !== undefined && base !== 10) return fail("int with a base is not supported");
  if (/^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$/.test(text)) return Math.trunc(Number(text));
  return orElse(otherwise, 0);
}

function toFloat(value: Value, args: Args): Value {
  const [otherwise] = bind(args, "float", ["default"]);
  const text = typeof value === "string" ? pythonStrip(value) : "";
  const number = asNumber(defined(value)) ?? (text !== "" && Number.isFinite(Number(text)) ? Number(text) : null);
  return number === null ? orElse(otherwise, new Float(0)) : new Float(number);
}

const ESCAPES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;" };

export function buildFilters(get: GetAttribute): (name: string) => Filter {
  const filters: Readonly<Record<string, Filter>> = {
    abs: (v) => (v instanceof Float ? new Float(Math.abs(v.value)) : Math.abs(needInteger(v, "abs"))),
    attr: (v, args) => get(v, needText(bind(args, "attr", ["name"], 1)[0], "name")),
    batch: (v, args) => {
      const [size, fill] = bind(args, "batch", ["linecount", "fill_with"], 1);
      const n = needInteger(size, "linecount");
      const items = iterate(v);
      const rows: Value[][] = [];
      for (let i = 0; i < items.length; i += n) rows.push(items.slice(i, i + n));
      if (fill !== undefined && fill !== null) while (rows.length > 0 && (rows.at(-1) as Value[]).length < n) rows.at(-1)?.push(fill);
      return lazy(rows);
    },
    capitalize: (v) => capitalize(print(v)),
    center: (v, args) => {
      const [width] = bind(args, "center", ["width"]);
      return (method(print(v), "center") as Callable).call({ positional: [width ?? 80], named: new Map() });
    },
    default: (v, args) => {
      const [otherwise, boolean] = bind(args, "default", ["default_value", "boolean"]);
      return v instanceof Undefined || (isTrue(boolean ?? false) && !isTrue(v)) ? orElse(otherwise, "") : v;
    },
    dictsort: (v, args) => {
      const [caseSensitive, by, reverse] = bind(args, "dictsort", ["case_sensitive", "by", "reverse"]);
      if (!(v instanceof Map)) return fail(`dictsort needs a mapping, not ${typeName(v)}`);
      const pairs = Array.from(v, ([key, item]) => tuple(key, item));
      return sorted(pairs, (p) => foldCase((p as Value[])[by === "value" ? 1 : 0] as Value, caseSensitive), isTrue(reverse ?? false));
    },
    escape: (v) => print(v).replace(/[&<>"']/g, (c) => ESCAPES[c] as string),
    first: (v) => orElse(iterate(v)[0], new Undefined("No first item, sequence was empty.")),
    float: toFloat,
    format: (v, args) => formatPercent(print(v), args.positional),
    groupby: (v, args) => {
      const [attribute, otherwise, caseSensitive] = bind(args, "groupby", ["attribute", "default", "case_sensitive"], 1);
      const key = getter(attribute, get);
      const at = (item: Value): Value => {
        const found = key(item);
        return foldCase(found instanceof Undefined && otherwise !== undefined ? otherwise : found, caseSensitive);
      };
      const groups: { key: Value; items: Value[] }[] = [];
      for (const item of sorted(iterate(v), at, false)) {
        const last = groups.at(-1);
        if (last !== undefined && equals(last.key, at(item))) last.items.push(item);
        else groups.push({ key: at(item), items: [item] });
      }
      return groups.map((g) => tuple(isTrue(caseSensitive ?? false) ? g.key : key(g.items[0] as Value), g.items));
    },
    indent,
    int: toInteger,
    items: (v) =>
      v instanceof Undefined
        ? lazy([])
        : v instanceof Map
          ? lazy(Array.from(v, ([k, item]) => tuple(k, item)))
          : fail("Can only get item pairs from a mapping."),
    join: (v, args) => {
      const [by, attribute] = bind(args, "join", ["d", "attribute"]);
      return iterate(v)
        .map(getter(attribute, get))
        .map(print)
        .join(by === undefined ? "" : print(by));
    },
    last: (v) => orElse(iterate(v).at(-1), new Undefined("No last item, sequence was empty.")),
    length,
    list: iterate,
    lower: (v) => print(v).toLowerCase(),
    map: (v, args) => {
      const attribute = args.named.get("attribute");
      if (attribute !== undefined) {
        const otherwise = args.named.get("default");
        const mapped = itemsOf(v).map((item) => {
          const found = getter(attribute, get)(item);
          return found instanceof Undefined && otherwise !== undefined ? otherwise : found;
        });
        return lazy(mapped);
      }
      const filter = find(needText(args.positional[0], "map's filter"));
      const rest: Args = { positional: args.positional.slice(1), named: args.named };
      return lazy(itemsOf(v).map((item) => filter(item, rest)));
    },
    max: extreme(-1, get),
    min: extreme(1, get),
    pprint: (v) => repr(v),
    reject: selecting(false, false, get),
    rejectattr: selecting(false, true, get),
    replace: (v, args) => {
      const [from, to, count] = bind(args, "replace", ["old", "new", "count"], 2);
      return replaceText(
        print(v),
        print(from ?? null),
        print(to ?? null),
        count === undefined || count === null ? -1 : needInteger(count, "count"),
      );
    },
    reverse: (v) => (typeof v === "string" ? Array.from(v).reverse().join("") : lazy(iterate(v).reverse())),
    round: rounded,
    safe: (v) => (typeof v === "string" ? v : print(v)),
    select: selecting(true, false, get),
    selectattr: selecting(true, true, get),
    sort: (v, args) => {
      const [reverse, caseSensitive, attribute] = bind(args, "sort", ["reverse", "case_sensitive", "attribute"]);
      const key = getter(attribute, get);
      return sorted(iterate(v), (item) => foldCase(key(item), caseSensitive), isTrue(reverse ?? false));
    },
    string: print,
    sum: (v, args) => {
      const [attribute, start] = bind(args, "sum", ["attribute", "start"]);
      const values = iterate(v).map(getter(attribute, get));
      const isFloat = values.some((x) => x instanceof Float) || start instanceof Float;
      const total = values.reduce<number>(
        (a, x) => a + (asNumber(x) ?? fail(`sum needs numbers, not ${typeName(x)}`)),
        asNumber(start ?? 0) ?? 0,
      );
      return isFloat ? new Float(total) : total;
    },
    title: (v) => print(v).replace(/[^-\s({[<]+/g, (word) => capitalize(word)),
    tojson,
    trim: (v, args) => {
      const [chars] = bind(args, "trim", ["chars"]);
      return pythonStrip(print(v), "both", chars === undefined || chars === null ? undefined : needText(chars, "chars"));
    },
    unique: (v, args) => {
      const [caseSensitive, attribute] = bind(args, "unique", ["case_sensitive", "attribute"]);
      const key = getter(attribute, get);
      const seen: Value[] = [];
      const unique = iterate(v).filter((item) => {
        const k = foldCase(key(item), caseSensitive);
        return seen.some((s) => equals(s, k)) ? false : seen.push(k) > 0;
      });
      return lazy(unique);
    },
    upper: (v) => print(v).toUpperCase(),
    urlencode: (v) =>
      encodeURIComponent(print(v))
        .replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`)
        .replaceAll("%2F", "/"),
    wordcount: (v) => print(v).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0,
  };
  const aliases: Readonly<Record<string, string>> = { d: "default", e: "escape", count: "length" };
  const find = (name: string): Filter => {
    const key = aliases[name] ?? name;
    return (Object.hasOwn(filters, key) ? filters[key] : undefined) ?? fail(`no filter named '${name}'`);
  };
  return find;
}
