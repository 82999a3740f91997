#!/usr/bin/env node
// The process around runCli: streams, interrupts, exit code. The first SIGINT lets the work stop safely, the second exits at once.

import { runCli } from "./program.ts";

const stop = new AbortController();
let signalCode = 0;
for (const [name, code] of [
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const)
  process.on(name, () => {
    if (signalCode !== 0) process.exit(code);
    signalCode = code;
    process.stderr.write(`\n${name}: stopping safely (again to exit at once)\n`);
    stop.abort(new Error("interrupted"));
  });

// A closed pipe (esft … | head) is no error.
for (const stream of [process.stdout, process.stderr])
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });

const code = await runCli(process.argv.slice(2), {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  interactive: process.stderr.isTTY === true,
  columns: process.stderr.columns,
  signal: stop.signal,
});
process.exitCode = code === 130 && signalCode !== 0 ? signalCode : code;
