// Global functions of the template language, and the `loop` variable.

import {
  bind,
  Callable,
  equals,
  fail,
  lazy,
  Namespace,
  needInteger,
  orElse,
  tuple,
  Undefined,
  type Args,
  type Dict,
  type Value,
} from "./template_values.ts";

const RANGE_LIMIT = 100_000; // as jinja2's sandbox

export function loopVariable(items: readonly Value[], i: number, seen: { last: Value | undefined }): Dict {
  const n = items.length;
  return new Map<string, Value>([
    ["index", i + 1],
    ["index0", i],
    ["revindex", n - i],
    ["revindex0", n - i - 1],
    ["first", i === 0],
    ["last", i === n - 1],
    ["length", n],
    ["depth", 1],
    ["depth0", 0],
    ["previtem", orElse(items[i - 1], new Undefined("there is no previous item"))],
    ["nextitem", orElse(items[i + 1], new Undefined("there is no next item"))],
    [
      "cycle",
      new Callable("cycle", ({ positional }) =>
        positional.length === 0 ? fail("no items for cycling given") : (positional[i % positional.length] as Value),
      ),
    ],
    [
      "changed",
      new Callable("changed", ({ positional }) => {
        const now = tuple(...positional);
        const changed = seen.last === undefined || !equals(seen.last, now);
        seen.last = now;
        return changed;
      }),
    ],
  ]);
}

function namespace(args: Args): Namespace {
  const out = new Namespace();
  const [source] = bind({ positional: args.positional, named: new Map() }, "namespace", ["source"]);
  if (source instanceof Map) for (const [key, value] of source) out.attributes.set(String(key), value);
  else if (source !== undefined) fail("namespace takes a mapping");
  for (const [key, value] of args.named) out.attributes.set(key, value);
  return out;
}

function range(args: Args): Value {
  const [a, b, c] = args.positional.map((v) => needInteger(v, "range()"));
  const [start, stop, step] = b === undefined ? [0, a ?? fail("range expected at least 1 argument"), 1] : [a as number, b, c ?? 1];
  if (step === 0) return fail("range() arg 3 must not be zero");
  const n = Math.max(0, Math.ceil((stop - start) / step));
  if (n > RANGE_LIMIT) return fail(`range too big: ${n} items, at most ${RANGE_LIMIT}`);
  return lazy(
    Array.from({ length: n }, (_, i) => start + i * step),
    "range",
  );
}

export const BUILTINS: ReadonlyMap<string, Value> = new Map<string, Value>([
  ["true", true],
  ["True", true],
  ["false", false],
  ["False", false],
  ["none", null],
  ["None", null],
  ["namespace", new Callable("namespace", namespace)],
  ["range", new Callable("range", range)],
  ["dict", new Callable("dict", (args) => new Map([...(args.positional[0] instanceof Map ? args.positional[0] : []), ...args.named]))],
  [
    "joiner",
    new Callable("joiner", (args) => {
      const [by] = bind(args, "joiner", ["sep"]);
      let used = false;
      return new Callable("joiner", () => {
        const out = used ? (by ?? ", ") : "";
        used = true;
        return out;
      });
    }),
  ],
]);
