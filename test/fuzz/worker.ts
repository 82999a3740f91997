// The process that runs cases: told a format, a seed and a range; says what it found. It may hang, grow or die: watch.ts looks after it.
// Before each case its number goes to a small file, so that the parent knows which case it was.

import { mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { Dice, runCase } from "./case.ts";
import type { Case, Finding } from "./case.ts";
import { formats } from "./formats/index.ts";
import { planted } from "./formats/planted.ts";

/** A range of cases of one format. */
export interface Task {
  readonly format: string;
  readonly seed: number;
  readonly from: number;
  readonly to: number;
  /** Ends the range early: milliseconds. */
  readonly ms?: number;
  /** Steps that are left out. */
  readonly without?: readonly number[];
  /** Only says what the case is: as the finding it is known to be. */
  readonly dry?: Finding;
}
export interface Counts {
  cases: number;
  /** Ends of cases by name: accepted, ERR_CONFIG … */
  ends: Record<string, number>;
  slowestMs: number;
  slowestCase: number;
}
export interface Found extends Finding {
  readonly index: number;
  readonly steps: readonly string[];
  /** Contents in base64. */
  readonly files: Readonly<Record<string, string>>;
}
export type Message =
  | { readonly type: "ready" }
  | { readonly type: "found"; readonly found: Found }
  | { readonly type: "done"; readonly counts: Counts };

/** More memory than this for one case is a finding. */
const JUMP = 256 * 2 ** 10; // KiB

const [dir = "", progress = ""] = process.argv.slice(2);
const send = (message: Message): Promise<void> => new Promise((resolve) => process.send!(message, undefined, {}, () => resolve()));
const file = openSync(progress, "w");
const at = new Float64Array(1);
const makers = new Map<string, Promise<(dice: Dice) => Case>>();

function makerOf(name: string): Promise<(dice: Dice) => Case> {
  const found = makers.get(name);
  if (found) return found;
  const format = [...formats, planted].find((f) => f.name === name)!;
  const own = join(dir, name);
  rmSync(own, { recursive: true, force: true });
  mkdirSync(own, { recursive: true });
  const made = format.open(own);
  makers.set(name, made);
  return made;
}

async function work({ format, seed, from, to, ms: limit = Infinity, without = [], dry }: Task): Promise<Counts> {
  const make = await makerOf(format);
  const counts: Counts = { cases: 0, ends: {}, slowestMs: 0, slowestCase: from };
  const skipped = new Set(without);
  const end = performance.now() + limit;
  for (let index = from; index < to && performance.now() < end; index++) {
    at[0] = index;
    writeSync(file, new Uint8Array(at.buffer), 0, 8, 0);
    const begin = performance.now();
    const c = make(new Dice(format, seed, index, skipped));
    const memory = process.resourceUsage().maxRSS;
    let outcome = dry ?? (await runCase(c));
    const jump = process.resourceUsage().maxRSS - memory;
    if (jump > JUMP && index > from) outcome = { kind: "memory", detail: `took ${Math.round(jump / 1024)} MiB` };
    const ms = performance.now() - begin;
    if (ms > counts.slowestMs) [counts.slowestMs, counts.slowestCase] = [ms, index];
    counts.cases++;
    const name = typeof outcome === "string" ? outcome : outcome.kind;
    counts.ends[name] = (counts.ends[name] ?? 0) + 1;
    if (typeof outcome === "string") continue;
    const files = Object.fromEntries(Object.entries(c.files).map(([name, content]) => [name, Buffer.from(content).toString("base64")]));
    await send({ type: "found", found: { ...outcome, index, steps: c.steps, files } });
  }
  return counts;
}

process.on("message", (task: Task) => {
  void work(task).then(
    (counts) => send({ type: "done", counts }),
    (error: unknown) => {
      process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`); // the fuzzer itself is broken
      process.exit(70);
    },
  );
});
process.on("disconnect", () => process.exit(0));
await send({ type: "ready" });
