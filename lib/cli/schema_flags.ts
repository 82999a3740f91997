// Flags from a zod schema: every leaf has a dotted flag (--optimizer.weight-decay, --optimizer.weightDecay), and a short one
// (--weight-decay) that is the one in --help. Values go back into an object of the schema's shape; the schema judges them.

import { Option } from "@commander-js/extra-typings";
import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { decimal } from "../options.ts";
import type { Leaf } from "../options/leaves.ts";

const kebab = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

/** Short names that differ from the leaf's own: path → flag name. */
export type FlagNames = Readonly<Record<string, string>>;

/** The name of a leaf in --help. */
export const shortName = (path: readonly string[], names: FlagNames): string => names[path.join(".")] ?? kebab(path.at(-1)!);

/** Every name under which a leaf is known, flag and key alike, the short one first; where two leaves claim a name, the earlier has it. */
export function namesOf(leaves: readonly Leaf[], names: FlagNames): Map<string, Leaf> {
  const found = new Map<string, Leaf>();
  for (const leaf of leaves) {
    const { path } = leaf;
    const own = path.at(-1)!;
    for (const name of [shortName(path, names), kebab(own), own, path.join("."), path.map(kebab).join(".")])
      if (!found.has(name)) found.set(name, leaf);
  }
  return found;
}

/** Adds the flags, those that may be repeated as lists; @returns what reads their values back as a (partial) object of the schema's shape */
export function addSchemaFlags(
  command: CommandUnknownOpts,
  leaves: readonly Leaf[],
  names: FlagNames,
  repeated: ReadonlySet<string> = new Set(),
): (options: Readonly<Record<string, unknown>>) => Record<string, unknown> {
  const byFlag: { flag: string; attribute: string; leaf: Leaf }[] = [];
  const shown = new Set<Leaf>();
  for (const [name, leaf] of namesOf(leaves, names)) {
    const value = leaf.kind === "boolean" ? "[bool]" : leaf.kind === "number" ? "<n>" : leaf.kind === "choice" ? "<name>" : "<path>";
    const notes = [
      ...(leaf.kind === "choice" ? [leaf.choices.join(", ")] : []),
      ...(leaf.initial === undefined ? [] : [`default: ${String(leaf.initial)}`]),
    ];
    const text = leaf.description + (notes.length === 0 ? "" : ` (${notes.join("; ")})`);
    const option = new Option(`--${name} ${value}`, text);
    if (shown.has(leaf)) option.hideHelp();
    shown.add(leaf);
    if (leaf.kind === "boolean") option.preset("true");
    if (repeated.has(leaf.path.join("."))) option.argParser((text: string, before: string[] | undefined) => [...(before ?? []), text]);
    // Commander's own key makes one of max-length and maxLength; here every name is told apart.
    option.attributeName = () => name;
    command.addOption(option);
    byFlag.push({ flag: `--${name}`, attribute: name, leaf });
  }
  return (options) => {
    const out: Record<string, unknown> = {};
    const by = new Map<Leaf, string>();
    for (const { flag, attribute, leaf } of byFlag) {
      const given = options[attribute];
      if (given === undefined) continue;
      const before = by.get(leaf);
      if (before !== undefined) command.error(`${before} and ${flag} are the same option; give one of them`);
      by.set(leaf, flag);
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
