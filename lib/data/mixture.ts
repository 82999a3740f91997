// Several files as the rows of one run. Without weights they are one file after the other: every epoch has all rows of all. With
// weights an epoch still has as many rows as all files together, and file i gives its share of them, by largest remainder:
//
//   each file is an endless sequence, its rows shuffled anew for each pass by a random stream of its own;
//   epoch e takes the next q(i) rows of each sequence, those from e·q(i) on, and shuffles what it took.
//
// So a file with too few rows repeats some within an epoch, one with too many is read over several epochs, and an epoch is a function of
// seed and number alone: a run that resumes needs no state of it.

import { ConfigError, DataError } from "../errors.ts";
import type { Examples } from "./examples.ts";
import { fileWords } from "./place.ts";
import { shuffledIndices } from "./shuffle.ts";

/** A file of a mixture. */
export interface DataFile {
  readonly file: string;
  /** Share of the rows of an epoch, relative to the other files'; all files have one, or none. */
  readonly weight?: number | undefined;
  /** Only so many of its rows: the first of them in an order drawn from the seed. */
  readonly rows?: number | undefined;
}

/** Rows of several files, not of one or of a program. */
export const isList = (data: unknown): data is readonly DataFile[] => Array.isArray(data);

/** What a file gives to an epoch. */
export interface FileShare {
  /** Its name without its folder: a resumed run may find it elsewhere. */
  readonly file: string;
  readonly weight: number | null;
  /** Usable rows and their tokens. With packing "esft" those that were packed. */
  readonly rows: number;
  readonly tokens: number;
  /** Of an epoch. */
  readonly rowsPerEpoch: number;
  readonly share: number;
}

/** Random streams, apart from those of epochs and of the held-out split: one per file, and one per file and pass. */
const [CHOICE, PASSES] = [2 ** 28, 2 ** 30];
const MOST_PASSES = 2 ** 20;

/** The rows of a file that `rows` leaves, in file order. @throws DataError there are fewer */
export function chosenRows({ file, rows }: DataFile, place: number, all: number, seed: number): readonly number[] {
  if (rows === undefined) return Array.from({ length: all }, (_, i) => i);
  if (rows > all)
    throw new DataError(`${fileWords(file)}: expected at least ${rows} usable rows (rows of data), found ${all}; ask for ${all} or fewer`, {
      where: { file, rule: "rows", rows: all },
    });
  return Array.from(shuffledIndices(all, seed, CHOICE + place).slice(0, rows)).toSorted((a, b) => a - b);
}

/** `total` in shares of these weights, whole numbers: what is left over goes to the largest remainders, the earlier file first. */
export function quotas(weights: readonly number[], total: number): number[] {
  const sum = weights.reduce((a, b) => a + b, 0);
  const exact = weights.map((w) => (total * w) / sum);
  const out = exact.map(Math.floor);
  const left = total - out.reduce((a, b) => a + b, 0);
  const order = exact.map((x, i) => ({ i, rest: x - out[i]! })).sort((a, b) => b.rest - a.rest || a.i - b.i);
  for (const { i } of order.slice(0, left)) out[i]!++;
  return out;
}

/** The usable examples of a mixture, file by file, and what each gives to an epoch. */
export class Mixture {
  readonly shares: readonly FileShare[];
  private readonly files: readonly (readonly number[])[];
  private readonly perEpoch: readonly number[];
  private readonly seed: number;

  /** @throws ConfigError a file gives nothing to an epoch · DataError a file has no usable row */
  constructor(examples: Examples, usable: Iterable<number>, seed: number) {
    const { origins, weights } = examples;
    const files = origins.map((): number[] => []);
    for (const i of usable) files[examples.originIndex(i)]!.push(i);
    const total = files.reduce((n, of) => n + of.length, 0);
    const perEpoch = weights === null ? files.map((of) => of.length) : quotas(weights, total);
    const name = (i: number): string => fileWords(origins[i]?.file ?? `file ${i + 1}`);
    const empty = weights === null ? -1 : files.findIndex((of) => of.length === 0);
    if (empty >= 0)
      throw new DataError(`${name(empty)}: expected rows to take by its weight, found none that is left for training; leave the file out`, {
        where: { file: name(empty), rule: "empty" },
      });
    const unseen = weights === null ? -1 : perEpoch.indexOf(0);
    if (unseen >= 0)
      throw new ConfigError(
        `${name(unseen)}: expected a weight that gives at least one of the ${total} rows of an epoch, found ${weights![unseen]}; raise it, or leave the file out`,
        { where: { key: "data", file: name(unseen) } },
      );
    this.files = files;
    this.perEpoch = perEpoch;
    this.seed = seed;
    this.shares = files.map((of, i) => ({
      file: name(i).replace(/^.*[\\/]/, ""),
      weight: weights?.[i] ?? null,
      rows: of.length,
      tokens: of.reduce((n, e) => n + examples.size(e), 0),
      rowsPerEpoch: perEpoch[i]!,
      share: perEpoch[i]! / total,
    }));
  }

  /** Which examples an epoch takes, in its order. */
  order(epoch: number): Uint32Array {
    const taken = this.files.flatMap((file, i) => this.take(file, i, epoch * this.perEpoch[i]!, this.perEpoch[i]!));
    return shuffledIndices(taken.length, this.seed, epoch).map((i) => taken[i]!);
  }

  /** `count` examples of a file's endless sequence, from place `from` on. */
  private take(file: readonly number[], i: number, from: number, count: number): number[] {
    const out: number[] = [];
    for (let at = from; out.length < count;) {
      const pass = Math.floor(at / file.length);
      const order = shuffledIndices(file.length, this.seed, PASSES + i * MOST_PASSES + (pass % MOST_PASSES));
      const begin = at % file.length;
      const piece = order.subarray(begin, begin + count - out.length);
      for (const k of piece) out.push(file[k]!);
      at += piece.length;
    }
    return out;
  }
}
