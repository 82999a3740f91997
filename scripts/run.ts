// What the scripts share: the root of the repository, running other programs, and counting checks.

import { spawnSync } from "node:child_process";
import path from "node:path";

export const root = path.resolve(import.meta.dirname, "..");

/** How TypeScript runs in this repository: arguments of node before the file. Node 20 cannot strip types by itself. */
export const typescript = ["--import", "tsx"] as const;

export interface Ran {
  readonly ok: boolean;
  readonly stdout: string;
  /** What it printed there, or why it could not be started. */
  readonly stderr: string;
  /** Of a failure: how it ended and its last lines. */
  readonly why: string;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly input?: string;
}

/** Runs a program to its end and keeps what it prints. */
export function capture(command: string, args: readonly string[], options: RunOptions = {}): Ran {
  const { status, signal, stdout, stderr, error } = spawnSync(command, args, {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 1 << 26,
    ...options,
  });
  const text = error ? String(error) : (stderr ?? "").trim();
  const why = status === 0 ? "" : `${signal ?? `exit ${status}`}: ${text.split("\n").slice(-12).join("\n")}`;
  return { ok: status === 0, stdout: stdout ?? "", stderr: text, why };
}

/** Runs a program that prints on the screen; whether it succeeded. */
export function show(command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): boolean {
  return spawnSync(command, args, { cwd: root, stdio: "inherit", env }).status === 0;
}

/** Ends the script with a line for people. `name` as in `npm run NAME`. */
export function stop(name: string, message: string): never {
  console.error(`${name}: ${message}`);
  process.exit(1);
}

/** As `show`, for a script that is over when the program fails. */
export function showOrStop(name: string, command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): void {
  const { status, signal, error } = spawnSync(command, args, { cwd: root, stdio: "inherit", env });
  if (status !== 0) stop(name, `${path.basename(command)} ${args[0] ?? ""} failed (${error?.message ?? signal ?? status})`);
}

/** Named checks, printed as they come and counted at the end. */
export class Checks {
  private readonly name: string;
  private readonly results: boolean[] = [];
  constructor(name: string) {
    this.name = name;
  }

  /** @param detail what was found */
  add(name: string, ok: boolean, detail = ""): boolean {
    this.results.push(ok);
    console.log(`${ok ? "pass" : "FAIL"}  ${name}${detail ? ` (${detail})` : ""}`);
    return ok;
  }

  /** @param faults what is wrong, a line each: nothing where it passes */
  none(name: string, faults: readonly string[], detail = ""): boolean {
    const ok = this.add(name, faults.length === 0, detail);
    for (const fault of faults) console.log(`      ${fault}`);
    return ok;
  }

  /** The last line, and the exit code. */
  end(): void {
    const passed = this.results.filter(Boolean).length;
    console.log(`${this.name}: ${passed} of ${this.results.length} checks passed`);
    process.exitCode = passed > 0 && passed === this.results.length ? 0 : 1;
  }
}
