// JSON as a tree that can hold what JSON.parse cannot: keys twice, keys in any order, numbers as they are spelled. What is printed
// from it is what a hostile file may say; `readTree` is the oracle's own reader of such files.

/** Text that stands in the file as it is: 1e999, NaN, 4.0. */
export class Raw {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

/** An object: its entries in order, keys not necessarily different. */
export class Fields {
  readonly entries: [key: string, value: Tree][];
  constructor(entries: [key: string, value: Tree][]) {
    this.entries = entries;
  }
}

export type Tree = null | boolean | number | string | Raw | Tree[] | Fields;
export type Container = Tree[] | Fields;

export const isContainer = (t: Tree | undefined): t is Container => Array.isArray(t) || t instanceof Fields;
export const sizeOf = (c: Container): number => (c instanceof Fields ? c.entries.length : c.length);

export function toTree(value: unknown): Tree {
  if (Array.isArray(value)) return value.map(toTree);
  if (typeof value === "object" && value !== null) return new Fields(Object.entries(value).map(([key, v]) => [key, toTree(v)]));
  return value as Tree;
}

export function copyTree(t: Tree): Tree {
  if (Array.isArray(t)) return t.map(copyTree);
  if (t instanceof Fields) return new Fields(t.entries.map(([key, v]) => [key, copyTree(v)]));
  return t;
}

/** @param space called at each place where JSON may have white space */
export function printTree(t: Tree, space: () => string = () => ""): string {
  if (t instanceof Raw) return t.text;
  if (Array.isArray(t)) return `[${t.map((v) => space() + printTree(v, space) + space()).join(",")}]`;
  if (t instanceof Fields)
    return `{${t.entries.map(([key, v]) => `${space()}${JSON.stringify(key)}${space()}:${space()}${printTree(v, space)}${space()}`).join(",")}}`;
  return JSON.stringify(t);
}

/** What a file says, for the oracle: undefined where it is not JSON in UTF-8, or where an object has a key twice. */
export function jsonOf(file: Uint8Array | string): { readonly value: unknown } | undefined {
  try {
    const text = typeof file === "string" ? file : new TextDecoder("utf-8", { fatal: true }).decode(file);
    const value = JSON.parse(text) as unknown;
    return hasTwins(text) ? undefined : { value };
  } catch {
    return undefined;
  }
}

/** Whether an object of this JSON text has a key twice. */
function hasTwins(text: string): boolean {
  // One token at a time: strings whole, then the brackets and commas between them.
  const open: (Set<string> | null)[] = [];
  let isKey = false;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]/gs)) {
    if (token === "{") isKey = open.push(new Set()) > 0;
    else if (token === "[") isKey = open.push(null) < 0;
    else if (token === "}" || token === "]") open.pop();
    else if (token === ",") isKey = open.at(-1) instanceof Set;
    else if (token === ":") isKey = false;
    else if (isKey) {
      const key = JSON.parse(token) as string;
      if (open.at(-1)!.has(key)) return true;
      open.at(-1)!.add(key);
      isKey = false;
    }
  }
  return false;
}
