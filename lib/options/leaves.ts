// A zod schema as a tree of keys: its leaves with their paths, and the keys that are valid at a place.

interface Node {
  readonly def: {
    readonly type: string;
    readonly innerType?: Node;
    readonly options?: readonly Node[];
    readonly discriminator?: string;
    readonly shape?: Record<string, Node>;
    readonly defaultValue?: unknown;
    readonly values?: readonly string[];
    readonly entries?: Record<string, string>;
    readonly element?: Node;
  };
  readonly description?: string | undefined;
}

export interface Leaf {
  readonly path: readonly string[];
  readonly kind: "string" | "number" | "boolean" | "choice";
  readonly choices: readonly string[];
  readonly description: string;
  readonly initial: unknown;
}

/** All leaves of an object schema, union branches merged. */
export function leavesOf(schema: unknown): Leaf[] {
  const found = new Map<string, Leaf>();
  walk(schema as Node, [], undefined, undefined, found);
  return [...found.values()];
}

function walk(node: Node, path: readonly string[], description: string | undefined, initial: unknown, found: Map<string, Leaf>): void {
  const { type, innerType, options, shape } = node.def;
  const text = description ?? node.description;
  if (innerType) return walk(innerType, path, text, type === "default" ? node.def.defaultValue : initial, found);
  if (shape) {
    for (const [key, child] of Object.entries(shape)) walk(child, [...path, key], undefined, undefined, found);
    return;
  }
  if (options) {
    for (const option of options) walk(option, path, text, initial, found);
    return;
  }
  if (type === "custom") return; // objects that only a program can give
  const key = path.join(".");
  const before = found.get(key);
  const own = type === "enum" ? Object.values(node.def.entries ?? {}) : type === "literal" ? (node.def.values ?? []) : [];
  const choices = [...new Set([...(before?.choices ?? []), ...own])];
  const kind = choices.length > 0 ? "choice" : type === "number" ? "number" : type === "boolean" ? "boolean" : "string";
  found.set(key, { path, kind, choices, description: before?.description || text || "", initial });
}

const isObject = (x: unknown): x is Record<string, unknown> => typeof x === "object" && x !== null;

/** The keys that `schema` knows at `path`, each once. `value`, what was given, decides between the kinds of an object. */
export function keysAt(schema: unknown, path: readonly PropertyKey[], value: unknown): string[] {
  let nodes = kindsOf(schema as Node, value);
  let at = value;
  for (const key of path) {
    at = isObject(at) ? at[String(key)] : undefined;
    nodes = nodes.flatMap((node) => {
      const child = node.def.shape?.[String(key)] ?? node.def.element;
      return child ? kindsOf(child, at) : [];
    });
  }
  return [...new Set(nodes.flatMap((node) => Object.keys(node.def.shape ?? {})))];
}

/** The object schemas that a value may be of. */
function kindsOf(node: Node, value: unknown): Node[] {
  const { innerType, options, discriminator, shape } = node.def;
  if (innerType) return kindsOf(innerType, value);
  if (shape || node.def.element) return [node];
  const word = discriminator !== undefined && isObject(value) ? value[discriminator] : undefined;
  const named = (options ?? []).filter((o) => o.def.shape?.[discriminator ?? ""]?.def.values?.includes(word as string));
  return (named.length > 0 ? named : (options ?? [])).flatMap((option) => kindsOf(option, value));
}
