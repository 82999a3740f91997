// Recognises fixtures by what a folder holds, whatever it is called, and runs them: one row each. Kinds:
//   family     golden.json and config.json
//   method     golden.json and adapter.safetensors; the base is where its golden.json says, and no row by itself
//   text       a folder with templates.json, masks.json, esft_packing.json, datasets.json or tokenizers/*/cases.json: a row for
//              each of them; or the folder of one tokenizer, with cases.json
//   quantised  files NAME.safetensors that no config.json makes a checkpoint of: a row each
// A golden.json beside neither is a kind that nobody serves yet. Folders that are no fixture are looked into.

import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, join, parse, resolve } from "node:path";
import { loadTokenizer } from "../../lib/text/tokenizer.ts";
import { NotServed } from "./compare.ts";
import type { Report } from "./compare.ts";
import { checkFamily } from "./families.ts";
import { checkMethod } from "./methods.ts";
import type { Device } from "./model.ts";
import { checkQuantised } from "./quantised.ts";
import { isTextFolder, textRows } from "./text.ts";
import type { Elsewhere } from "./text.ts";
import { checkTokenizer } from "./text/tokenizers.ts";

export interface Fixture {
  /** Path below the folder that was asked for; its own name when that is the fixture. */
  readonly name: string;
  /** The file or folder that holds it. */
  readonly path: string;
  check(device: Device): Promise<Report>;
}

const DEEPEST = 4; // folders below the one asked for

const unserved = async (why: string): Promise<never> => {
  throw new NotServed(why);
};

const isFolder = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;

function search(dir: string, name: string, elsewhere: Elsewhere, depth: number): Fixture[] {
  const has = (file: string): boolean => existsSync(join(dir, file));
  const here = (check: Fixture["check"]): Fixture[] => [{ name: name || basename(dir), path: dir, check }];
  const below = (child: string): string => (name ? `${name}/${child}` : child);
  if (has("golden.json")) {
    if (has("config.json")) return here((device) => checkFamily(device, dir));
    if (has("adapter.safetensors")) return here((device) => checkMethod(device, dir));
    return here(() => unserved("a kind of fixture that is not known"));
  }
  if (has("cases.json")) return here(() => checkTokenizer(dir, () => loadTokenizer(dir)));
  const text = isTextFolder(dir) ? textRows(dir, elsewhere).map((row) => ({ ...row, name: below(row.name) })) : [];
  const entries = readdirSync(dir).sort();
  const weights = has("config.json") ? [] : entries.filter((entry) => entry.endsWith(".safetensors"));
  const quantised = weights.map((file) => ({
    name: below(parse(file).name),
    path: join(dir, file),
    check: (device: Device) => checkQuantised(device, join(dir, file)),
  }));
  if (depth === DEEPEST) return [...text, ...quantised];
  const known = text.length > 0 ? ["tokenizers", "templates"] : []; // what a text folder refers to by itself
  const folders = entries.filter((entry) => !/^\.|^node_modules$/.test(entry) && !known.includes(entry) && isFolder(join(dir, entry)));
  return [...text, ...quantised, ...folders.flatMap((entry) => search(join(dir, entry), below(entry), elsewhere, depth + 1))];
}

/** The fixtures under a folder, or of one file: of quantised weights by any file of theirs, or a file of a text folder. */
export function findFixtures(path: string, elsewhere: Elsewhere = {}): Fixture[] {
  if (!statSync(path).isFile()) return search(resolve(path), "", elsewhere, 0);
  const { dir, name } = parse(resolve(path));
  return search(dir, "", elsewhere, DEEPEST).filter((f) => f.path === resolve(path) || f.path === join(dir, `${name}.safetensors`));
}

/** Whether `--only NAME` means a fixture: NAME is a part of its path, of one name or several. */
export const isNamed = (fixture: Fixture, name: string): boolean => `/${fixture.name}/`.includes(`/${name}/`);

/** Checks one fixture, whatever it throws. */
export async function runFixture(fixture: Fixture, device: Device): Promise<Report> {
  try {
    return await fixture.check(device);
  } catch (error) {
    const failures = [error instanceof Error ? error.message : String(error)];
    return { outcome: error instanceof NotServed ? "not served" : "FAIL", checks: [], compared: 0, failures };
  }
}
