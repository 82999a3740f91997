// A job as a YAML file that explains itself: what every option does, in the words of its help, and what else could stand there.

import { stringify } from "yaml";
import type { Leaf } from "../options/leaves.ts";
import { jobLeaves } from "./job_options.ts";

export interface Section {
  readonly title: string;
  /** In the order in which they stand in the file; what has no value is written as a comment with its default. */
  readonly options: readonly YamlOption[];
}

export interface YamlOption {
  /** "optimizer.lr" */
  readonly path: string;
  readonly value?: string | number | undefined;
  /** What is to be known of this value, each on lines of its own above the option's own words. */
  readonly notes?: readonly string[] | undefined;
  /** Stands in a comment where no value is given and the option has no default. */
  readonly example?: string | number | undefined;
}

const WIDTH = 100;

/** @param head lines on top, as comments */
export function jobYaml(head: readonly string[], sections: readonly Section[]): string {
  const lines = head.map((line) => (line === "" ? "#" : `# ${line}`));
  for (const { title, options } of sections) {
    lines.push("", `# ── ${title} ──`);
    let open: readonly string[] = [];
    for (const option of options) {
      const path = option.path.split(".");
      const parents = path.slice(0, -1);
      for (const [depth, key] of parents.entries())
        if (open[depth] !== key || depth >= open.length) {
          open = parents.slice(0, depth);
          const inactive = options.every(({ path: p, value }) => !p.startsWith(`${parents.slice(0, depth + 1).join(".")}.`) || value === undefined); // prettier-ignore
          lines.push("", `${"  ".repeat(depth)}${inactive ? "# " : ""}${key}:`);
          open = [...open, key];
        }
      open = parents;
      lines.push(...entry(path, option));
    }
  }
  return `${lines.join("\n")}\n`;
}

function entry(path: readonly string[], { value, notes = [], example }: YamlOption): string[] {
  const leaf = leafOf(path);
  const indent = "  ".repeat(path.length - 1);
  const comments = [...notes, words(leaf)].flatMap((text) => wrapped(text, WIDTH - indent.length - 2));
  const shown = value ?? example ?? leaf.initial;
  const line = `${path.at(-1)}: ${shown === undefined ? "" : scalar(shown)}`.trimEnd();
  return [
    ...(path.length === 1 ? [""] : []),
    ...comments.map((text) => `${indent}# ${text}`),
    `${indent}${value === undefined ? "# " : ""}${line}`,
  ];
}

function leafOf(path: readonly string[]): Leaf {
  const found = jobLeaves.find((leaf) => leaf.path.join(".") === path.join("."));
  if (!found) throw new Error(`${path.join(".")} is no option of a job; this is a defect of esft`);
  return found;
}

function words({ description, choices, initial }: Leaf): string {
  const more = [...(choices.length > 1 ? [choices.join(" | ")] : []), ...(initial === undefined ? [] : [`default ${String(initial)}`])];
  return `${description}${more.length === 0 ? "" : ` (${more.join("; ")})`}`;
}

/** A value as YAML has it: quoted where it must be. */
const scalar = (value: unknown): string => (typeof value === "number" && Math.abs(value) < 1e-3 && value !== 0 ? value.toExponential().replace(/^(\d+)e/, "$1.0e") : stringify(value, { lineWidth: 0 }).trimEnd()); // prettier-ignore

function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}
