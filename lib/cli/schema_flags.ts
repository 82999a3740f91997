// Flags from a zod schema: every leaf has a dotted flag (--optimizer.weight-decay, --optimizer.weightDecay), and a short one
// (--weight-decay) that is the one in --help. Values go back into an object of the schema's shape; the schema judges them.

import { Option } from "@commander-js/extra-typings";
import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { decimal } from "../options.ts";

interface Node {
  readonly def: {
    readonly type: string;
    readonly innerType?: Node;
    readonly options?: readonly Node[];
    readonly shape?: Record<string, Node>;
    readonly defaultValue?: unknown;
    readonly values?: readonly string[];
    readonly entries?: Record<string, string>;
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
  const choices = [
    ...(before?.choices ?? []),
    ...(type === "enum" ? Object.values(node.def.entries ?? {}) : type === "literal" ? (node.def.values ?? []) : []),
  ];
  const kind = choices.length > 0 ? "choice" : type === "number" ? "number" : type === "boolean" ? "boolean" : "string";
  found.set(key, { path, kind, choices, description: before?.description || text || "", initial });
}

const kebab = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

/** Short names that differ from the leaf's own: path → flag name. */
export type FlagNames = Readonly<Record<string, string>>;

/** Adds the flags; @returns what reads their values back as a (partial) object of the schema's shape */
export function addSchemaFlags(
  command: CommandUnknownOpts,
  leaves: readonly Leaf[],
  names: FlagNames,
): (options: Readonly<Record<string, unknown>>) => Record<string, unknown> {
  const byFlag: { attribute: string; leaf: Leaf }[] = [];
  const add = (name: string, leaf: Leaf, hidden: boolean): void => {
    const value = leaf.kind === "boolean" ? "[bool]" : leaf.kind === "number" ? "<n>" : leaf.kind === "choice" ? "<name>" : "<path>";
    const notes = [
      ...(leaf.kind === "choice" ? [leaf.choices.join(", ")] : []),
      ...(leaf.initial === undefined ? [] : [`default: ${String(leaf.initial)}`]),
    ];
    const shown = leaf.description + (notes.length === 0 ? "" : ` (${notes.join("; ")})`);
    const option = new Option(`--${name} ${value}`, shown);
    if (hidden) option.hideHelp();
    if (leaf.kind === "boolean") option.preset("true");
    command.addOption(option);
    byFlag.push({ attribute: option.attributeName(), leaf });
  };
  for (const leaf of leaves) {
    const path = leaf.path.join(".");
    const own = kebab(leaf.path.at(-1)!);
    const short = names[path] ?? own;
    const forms = new Set([short, own, path, leaf.path.map(kebab).join(".")]);
    const taken = new Set(command.options.map((o) => o.long?.slice(2)));
    for (const name of forms) if (!taken.has(name)) add(name, leaf, name !== short);
  }
  return (options) => {
    const out: Record<string, unknown> = {};
    for (const { attribute, leaf } of byFlag) {
      const given = options[attribute];
      if (given === undefined) continue;
      let at = out;
      for (const key of leaf.path.slice(0, -1)) at = (at[key] ??= {}) as Record<string, unknown>;
      at[leaf.path.at(-1)!] = convert(leaf, given as string);
    }
    return out;
  };
}

// What does not convert stays text, so that the schema's message shows what was found.
function convert(leaf: Leaf, given: string): unknown {
  if (leaf.kind === "number") return decimal(given) ?? given;
  if (leaf.kind === "boolean") return given === "true" ? true : given === "false" ? false : given;
  return given;
}
