// What the commands of a page find: the embedded model where a clone has it and under the names that pages use for others, with few rows.

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { projectRoot } from "../cli/support.ts";

const ROWS = 40;
/** Names of pages for what readers have, and whose rows stand in for them. */
const DATA: Readonly<Record<string, string>> = {
  "law.jsonl": "requests.train",
  "law.train.jsonl": "requests.train",
  "law.validation.jsonl": "requests.validation",
  "law.test.jsonl": "requests.test",
  "general.jsonl": "domains/prose_en",
};
export const PLACEHOLDER_MODEL = "OLMoE-1B-7B";

const firstRows = (file: string, n: number): string => readFileSync(file, "utf8").split("\n").slice(0, n).join("\n") + "\n"; // prettier-ignore

/** A folder like a clone's root. */
export function makeWorkspace(): { readonly dir: string; readonly remove: () => void } {
  const dir = mkdtempSync(join(tmpdir(), "esft-docs-"));
  const [from, to] = [join(projectRoot, "examples/embedded"), join(dir, "examples/embedded")];
  mkdirSync(join(to, "data/domains"), { recursive: true });
  mkdirSync(join(dir, "out"));
  for (const entry of readdirSync(from, { withFileTypes: true }))
    if (entry.isFile()) symlinkSync(join(from, entry.name), join(to, entry.name));
  for (const folder of ["data", "data/domains"])
    for (const entry of readdirSync(join(from, folder), { withFileTypes: true }))
      if (entry.isFile()) writeFileSync(join(to, folder, entry.name), firstRows(join(from, folder, entry.name), ROWS));
  symlinkSync(to, join(dir, PLACEHOLDER_MODEL));
  for (const [name, data] of Object.entries(DATA)) writeFileSync(join(dir, name), firstRows(join(to, "data", `${data}.jsonl`), ROWS));
  return { dir, remove: () => rmSync(dir, { recursive: true, force: true }) };
}
