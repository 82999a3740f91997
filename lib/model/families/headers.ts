// What the headers of a checkpoint show, asked while a ModelSpec is built: counts of config.json are held against it before anything
// of their length is made.

import { ConfigError } from "../../errors.ts";

export type Shapes = ReadonlyMap<string, { readonly shape: readonly number[] }>;

/** A list of the model: layers, or the experts of a layer. */
export interface CountedList {
  /** Of config.json. */
  readonly key: string;
  /** Its entries are `${at}.0`, `${at}.1` …, or lie in the fused tensor `at` along its first dimension. */
  readonly at: string;
  readonly count: number;
  readonly shown: number;
}

export class Headers {
  /** The lists that were asked for, in their order. */
  readonly lists: CountedList[] = [];
  private readonly shapes: Shapes | null;
  private readonly entries = new Map<string, Set<string>>();

  /** @param shapes null: there are no weights yet, config.json alone tells */
  constructor(shapes: Shapes | null) {
    this.shapes = shapes;
    for (const name of shapes?.keys() ?? [])
      for (const { index, 0: number } of name.matchAll(/(?<=\.)(?:0|[1-9]\d*)(?=\.)/g)) {
        const at = name.slice(0, index - 1);
        const found = this.entries.get(at);
        if (found) found.add(number);
        else this.entries.set(at, new Set([number]));
      }
  }

  /** Is there a tensor of this name, or one below it? Null: there are no weights yet. */
  shows(at: string): boolean | null {
    if (!this.shapes) return null;
    if (this.shapes.has(at) || this.entries.has(at)) return true;
    for (const name of this.shapes.keys()) if (name.startsWith(`${at}.`)) return true;
    return false;
  }

  /** @throws ConfigError the weights show fewer entries than `count`, or a fused tensor has more */
  requireList(list: Omit<CountedList, "shown">, source: string): void {
    const { shapes } = this;
    if (!shapes) return;
    const { key, at, count } = list;
    const fused = shapes.get(at);
    const shown = fused ? (fused.shape[0] ?? 0) : (this.entries.get(at)?.size ?? 0);
    this.lists.push({ ...list, shown });
    if (fused ? shown === count : shown >= count) return;
    const where = fused ? `the first dimension of "${at}" is ${shown}` : `the weights show ${shown} (entries of "${at}")`;
    throw new ConfigError(`${source}: "${key}" is ${count}, ${where}`, { where: { file: source, key, found: count, expected: shown } });
  }
}
