// Methods of Python's str, dict, list and tuple that templates call. Changing methods are refused, as transformers' sandbox does.

import { PYTHON_SPACE, pythonRsplit, pythonSplit, pythonSplitLines, pythonStrip, type StripSide } from "./python_text.ts";
import { formatPercent } from "./template_format.ts";
import {
  bind,
  Callable,
  equals,
  fail,
  iterate,
  lazy,
  Lazy,
  needInteger,
  needText,
  toKey,
  tuple,
  type Args,
  type Dict,
  type Value,
} from "./template_values.ts";

type Method<T> = (self: T, args: Args) => Value;

const LETTERS = /\p{L}+/gu;
const PREFIXABLE = "must be str or a tuple of str";

function strip(side: StripSide, name: string): Method<string> {
  return (self, args) => {
    const [chars] = bind(args, name, ["chars"]);
    return pythonStrip(self, side, chars === undefined || chars === null ? undefined : needText(chars, "chars"));
  };
}

function affix(name: "startswith" | "endswith"): Method<string> {
  return (self, args) => {
    const [wanted, start, end] = bind(args, name, ["prefix", "start", "end"], 1);
    const text = start === undefined && end === undefined ? self : sliceText(self, start ?? null, end ?? null);
    const list = Array.isArray(wanted) ? wanted : [wanted];
    return list.some((w) => (name === "startswith" ? text.startsWith(needText(w, PREFIXABLE)) : text.endsWith(needText(w, PREFIXABLE))));
  };
}

function sliceText(text: string, start: Value, end: Value): string {
  return Array.from(text)
    .slice(start === null ? 0 : needInteger(start, "start"), end === null ? undefined : needInteger(end, "end"))
    .join("");
}

function split(name: "split" | "rsplit"): Method<string> {
  return (self, args) => {
    const [sep, max] = bind(args, name, ["sep", "maxsplit"]);
    const by = sep === undefined || sep === null ? null : needText(sep, "sep");
    if (by === "") fail("empty separator");
    const limit = max === undefined ? -1 : needInteger(max, "maxsplit");
    return name === "split" ? pythonSplit(self, by, limit) : pythonRsplit(self, by, limit);
  };
}

function find(name: string, last: boolean, strict: boolean): Method<string> {
  return (self, args) => {
    const [sub, start] = bind(args, name, ["sub", "start"], 1);
    const chars = Array.from(self);
    const from = start === undefined ? 0 : needInteger(start, "start");
    const skipped = chars.slice(0, from < 0 ? Math.max(0, chars.length + from) : from).join("");
    const rest = self.slice(skipped.length);
    const at = last ? rest.lastIndexOf(needText(sub, "sub")) : rest.indexOf(needText(sub, "sub"));
    if (at < 0) return strict ? fail("substring not found") : -1;
    return Array.from(self.slice(0, skipped.length + at)).length;
  };
}

function pad(side: "left" | "right" | "both", name: string): Method<string> {
  return (self, args) => {
    const [width, fill] = bind(args, name, ["width", "fillchar"], 1);
    const missing = Math.max(0, needInteger(width, "width") - Array.from(self).length);
    const char = fill === undefined ? " " : needText(fill, "fillchar");
    const left =
      side === "left"
        ? missing
        : side === "right"
          ? 0
          : Math.floor(missing / 2) + (missing % 2 === 1 && needInteger(width, "width") % 2 === 1 ? 1 : 0);
    return char.repeat(left) + self + char.repeat(missing - left);
  };
}

function every(pattern: RegExp): Method<string> {
  return (self) => self !== "" && pattern.test(self);
}

function cased(wanted: (s: string) => string): Method<string> {
  return (self) => wanted(self) === self && self.toLowerCase() !== self.toUpperCase();
}

export function capitalize(text: string): string {
  const [first = "", ...rest] = Array.from(text);
  return first.toUpperCase() + rest.join("").toLowerCase();
}

export function replaceText(text: string, from: string, to: string, count = -1): string {
  if (count < 0) return text.replaceAll(from, () => to);
  const parts = from === "" ? ["", ...Array.from(text), ""] : text.split(from);
  const joined = Math.min(count, parts.length - 1);
  return parts.slice(0, joined + 1).join(to) + (joined + 1 < parts.length ? from + parts.slice(joined + 1).join(from) : "");
}

const partition =
  (name: string, last: boolean): Method<string> =>
  (self, args) => {
    const sep = needText(bind(args, name, ["sep"], 1)[0], "sep");
    const at = last ? self.lastIndexOf(sep) : self.indexOf(sep);
    if (at < 0) return last ? tuple("", "", self) : tuple(self, "", "");
    return tuple(self.slice(0, at), sep, self.slice(at + sep.length));
  };

