// Kills commands at random moments (SIGKILL) and goes on: npm run crash -- [--count N | --minutes M] [--only COMMAND …] [--seed S]
//   --count    kills of each command (100)
//   --minutes  instead: kills of all commands in turn for so long
//   --only     profile, select, train, compare, merge (all)
//   --seed     of the moments (printed; random)
//
// After each kill what is on disk must be the old state or the new one; the command is started again, training by `esft resume`, is
// perhaps killed again, and at last ends undisturbed: with the bytes of a run that nobody disturbed, and nothing left behind.
// Runs dist, which `npm run crash` builds. The faults of single operations are test/files/crash_matrix.test.ts.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { openCheckpoint } from "../lib/files/checkpoint.ts";
import { sha256 } from "../lib/files/hash.ts";
import { tinyOlmoe, toyRows, writeTinyModel } from "../test/support/tiny_model.ts";
import { root as project, stop } from "./run.ts";

const { values } = parseArgs({
  options: {
    count: { type: "string", default: "100" },
    minutes: { type: "string" },
    only: { type: "string", multiple: true },
    seed: { type: "string" },
  },
});
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
let random = seed >>> 0;
/** mulberry32, in [0, 1). */
function uniform(): number {
  random = (random + 0x6d2b79f5) >>> 0;
  let t = Math.imul(random ^ (random >>> 15), random | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

const root = mkdtempSync(path.join(tmpdir(), "esft-crash-"));
const at = (...parts: string[]): string => path.join(root, ...parts);
const main = path.join(project, "dist", "cli", "main.js");

interface Ended {
  readonly killed: boolean;
  readonly code: number | null;
  readonly err: string;
  readonly ms: number;
}

/** Runs a command line; kills it when `moment` is over, if it still runs then. */
function run(args: readonly string[], moment?: (running: () => boolean) => Promise<void>): Promise<Ended> {
  return new Promise((resolve) => {
    const began = performance.now();
    const child = spawn(process.execPath, [main, ...args], { cwd: project, env: { ...process.env, ESFT_THREADS: "1", ESFT_DEVICE: "cpu" }, stdio: ["ignore", "ignore", "pipe"] }); // prettier-ignore
    let err = "";
    let running = true;
    child.stderr.on("data", (b: Buffer) => void (err += b.toString()));
    child.on("close", (code, signal) => {
      running = false;
      resolve({ killed: signal === "SIGKILL", code, err, ms: performance.now() - began });
    });
    void moment?.(() => running).then(() => child.kill("SIGKILL"));
  });
}
const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** Every file of a folder, or one file, as names and hashes. */
function bytesOf(place: string): string {
  if (!existsSync(place)) return "absent";
  if (!statSync(place).isDirectory()) return sha256(readFileSync(place));
  const files = readdirSync(place, { recursive: true }).map(String).filter((f) => statSync(path.join(place, f)).isFile()); // prettier-ignore
  return files.sort().map((f) => `${f} ${sha256(readFileSync(path.join(place, f)))}`).join("\n"); // prettier-ignore
}
const leftovers = (): string[] =>
  readdirSync(root, { recursive: true })
    .map(String)
    .filter((n) => /(^|\/)\.[^/]*(\.tmp-|\.next$|\.lock$)|run\.lock/.test(n));

interface Command {
  readonly out: string;
  /** The line to start, or to start again after a kill. */
  line(out: string): readonly string[];
  /** What an undisturbed run leaves and a disturbed one must. */
  result(out: string): string;
  /** Old or new: throws when what is there after a kill is neither. */
  check(out: string, old: string, wanted: string): Promise<void>;
  /** When to kill a run that takes `ms` undisturbed. */
  moment?(out: string, ms: number): (running: () => boolean) => Promise<void>;
  /** Begins with what an earlier run of other inputs left. */
  prepare?(out: string): Promise<void>;
}

const oldOrNew = async (out: string, old: string, wanted: string): Promise<void> => {
  const found = bytesOf(at(out));
  if (found !== old && found !== wanted) throw new Error(`${out} is neither the old nor the new one:\n${found}`);
};
const train = (out: string): string[] => [
  "train", "--model", at("model"), "--data", at("rows.jsonl"), "--experts", at("experts.json"), "--out", at(out), "--steps", "30",
  "--rows-per-step", "4", "--max-length", "64", "--lr", "0.02", "--schedule", "cosine", "--save-every", "2", "--eval-every", "5", "--resume",
]; // prettier-ignore
const rows = at("rows.jsonl");
const plan = {
  model: at("model"),
  tasks: [{ name: "sums", train: rows, validation: rows, test: rows }],
  others: [{ name: "same", file: rows }],
  methods: [
    { name: "esft", method: { p: 0.4 }, lr: [0.01, 0.02] },
    { name: "lora", method: { type: "lora", rank: 2 }, lr: 0.02 },
  ],
  seeds: [1, 2],
  steps: 8,
  rowsPerStep: 4,
  saveEvery: 2,
  data: { maxLength: 64 },
  profile: { tokens: 500 },
  evaluation: { answers: { metrics: "exact", maxTokens: 3, rows: 4 } },
};
const steps = (out: string): number =>
  existsSync(at(out, "events.jsonl")) ? [...readFileSync(at(out, "events.jsonl"), "utf8").matchAll(/^\{"type":"step"/gm)].length : 0;

const commands: Readonly<Record<string, Command>> = {
  profile: {
    out: "profile.json",
    line: (out) => ["profile", at("model"), at("rows.jsonl"), "-o", at(out), "--tokens", "500"],
    result: (out) => bytesOf(at(out)),
    check: oldOrNew,
  },
  select: {
    out: "selected.json",
    line: (out) => ["select", at("reference.profile.json"), "--p", "0.4", "-o", at(out)],
    result: (out) => bytesOf(at(out)),
    check: oldOrNew,
  },
  train: {
    out: "run",
    line: (out) => (existsSync(at(out, "checkpoint")) ? ["resume", at(out)] : train(out)),
    result: (out) => ["adapter.safetensors", "adapter.json", "README.md"].map((f) => bytesOf(at(out, f))).join("\n"),
    check: async () => undefined, // resume says it
    moment: (out, ms) => {
      const target = steps(out) + Math.floor(uniform() * 12);
      const delay = uniform() * 40;
      return async (running) => {
        const began = performance.now();
        while (running() && steps(out) < target && performance.now() - began < ms) await sleep(3);
        await sleep(delay);
      };
    },
  },
  compare: {
    out: "comparison",
    line: (out) => ["compare", at("plan.json"), "--out", at(out)],
    result: (out) => bytesOf(at(out, "compare.json")),
    check: async () => undefined, // the same command says it
  },
  merge: {
    out: "merged",
    line: (out) => ["merge", at("model"), "--adapter", at("reference.run"), "-o", at(out), "--overwrite"],
    result: (out) => bytesOf(at(out)),
    check: async (out, old, wanted) => {
      await openCheckpoint(at(out)).catch(() => undefined); // as a reader does: completes what was committed
      await oldOrNew(out, old, wanted);
    },
    prepare: async (out) => {
      if (uniform() < 0.5) await writeTinyModel(at(out), tinyOlmoe, { seed: 99 });
    },
  },
};

/** Lives of a command: started, killed once or more, ended; until `enough`. */
async function torment(name: string, enough: (kills: number) => boolean): Promise<{ kills: number; lives: number }> {
  const command = commands[name] ?? stop("crash", `no command ${name}; there are ${Object.keys(commands).join(", ")}`);
  const { out } = command;
  const wanted = command.result(`reference.${out}`);
  const typical = durations.get(name)!;
  let [kills, lives] = [0, 0];
  while (!enough(kills)) {
    rmSync(at(out), { recursive: true, force: true });
    await command.prepare?.(out);
    const old = bytesOf(at(out));
    lives++;
    let disturb = 1 + Math.floor(uniform() * 3);
    for (;;) {
      const delay = typical * (0.3 + 0.8 * uniform());
      const moment = command.moment?.(out, typical) ?? (() => sleep(delay));
      const ended = await run(command.line(out), disturb-- > 0 ? moment : undefined);
      if (!ended.killed && ended.code !== 0) throw new Error(`${name}: exit code ${ended.code}\n${ended.err}`);
      if (!ended.killed) break;
      if (++kills % 20 === 0) console.log(`${name.padEnd(8)} ${kills} kills so far`);
      await command.check(out, old, wanted);
    }
    if (command.result(out) !== wanted) throw new Error(`${name}: other bytes than an undisturbed run\n${command.result(out)}\n${wanted}`);
    const left = leftovers();
    if (left.length > 0) throw new Error(`${name} left ${left.join(", ")}`);
  }
  return { kills, lives };
}

const durations = new Map<string, number>();

async function all(): Promise<void> {
  console.log(`crash: moments of seed ${seed} (again with --seed ${seed}), in ${root}`);
  await writeTinyModel(at("model"), tinyOlmoe);
  writeFileSync(at("rows.jsonl"), toyRows(120).map((r) => `${JSON.stringify(r)}\n`).join("")); // prettier-ignore
  const experts = { experts: { 0: [3, 0], 1: [5, 2] }, shared_experts: false, non_expert_modules: false };
  writeFileSync(at("experts.json"), JSON.stringify(experts));
  writeFileSync(at("plan.json"), JSON.stringify(plan));
  for (const name of ["profile", "select", "train", "compare", "merge"]) {
    const command = commands[name]!;
    const { code, err, ms } = await run(command.line(`reference.${command.out}`));
    if (code !== 0) throw new Error(`${name}, undisturbed: exit code ${code}\n${err}`);
    durations.set(name, ms);
  }
  const names = values.only ?? Object.keys(commands);
  const until = values.minutes === undefined ? null : performance.now() + Number(values.minutes) * 60_000;
  do {
    for (const name of names) {
      const count = until === null ? Number(values.count) : 5;
      const { kills, lives } = await torment(name, (n) => n >= count || (until !== null && performance.now() > until));
      console.log(
        `${name.padEnd(8)} ${kills} kills in ${lives} lives: old or new after each, at the end the bytes of an undisturbed run, nothing left`,
      );
    }
  } while (until !== null && performance.now() < until);
}

try {
  await all();
  rmSync(root, { recursive: true, force: true });
} catch (error) {
  stop("crash", `${(error as Error).message}\nleft for a look: ${root}`);
}
