// YAML files of options: keys and values, and the line that a key stands in.

import { isMap, isScalar, isSeq, LineCounter, parseDocument } from "yaml";
import type { Node } from "yaml";
import { ConfigError } from "../errors.ts";
import { isPlain } from "../options.ts";
import type { Plain } from "../options.ts";
import { readTextFile } from "./regular.ts";

const MAX_BYTES = 2 ** 16; // hundreds of options; the parser of YAML takes minutes for a megabyte of anchors

export interface YamlFile {
  readonly value: Plain;
  /** The line, from 1, of the deepest key of this path that is there; null: not even the first. */
  readonly lineOf: (path: readonly string[]) => number | null;
}

/** Reads YAML, or JSON, which is YAML too. @throws ConfigError it is not, or has no keys and values at the top · IoError */
export async function readYaml(file: string): Promise<YamlFile> {
  const text = await readTextFile(file, MAX_BYTES);
  const lines = new LineCounter();
  let top: Node | null;
  let value: unknown;
  try {
    const document = parseDocument(text, { lineCounter: lines });
    // A warning is a tag that nobody knows: its value would be taken as text.
    for (const fault of [...document.errors, ...document.warnings]) throw fault;
    value = document.toJS();
    top = document.contents;
  } catch (cause) {
    throw new ConfigError(`${file}: not YAML: ${(cause as Error).message.split("\n")[0]}`, { where: { file }, cause });
  }
  if (!isPlain(value))
    throw new ConfigError(`${file}: expected keys and values, found ${JSON.stringify(value)?.slice(0, 40) ?? "nothing"}`, {
      where: { file },
    });
  return {
    value,
    lineOf: (path) => {
      const offset = placeOf(top, path);
      return offset === null ? null : lines.linePos(offset).line;
    },
  };
}

/** Where the deepest key of a path begins. */
function placeOf(top: unknown, path: readonly string[]): number | null {
  let [at, offset] = [top, null as number | null];
  for (const key of path) {
    if (isMap(at)) {
      const pair = at.items.find((item) => isScalar(item.key) && String(item.key.value) === key);
      if (!pair) break;
      offset = (isScalar(pair.key) ? pair.key.range?.[0] : undefined) ?? offset;
      at = pair.value;
    } else if (isSeq(at)) {
      const item = at.items[Number(key)];
      if (item === undefined) break;
      offset = (item as Node).range?.[0] ?? offset;
      at = item;
    } else break;
  }
  return offset;
}
