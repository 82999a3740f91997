// What a fuzzer of a format is, and how one case ends. A case is an input that was made from a valid one by a few steps. The parser
// either refuses it with one of our errors, in words that name the file, or accepts it: then the case's own judge compares what was
// understood with what the input says. Everything else is a finding.

import { EsftError } from "../../lib/errors.ts";
import { changeBytes } from "./mutate_bytes.ts";
import { changeTree } from "./mutate_tree.ts";
import { Random } from "./random.ts";
import type { Tree } from "./tree.ts";
import { copyTree, printTree } from "./tree.ts";

export interface Case {
  /** What was done to the valid input, in words. */
  readonly steps: readonly string[];
  /** The input, to be saved when this is a finding. */
  readonly files: Readonly<Record<string, Uint8Array | string>>;
  /** No step can matter: it must be accepted. */
  readonly same: boolean;
  /** What the message of a refusal must name. */
  readonly file: string;
  /** Feeds the input to the parser, and whatever else reads it before anything is computed. */
  readonly parse: () => unknown;
  /** @returns what is wrong with what was understood, or null */
  readonly judge: (accepted: never) => string | null | Promise<string | null>;
}

export interface Format {
  readonly name: string;
  /** Prepares valid inputs below an empty folder. @returns what makes a case */
  readonly open: (dir: string) => Promise<(dice: Dice) => Case>;
}

/** The random choices of one case. */
export class Dice {
  /** Which valid input, which way into the parser. */
  readonly top: Random;
  readonly index: number;
  readonly #key: readonly (string | number)[];
  readonly #without: ReadonlySet<number>;

  /** @param without steps that are left out, to find those that matter */
  constructor(format: string, seed: number, index: number, without: ReadonlySet<number> = new Set()) {
    this.#key = [format, seed, index];
    this.#without = without;
    this.index = index;
    this.top = new Random(...this.#key);
  }

  /** One step in most cases, several in some, none in few. */
  steps(change: (r: Random) => void): void {
    const count = this.top.once(64) ? 0 : this.top.once(3) ? 2 + this.top.below(3) : 1;
    for (let i = 0; i < count; i++) if (!this.#without.has(i)) change(new Random(...this.#key, i));
  }
}

/** Most steps of a case. */
export const MAX_STEPS = 4;

export interface Mutated {
  readonly bytes: Uint8Array;
  readonly steps: string[];
  readonly same: boolean;
}

/** A valid JSON file, changed. */
export function mutateJson(seed: Tree, dice: Dice): Mutated {
  let root = copyTree(seed);
  let bytes: Uint8Array | null = null;
  let space: (() => string) | undefined;
  let same = true;
  const steps: string[] = [];
  dice.steps((r) => {
    if (bytes === null && r.once(24)) {
      space = () => (r.once(4) ? r.pick([" ", "\n", "\t", "\r\n", "    "]) : "");
      steps.push("adds white space");
    } else if (bytes === null && !r.once(6)) {
      const change = changeTree(root, r);
      root = change.root;
      same &&= change.effect === "same";
      steps.push(change.what);
    } else {
      const change = changeBytes(bytes ?? Buffer.from(printTree(root, space)), r);
      bytes = change.bytes;
      same = false;
      steps.push(change.what);
    }
  });
  return { bytes: bytes ?? Buffer.from(printTree(root, space)), steps, same };
}

/** A valid file of any kind, its bytes changed. */
export function mutateBytes(seed: Uint8Array, dice: Dice): Mutated {
  let bytes = seed;
  const steps: string[] = [];
  dice.steps((r) => {
    const change = changeBytes(bytes, r);
    bytes = change.bytes;
    steps.push(change.what);
  });
  return { bytes, steps, same: steps.length === 0 };
}

export interface Finding {
  readonly kind: "internal" | "silent" | "refused" | "message" | "hang" | "crash" | "memory";
  readonly detail: string;
}
/** "accepted", the code of a refusal, or a finding. */
export type Outcome = string | Finding;

const LONGEST_MESSAGE = 4000;

export async function runCase(c: Case): Promise<Outcome> {
  let accepted: unknown;
  try {
    accepted = await c.parse();
  } catch (error) {
    return c.same ? { kind: "refused", detail: `a file that means the same is refused: ${text(error)}` } : judgeRefusal(error, c.file);
  }
  const fault = await c.judge(accepted as never);
  return fault === null ? "accepted" : { kind: "silent", detail: fault };
}

const text = (error: unknown): string => (error instanceof Error ? (error.stack ?? error.message) : String(error));

function judgeRefusal(error: unknown, file: string): Outcome {
  if (!(error instanceof EsftError)) return { kind: "internal", detail: text(error) };
  const { message, code, where } = error;
  const bad = (what: string): Finding => ({ kind: "message", detail: `${what}: ${JSON.stringify(message.slice(0, 600))}` });
  if (message.length > LONGEST_MESSAGE) return bad(`a message of ${message.length} characters`);
  if (/\n\s+at /.test(message)) return bad("a stack in a message");
  // eslint-disable-next-line no-control-regex
  if (/[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/.test(message)) return bad("a control character in a message");
  if (!message.includes(file) && where["file"] === undefined) return bad(`a message that does not name ${file}`);
  return code;
}

/** The first place where two values differ, or null. Absent is undefined; a Map is its entries; 0 is −0. */
export function difference(expected: unknown, found: unknown, path = ""): string | null {
  if (Object.is(expected, found) || expected === found) return null;
  if (expected instanceof Map && found instanceof Map) return difference([...expected], [...found], path);
  const list = (x: unknown): x is ArrayLike<unknown> => Array.isArray(x) || (ArrayBuffer.isView(x) && !(x instanceof DataView));
  if (list(expected) && list(found)) {
    if (expected.length !== found.length) return `${path}: expected ${expected.length} entries, found ${found.length}`;
    for (let i = 0; i < expected.length; i++) {
      const d = difference(expected[i], found[i], `${path}[${i}]`);
      if (d !== null) return d;
    }
    return null;
  }
  const plain = (x: unknown): x is Record<string, unknown> => typeof x === "object" && x !== null && !list(x) && !(x instanceof Map);
  if (plain(expected) && plain(found)) {
    for (const key of new Set([...Object.keys(expected), ...Object.keys(found)])) {
      const of = (x: Record<string, unknown>): unknown => (Object.hasOwn(x, key) ? x[key] : undefined);
      const d = difference(of(expected), of(found), `${path}.${key}`);
      if (d !== null) return d;
    }
    return null;
  }
  return `${path || "the whole"}: expected ${shown(expected)}, found ${shown(found)}`;
}

const shown = (x: unknown): string =>
  typeof x === "object" && x !== null ? (JSON.stringify(x) ?? "").slice(0, 200) : String(x).slice(0, 200);
