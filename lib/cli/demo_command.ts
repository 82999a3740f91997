// esft demo (npm start): the whole job on the embedded model.

import type { Command } from "@commander-js/extra-typings";
import { CheckFailed, threadNumber, wholeNumber } from "./common.ts";
import type { Terminal } from "./terminal.ts";

export function registerDemo(program: Command, terminal: Terminal): void {
  program
    .command("demo")
    .description("the whole job on the embedded model in about a minute: profile, select, train, compare, merge, verify, report")
    .option("--model <dir>", "another checkpoint of the embedded shape (default: the embedded one)")
    .option("--out <dir>", "directory for the results; replaced", "out/demo")
    .option("--steps <n>", "updates of every method", wholeNumber)
    .option("--threads <n>", "worker threads (default, and most: all processors); results do not depend on it", threadNumber)
    .option("--json", "print the table as JSON")
    .addHelpText("after", "\nExample:\n  npm start\n  npx esft demo --out /tmp/demo")
    .action(async (flags) => {
      const { runDemo } = await import("./demo.ts");
      if (!(await runDemo(flags, terminal))) throw new CheckFailed("demo");
    });
}
