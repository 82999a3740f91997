// The rows of a text folder: one a tokenizer, one a template, one each for masks, packing and datasets, whichever are there.

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Report } from "./compare.ts";
import { checkDatasets } from "./text/datasets.ts";
import { TextFolder, tokenizerKinds } from "./text/folder.ts";
import type { Elsewhere } from "./text/folder.ts";
import { checkMasks } from "./text/masks.ts";
import { checkPacking } from "./text/packing.ts";
import { checkTemplate } from "./text/templates.ts";
import { checkTokenizer } from "./text/tokenizers.ts";

export type { Elsewhere } from "./text/folder.ts";

export interface TextRow {
  /** A file of the folder, or tokenizers/NAME, templates/NAME. */
  readonly name: string;
  /** The file or folder with its cases. */
  readonly path: string;
  check(): Promise<Report>;
}

const files = { "masks.json": checkMasks, "esft_packing.json": checkPacking, "datasets.json": checkDatasets } as const;

/** A folder with text fixtures: templates.json, or any of the others. */
export function isTextFolder(dir: string): boolean {
  if (["templates.json", ...Object.keys(files)].some((name) => existsSync(join(dir, name)))) return true;
  return tokenizerKinds(dir).length > 0;
}

/** @throws DataError, SyntaxError templates.json or sources.json is not what it should be */
export function textRows(root: string, elsewhere: Elsewhere = {}): TextRow[] {
  const folder = new TextFolder(root, elsewhere);
  return [
    ...tokenizerKinds(root).map((kind) => {
      const path = join(root, "tokenizers", kind);
      return { name: `tokenizers/${kind}`, path, check: () => checkTokenizer(path, () => folder.tokenizer(kind)) };
    }),
    ...folder.rendered.map(({ name }) => ({
      name: `templates/${name}`,
      path: join(root, "templates.json"),
      check: async () => checkTemplate(folder, name),
    })),
    ...Object.entries(files)
      .filter(([name]) => existsSync(join(root, name)))
      .map(([name, check]) => ({ name, path: join(root, name), check: async () => check(folder) })),
  ];
}
