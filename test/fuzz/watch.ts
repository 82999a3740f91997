// The parent of a worker: hands it ranges of cases under a clock and a memory bound, and goes on behind a case that ended it.

import { spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Finding } from "./case.ts";
import { MAX_STEPS } from "./case.ts";
import type { Counts, Found, Message, Task } from "./worker.ts";

export interface Bounds {
  /** Seconds that one case may take. */
  readonly seconds: number;
  /** Bytes that the worker may have in memory. */
  readonly bytes: number;
}
export const BOUNDS: Bounds = { seconds: 20, bytes: 1.5 * 2 ** 30 };

type Child = ReturnType<typeof start>;

function start(args: readonly string[]) {
  return spawn(process.execPath, args, { cwd: projectRoot, stdio: ["ignore", "ignore", "pipe", "ipc"] });
}

const projectRoot = new URL("../..", import.meta.url).pathname;

/** One worker, started when it is needed and again after its end. */
export class Watch {
  readonly #dir = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "esft-fuzz-"));
  readonly #progress = join(this.#dir, "progress");
  readonly #bounds: Bounds;
  #held: { readonly child: Child } | null = null;
  #stderr = "";

  constructor(bounds: Bounds = BOUNDS) {
    this.#bounds = bounds;
  }

  dispose(): void {
    this.#held?.child.kill("SIGKILL");
    this.#held = null;
    rmSync(this.#dir, { recursive: true, force: true });
  }

  async #start(): Promise<Child> {
    if (this.#held) return this.#held.child;
    writeFileSync(this.#progress, new Uint8Array(8));
    this.#stderr = "";
    const args = ["--max-old-space-size=768", "--import", "tsx", join(projectRoot, "test/fuzz/worker.ts"), this.#dir, this.#progress];
    const child = start(args);
    child.stderr!.on("data", (bytes: Buffer) => (this.#stderr = (this.#stderr + bytes.toString()).slice(-4000)));
    await new Promise<void>((resolve, reject) => {
      child.once("message", () => resolve());
      child.once("exit", () => reject(new Error(`the worker did not start: ${this.#stderr}`)));
    });
    this.#held = { child };
    return child;
  }

  /** Runs a range; what was found is given to `onFound` as it comes. */
  async run(task: Task, onFound: (found: Found) => void): Promise<Counts> {
    const total: Counts = { cases: 0, ends: {}, slowestMs: 0, slowestCase: task.from };
    for (let from = task.from; from < task.to;) {
      const end = await this.#range({ ...task, from }, onFound);
      const counts = end.counts ?? {
        cases: end.at - from + 1,
        ends: { [end.finding!.kind]: 1, "died untold": end.at - from },
        slowestMs: 0,
        slowestCase: from,
      };
      total.cases += counts.cases;
      for (const [key, n] of Object.entries(counts.ends)) total.ends[key] = (total.ends[key] ?? 0) + n;
      if (counts.slowestMs > total.slowestMs) [total.slowestMs, total.slowestCase] = [counts.slowestMs, counts.slowestCase];
      if (end.finding) onFound({ ...end.finding, index: end.at, steps: [], files: {} });
      from = end.counts ? task.to : end.at + 1;
    }
    return total;
  }

  /** Up to the end of the range or of the worker. */
  async #range(task: Task, onFound: (found: Found) => void): Promise<{ at: number; counts?: Counts; finding?: Finding }> {
    const child = await this.#start();
    writeFileSync(this.#progress, new Uint8Array(Float64Array.of(task.from).buffer));
    return new Promise((resolve, reject) => {
      let last = task.from;
      let since = Date.now();
      let fault: Finding | null = null;
      const stop = (finding: Finding): void => {
        fault ??= finding;
        child.kill("SIGKILL");
      };
      const clock = setInterval(() => {
        const now = this.#at();
        if (now !== last) [last, since] = [now, Date.now()];
        else if (Date.now() - since > this.#bounds.seconds * 1000)
          stop({ kind: "hang", detail: `took more than ${this.#bounds.seconds} s` });
        const bytes = residentBytes(child.pid!);
        if (bytes > this.#bounds.bytes) stop({ kind: "memory", detail: `${Math.round(bytes / 2 ** 20)} MiB resident` });
      }, 100);
      const settle = (): void => {
        clearInterval(clock);
        child.removeAllListeners("message").removeAllListeners("exit");
      };
      child.on("message", (message: Message) => {
        if (message.type === "found") onFound(message.found);
        if (message.type !== "done") return;
        settle();
        resolve({ at: task.to, counts: message.counts });
      });
      child.on("exit", (code, signal) => {
        settle();
        this.#held = null;
        if (code === 70)
          return reject(new Error(`the fuzzer is broken at case ${this.#at()} of ${task.format}, seed ${task.seed}: ${this.#stderr}`));
        const crash: Finding = { kind: "crash", detail: `the process ended (${signal ?? code}): ${this.#stderr.slice(-1500)}` };
        resolve({ at: this.#at(), finding: fault ?? crash });
      });
      child.send(task);
    });
  }

  #at(): number {
    const value = new Float64Array(1);
    const file = openSync(this.#progress, "r");
    readSync(file, new Uint8Array(value.buffer), 0, 8, 0);
    closeSync(file);
    return value[0]!;
  }

  /** The finding with as few steps as show it, saved below out/fuzz. @returns where, and what was left of it */
  async shrink(task: Task, found: Found): Promise<{ readonly folder: string; readonly found: Found }> {
    let best = found;
    const without: number[] = [];
    for (let step = 0; step < MAX_STEPS; step++) {
      const again = await this.#once(task, found, [...without, step]);
      if (again?.kind !== found.kind || (again.steps.length > 0 && again.steps.length === best.steps.length)) continue;
      best = again;
      without.push(step);
    }
    // A process that ended could not say what it was doing.
    if (best.steps.length === 0)
      best = (await this.#once({ ...task, dry: { kind: best.kind, detail: best.detail } }, found, without)) ?? best;
    const folder = join(projectRoot, "out/fuzz", `${task.format}-${task.seed}-${found.index}`);
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    for (const [name, content] of Object.entries(best.files))
      writeFileSync(join(folder, name.replaceAll("/", "_")), Buffer.from(content, "base64"));
    const command = `npm run fuzz -- --only ${task.format} --seed ${task.seed} --case ${found.index}`;
    writeFileSync(
      join(folder, "finding.txt"),
      `${best.kind}: ${best.detail}\n\nsteps:\n${best.steps.map((s) => `  ${s}\n`).join("")}\n${command}\n`,
    );
    return { folder, found: best };
  }

  async #once(task: Task, found: Found, without: readonly number[]): Promise<Found | null> {
    let again: Found | null = null;
    await this.run({ ...task, from: found.index, to: found.index + 1, without }, (f) => (again = f));
    return again;
  }
}

function residentBytes(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]) * 4096;
  } catch {
    return 0; // not Linux, or the process has just ended
  }
}
