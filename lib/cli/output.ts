// stdout and stderr of a process, and what happens when they cannot be written: a reader that has gone (… | head) is no error, a full
// disk is one line and exit code 1. Shared by the command line and the benchmark.

import { fstatSync, writeSync } from "node:fs";

export interface Output {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** The exit code that a stream which failed asks for: 0 when only the reader has gone; null while nothing failed. */
  readonly failed: () => number | null;
}

const REASON: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full",
  EDQUOT: "the disk quota is used up",
  EFBIG: "the file would exceed the size limit",
  EIO: "input/output error",
};

/**
 * Takes over both streams of this process. One that failed gets nothing more. Without stdout there is nobody to work for: `stop` ends
 * that; without stderr the work goes on, and only the exit code tells.
 * @param program the beginning of the line about it
 */
export function processOutput(program: string, stop: (code: number) => void): Output {
  let failed: number | null = null;
  const writer = (name: "stdout" | "stderr"): ((text: string) => void) => {
    const stream = process[name];
    const file = isFile(stream.fd);
    let broken = false;
    const fail = (error: NodeJS.ErrnoException): void => {
      if (broken) return;
      broken = true;
      const code = error.code === "EPIPE" ? 0 : 1;
      failed = Math.max(failed ?? 0, code);
      if (code !== 0) process.exitCode = code; // it may come when all else is done
      if (name === "stderr") return;
      if (code !== 0) err(`${program}: cannot write to stdout: ${REASON[error.code ?? ""] ?? error.message}\n`);
      stop(code);
    };
    stream.on("error", fail);
    return (text) => {
      if (broken) return;
      if (!file) return void stream.write(text);
      // Node's stream for files takes a short write (the disk is nearly full) for a whole one.
      try {
        const bytes = Buffer.from(text);
        for (let at = 0; at < bytes.length;) at += writeSync(stream.fd, bytes, at);
      } catch (error) {
        fail(error as NodeJS.ErrnoException);
      }
    };
  };
  const err = writer("stderr");
  return { out: writer("stdout"), err, failed: () => failed };
}

function isFile(fd: number): boolean {
  try {
    return fstatSync(fd).isFile();
  } catch {
    return false;
  }
}
