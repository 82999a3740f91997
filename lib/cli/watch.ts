// esft watch: the report of a run while it goes on.

import type { Command } from "@commander-js/extra-typings";
import { interrupted, portNumber } from "./common.ts";
import type { Terminal } from "./terminal.ts";

export function registerWatch(program: Command, terminal: Terminal): void {
  program
    .command("watch")
    .description("the report of a run while it goes on: a page on this machine alone, new every other second, until Ctrl-C")
    .argument("<outdir>", "run directory of esft train; it may still be empty")
    .option("--port <n>", "port of 127.0.0.1 to listen on; 0 = any that is free", portNumber, 8010)
    .addHelpText("after", "\nExample:\n  esft watch out/law")
    .action(async (dir, { port }) => {
      const { watchRun } = await import("../report/watch.ts");
      const watching = await watchRun(dir, { port });
      terminal.print(`watching ${dir} on ${watching.url}`);
      await interrupted(terminal.signal);
      await watching.close();
    });
}
