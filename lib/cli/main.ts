#!/usr/bin/env node
// The process around runCli: streams, interrupts, exit code. The first interrupt lets the work stop safely, the second exits at once.

import { processOutput } from "./output.ts";
import { runCli } from "./program.ts";

const stop = new AbortController();
let signalCode = 0;
for (const [name, code] of [
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129],
] as const)
  process.on(name, () => {
    // A terminal that closes may send SIGHUP twice (the kernel and the shell), an impatient user does not.
    if (signalCode !== 0) return name === "SIGHUP" ? undefined : process.exit(code);
    signalCode = code;
    output.err(`\n${name}: stopping safely (again to exit at once)\n`);
    stop.abort(new Error("interrupted"));
  });

// Who reads no more, or a disk that is full, stops the work as an interrupt does.
const output = processOutput("error [ERR_IO]", () => stop.abort(new Error("interrupted")));

// Warnings of the library and of Node, as a command says them.
process.removeAllListeners("warning").on("warning", ({ name, message }) => {
  output.err(`warning: ${name === "EsftWarning" ? "" : `${name}: `}${message}\n`);
});

const code = await runCli(process.argv.slice(2), {
  out: output.out,
  err: output.err,
  interactive: process.stderr.isTTY === true,
  columns: process.stderr.columns,
  input: () => ({ stream: process.stdin, interactive: process.stdin.isTTY === true && process.stdout.isTTY === true }),
  signal: stop.signal,
});
// What the command found (a check that failed, a wrong usage) stands; a stop has the code of its signal, else of the stream that
// caused it. After a signal the terminal may be gone, so the signal comes first.
const stopped = code === 0 || code === 130;
process.exitCode = code === 130 && signalCode !== 0 ? signalCode : ((stopped ? output.failed() : null) ?? code);
