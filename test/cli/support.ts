// Runs command lines: in this process (fast), or as a process of its own (for signals).

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { afterAll } from "vitest";
import { runCli } from "../../lib/cli/program.ts";
import { toyRows } from "../support/tiny_model.ts";

export const projectRoot = join(import.meta.dirname, "../..");

export interface CliResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** One command line in this process. */
export async function cli(
  args: readonly string[],
  options: { readonly signal?: AbortSignal; readonly onErr?: (text: string) => void; readonly input?: string } = {},
): Promise<CliResult> {
  let [out, err] = ["", ""];
  const code = await runCli(args, {
    out: (text) => void (out += text),
    err: (text) => {
      err += text;
      options.onErr?.(text);
    },
    interactive: false,
    input: () => ({ stream: Readable.from([options.input ?? ""]), interactive: false }),
    signal: options.signal ?? new AbortController().signal,
  });
  return { code, out, err };
}

/**
 * The command line as a process; `kill` sends a signal, `hangUp` closes the pipes that it writes to, `done` resolves with the exit code
 * or the signal's name.
 */
export function spawnCli(args: readonly string[]) {
  const child = spawn(process.execPath, ["--import", "tsx", join(projectRoot, "lib/cli/main.ts"), ...args], { cwd: projectRoot });
  let [out, err] = ["", ""];
  child.stdout.on("data", (b: Buffer) => void (out += b.toString()));
  child.stderr.on("data", (b: Buffer) => void (err += b.toString()));
  const done = new Promise<{ code: number | null; signal: string | null; out: string; err: string }>((resolve) => {
    child.on("close", (code, signal) => resolve({ code, signal, out, err }));
  });
  return {
    pid: child.pid,
    kill: (signal: NodeJS.Signals) => child.kill(signal),
    hangUp: () => [child.stdout, child.stderr].forEach((pipe) => pipe.destroy()),
    done,
    /** What it has written to stdout so far. */
    output: () => out,
    running: () => child.exitCode === null && child.signalCode === null,
  };
}

/** A folder that is removed after the file's tests. */
export function scratch(): string {
  const dir = mkdtempSync(join(tmpdir(), "esft-cli-"));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export function writeRows(path: string, rows: readonly unknown[] = toyRows(60)): string {
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(path, rows.map((r) => `${JSON.stringify(r)}\n`).join(""));
  return path;
}