const STRING: Readonly<Record<string, Method<string>>> = {
  strip: strip("both", "strip"),
  lstrip: strip("left", "lstrip"),
  rstrip: strip("right", "rstrip"),
  startswith: affix("startswith"),
  endswith: affix("endswith"),
  split: split("split"),
  rsplit: split("rsplit"),
  find: find("find", false, false),
  rfind: find("rfind", true, false),
  index: find("index", false, true),
  rindex: find("rindex", true, true),
  ljust: pad("right", "ljust"),
  rjust: pad("left", "rjust"),
  center: pad("both", "center"),
  partition: partition("partition", false),
  rpartition: partition("rpartition", true),
  upper: (self) => self.toUpperCase(),
  lower: (self) => self.toLowerCase(),
  casefold: (self) => self.toLowerCase().replaceAll("ß", "ss"),
  swapcase: (self) => Array.from(self, (c) => (c === c.toLowerCase() ? c.toUpperCase() : c.toLowerCase())).join(""),
  capitalize: (self) => capitalize(self),
  title: (self) => self.replace(LETTERS, capitalize),
  isdigit: every(/^[\p{Nd}²³¹⁰-₉①-⑨]+$/u),
  isdecimal: every(/^\p{Nd}+$/u),
  isnumeric: every(/^\p{N}+$/u),
  isalpha: every(/^\p{L}+$/u),
  isalnum: every(/^[\p{L}\p{N}]+$/u),
  isspace: every(new RegExp(`^[${PYTHON_SPACE}]+$`)),
  isupper: cased((s) => s.toUpperCase()),
  islower: cased((s) => s.toLowerCase()),
  splitlines: (self, args) => pythonSplitLines(self, bind(args, "splitlines", ["keepends"])[0] === true),
  join: (self, args) =>
    iterate(bind(args, "join", ["iterable"], 1)[0] ?? null)
      .map((item, i) => needText(item, `sequence item ${i}`))
      .join(self),
  replace: (self, args) => {
    const [from, to, count] = bind(args, "replace", ["old", "new", "count"], 2);
    return replaceText(self, needText(from, "old"), needText(to, "new"), count === undefined ? -1 : needInteger(count, "count"));
  },
  count: (self, args) => self.split(needText(bind(args, "count", ["sub"], 1)[0], "sub")).length - 1,
  removeprefix: (self, args) => {
    const prefix = needText(bind(args, "removeprefix", ["prefix"], 1)[0], "prefix");
    return self.startsWith(prefix) ? self.slice(prefix.length) : self;
  },
  removesuffix: (self, args) => {
    const suffix = needText(bind(args, "removesuffix", ["suffix"], 1)[0], "suffix");
    return suffix !== "" && self.endsWith(suffix) ? self.slice(0, -suffix.length) : self;
  },
  zfill: (self, args) => {
    const width = needInteger(bind(args, "zfill", ["width"], 1)[0], "width");
    const sign = /^[+-]/.exec(self)?.[0] ?? "";
    return sign + "0".repeat(Math.max(0, width - Array.from(self).length)) + self.slice(sign.length);
  },
  format: (self, args) => formatBraces(self, args),
};

// str.format with plain fields only: {} {0} {name}.
function formatBraces(template: string, args: Args): string {
  let next = 0;
  return template.replace(/\{\{|\}\}|\{([^{}]*)\}|[{}]/g, (all, field: string | undefined) => {
    if (all === "{{") return "{";
    if (all === "}}") return "}";
    if (field === undefined) return fail(`unmatched '${all}' in format string`);
    if (!/^\w*$/.test(field)) return fail(`str.format field {${field}} is not supported`);
    const value = /^\d*$/.test(field) ? args.positional[field === "" ? next++ : Number(field)] : args.named.get(field);
    return value === undefined ? fail(`str.format has no argument for {${field}}`) : formatPercent("%s", [value]);
  });
}

const DICT: Readonly<Record<string, Method<Dict>>> = {
  get: (self, args) => {
    const [key, otherwise] = bind(args, "get", ["key", "default"], 1);
    const k = toKey(key ?? null);
    return self.has(k) ? (self.get(k) as Value) : (otherwise ?? null);
  },
  items: (self) =>
    lazy(
      Array.from(self, ([key, value]) => tuple(key, value)),
      "dict_items",
    ),
  keys: (self) => lazy(Array.from(self.keys()), "dict_keys"),
  values: (self) => lazy(Array.from(self.values()), "dict_values"),
  copy: (self) => new Map(self),
};

const LIST: Readonly<Record<string, Method<Value[]>>> = {
  index: (self, args) => {
    const wanted = bind(args, "index", ["value"], 1)[0] ?? null;
    const at = self.findIndex((v) => equals(v, wanted));
    return at < 0 ? fail("value is not in list") : at;
  },
  count: (self, args) => {
    const wanted = bind(args, "count", ["value"], 1)[0] ?? null;
    return self.filter((v) => equals(v, wanted)).length;
  },
  copy: (self) => Array.from(self),
};

const CHANGING: Readonly<Record<string, readonly string[]>> = {
  dict: ["clear", "pop", "popitem", "setdefault", "update"],
  list: ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"],
};

/** getattr(value, name) for the built-in types; undefined when there is no such method. */
export function method(value: Value, name: string): Callable | undefined {
  const bound = <T extends Value>(self: T, table: Readonly<Record<string, Method<T>>>): Callable | undefined => {
    const found = Object.hasOwn(table, name) ? table[name] : undefined;
    return found === undefined ? undefined : new Callable(name, (args) => found(self, args));
  };
  const refuse = (type: string): Callable | undefined =>
    CHANGING[type]?.includes(name) === true
      ? new Callable(name, () => fail(`access to attribute '${name}' of '${type}' object is unsafe: templates may not change their input`))
      : undefined;
  if (typeof value === "string") return bound(value, STRING);
  if (value instanceof Map) return bound(value, DICT) ?? refuse("dict");
  if (Array.isArray(value) && !(value instanceof Lazy)) return bound(value, LIST) ?? refuse("list");
  return undefined;
}
