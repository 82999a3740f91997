// Structural changes to a tree: keys and values deleted, doubled, retyped, renamed, swapped, nested, repeated, reordered; numbers and
// texts moved to their extremes. Each says in words what it did.

import type { Random } from "./random.ts";
import type { Container, Tree } from "./tree.ts";
import { copyTree, Fields, isContainer, printTree, Raw, sizeOf } from "./tree.ts";

/** What a change may do to the meaning of a file: nothing ("same"), or anything ("any"). */
export type Effect = "same" | "any";

export interface Change {
  readonly what: string;
  readonly effect: Effect;
}

/** A place in the tree: a container, and which of its entries. */
interface Place {
  readonly at: Container;
  readonly i: number;
  readonly path: string;
}

const get = ({ at, i }: Place): Tree => (at instanceof Fields ? at.entries[i]![1] : at[i]!);
function put({ at, i }: Place, value: Tree): void {
  if (at instanceof Fields) at.entries[i]![1] = value;
  else at[i] = value;
}

/** A walk down from the root that ends at a random depth; null when nothing is there. */
function choose(root: Tree, r: Random): Place | null {
  let at = root;
  let path = "";
  while (isContainer(at) && sizeOf(at) > 0) {
    const i = r.below(sizeOf(at));
    path += at instanceof Fields ? `.${at.entries[i]![0].slice(0, 40)}` : `[${i}]`;
    const place = { at, i, path };
    const next = get(place);
    if (!isContainer(next) || sizeOf(next) === 0 || r.below(5) < 2) return place;
    at = next;
  }
  return null;
}

/** A container somewhere in the tree. */
function chooseContainer(root: Tree, r: Random): { at: Container; path: string } | null {
  if (!isContainer(root)) return null;
  let at: Container = root;
  let path = "";
  for (;;) {
    const inner: Container[] = (at instanceof Fields ? at.entries.map(([, v]) => v) : at).filter(isContainer);
    if (inner.length === 0 || r.below(5) < 2) return { at, path };
    at = r.pick(inner);
    path += ".*";
  }
}

const big = (n: number): Tree => Array.from({ length: n }, (_, i) => i % 7);

export const NUMBERS: readonly Tree[] = [
  0, -1, 1, 2, 3, 0.5, -0.5, 1e-300, 5e-324, 1e300, -1e300, 1e9, 4294967296, 2147483647, 2147483648, -2147483648, 9007199254740991,
  1e15, 65536, 1000000, new Raw("9007199254740993"), new Raw("1e999"), new Raw("-1e999"), new Raw("-0"), new Raw("4.0"), new Raw("1e2"),
  new Raw("123456789012345678901234567890"),
]; // prettier-ignore
const BROKEN: readonly Tree[] = ["NaN", "Infinity", "-Infinity", "nan", "0x10", "01", "+1", "1.", ".5", "undefined", "True", "'a'", ""].map(
  (t) => new Raw(t),
);
const TEXTS: readonly string[] = [
  "", " ", "x", "0", "1", "null", "true", "None", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:\\x", ".hidden", "x\0y", "\u202eabc",
  "\u001b[2J", "\ud800", "\udc00x", "é", "e\u0301", "👩‍👩‍👧", "\ufeff", "\u2028", "__proto__", "constructor", "toString", "hasOwnProperty", "NaN",
  "1e9", "%s%n", "{{ 7*7 }}", "${x}", "a".repeat(300), "𝕏".repeat(100), "\n", "line\nline", "\t",
]; // prettier-ignore

function junk(r: Random): Tree {
  switch (r.below(9)) {
    case 0:
      return null;
    case 1:
      return r.once(2);
    case 2:
    case 3:
      return r.pick(NUMBERS);
    case 4:
      return r.pick(TEXTS);
    case 5:
      return r.pick([[], [0], [null], [[]], ["x"], [1, 2, 3]] as Tree[]);
    case 6:
      return new Fields(r.once(2) ? [] : [["a", 1]]);
    case 7:
      return r.once(3) ? r.pick(BROKEN) : r.pick(NUMBERS);
    default:
      return r.once(6) ? big(1 << (4 + r.below(11))) : r.pick(TEXTS);
  }
}

function shiftNumber(n: number, r: Random): Tree {
  return r.pick([
    n + 1,
    n - 1,
    -n,
    n * 2,
    n / 2,
    Math.trunc(n / 2),
    n + 0.5,
    n * 1e9,
    n * 1e-9,
    n + 2 ** 32,
    String(n),
    [n],
    new Raw(`${n}.0`),
  ]);
}

function shiftText(s: string, r: Random): Tree {
  const at = r.below(s.length + 1);
  return r.pick<Tree>([
    s.slice(0, at), s.slice(at), s + s, s.toUpperCase(), `${s} `, ` ${s}`, `${s.slice(0, at)}${r.pick(TEXTS)}${s.slice(at)}`, `${s}\0`,
    s.split("").reverse().join(""), [s], s.slice(0, at) + s.slice(at + 1), s.replace(/\d+/, (d) => String(Number(d) + 1)),
  ]); // prettier-ignore
}

function renameKey(key: string, r: Random): string {
  return r.pick([
    `${key}_`, `_${key}`, key.toUpperCase(), key.slice(1), `${key} `, key.replace(/_(.)/g, (_, c: string) => c.toUpperCase()),
    key.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`), `${key}\u0000`, key.replace("e", "е"), "__proto__", "constructor", "",
    key.replace(/\d+/, (d) => String(Number(d) + 1)),
  ]); // prettier-ignore
}

function nested(t: Tree, r: Random): Tree {
  const depth = r.pick([1, 2, 3, 10, 70, 1000, r.once(8) ? 100_000 : 300]);
  if (r.once(2)) return new Raw("[".repeat(depth) + printTree(t) + "]".repeat(depth));
  return new Raw('{"a":'.repeat(depth) + printTree(t) + "}".repeat(depth));
}

function shuffled<T>(items: readonly T[], r: Random): T[] {
  const out = [...items];
  for (let i = out.length - 1; i > 0; i--) {
    const j = r.below(i + 1);
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}

/** One change to the tree, in place. @returns the root (another one when it was wrapped), and what was done */
export function changeTree(root: Tree, r: Random): Change & { readonly root: Tree } {
  const done = (what: string, effect: Effect = "any", top = root) => ({ root: top, what, effect });
  if (r.once(16)) return reorder(root, r);
  if (r.once(60)) return done("wraps the whole", "any", nested(root, r));
  if (r.once(80)) return done("replaces the whole", "any", junk(r));
  if (r.once(10)) return grow(root, r);
  const place = choose(root, r);
  if (place === null) return done("replaces the whole", "any", junk(r));
  const { at, i, path } = place;
  const value = get(place);
  switch (r.below(14)) {
    case 0:
    case 1:
      if (at instanceof Fields) at.entries.splice(i, 1);
      else at.splice(i, 1);
      return done(`deletes ${path}`);
    case 2:
      if (at instanceof Fields)
        at.entries.splice(r.below(at.entries.length + 1), 0, [at.entries[i]![0], r.once(2) ? copyTree(value) : junk(r)]);
      else at.splice(r.below(at.length + 1), 0, copyTree(value));
      return done(`doubles ${path}`);
    case 3:
      if (!(at instanceof Fields)) break;
      at.entries[i]![0] = renameKey(at.entries[i]![0], r);
      return done(`renames ${path} to ${JSON.stringify(at.entries[i]![0])}`);
    case 4: {
      const j = r.below(sizeOf(at));
      const other = get({ ...place, i: j });
      put({ ...place, i: j }, value);
      put(place, other);
      return done(`swaps the values of ${path} and its sibling ${j}`);
    }
    case 5:
      put(place, nested(value, r));
      return done(`nests ${path}`);
    case 6:
    case 7:
    case 8:
    case 9: {
      const changed =
        typeof value === "number"
          ? shiftNumber(value, r)
          : typeof value === "string"
            ? shiftText(value, r)
            : typeof value === "boolean"
              ? !value
              : junk(r);
      put(place, changed);
      return done(`changes ${path} to ${printTree(changed).slice(0, 60)}`);
    }
    case 10: {
      const other = choose(root, r);
      if (other === null) break;
      put(place, copyTree(get(other)));
      return done(`copies ${other.path} to ${path}`);
    }
    default:
  }
  const changed = junk(r);
  put(place, changed);
  return done(`sets ${path} to ${printTree(changed).slice(0, 60)}`);
}

/** The order of the keys of an object: JSON gives it no meaning. */
function reorder(root: Tree, r: Random): Change & { readonly root: Tree } {
  const found = chooseContainer(root, r);
  if (!(found?.at instanceof Fields)) return { root, what: "nothing", effect: "same" };
  found.at.entries.splice(0, Infinity, ...shuffled(found.at.entries, r));
  return { root, what: `reorders the keys of ${found.path || "the top"}`, effect: "same" };
}

/** Something more in a container: an unknown key, an element, the same section many times. */
function grow(root: Tree, r: Random): Change & { readonly root: Tree } {
  const found = chooseContainer(root, r);
  if (found === null) return { root, what: "nothing", effect: "same" };
  const { at, path } = found;
  if (at instanceof Fields) {
    const key = r.pick(["extra", "x", "__proto__", "constructor", "toString", "", "é", "0", "version", "type", "name", r.pick(TEXTS)]);
    at.entries.splice(r.below(at.entries.length + 1), 0, [key, junk(r)]);
    return { root, what: `adds ${path}.${JSON.stringify(key).slice(0, 40)}`, effect: "any" };
  }
  if (at.length > 0 && r.once(3)) {
    const times = 1 << r.below(8);
    const whole = [...at];
    const most = Math.floor(2e6 / printTree(at).length); // a file of some megabytes is long enough
    for (let n = 0; n < Math.min(times, most) && at.length < 20_000; n++) at.push(...whole.map(copyTree));
    return { root, what: `repeats ${path} ${times} times`, effect: "any" };
  }
  at.splice(r.below(at.length + 1), 0, at.length > 0 && r.once(2) ? copyTree(r.pick(at)) : junk(r));
  return { root, what: `adds an element to ${path}`, effect: "any" };
}
