// npm run bench -- --help: times every case on the CPU or on a GPU, beside PyTorch where it is asked for.

import { processOutput } from "../lib/cli/output.ts";
import { ConfigError, EsftError } from "../lib/errors.ts";
import { benchCases, peerCases } from "./cases/index.ts";
import type { BenchCase } from "./cases/case.ts";
import { parseOptions, usage } from "./options.ts";
import type { Options } from "./options.ts";

function chosen(options: Options, all: readonly BenchCase[]): BenchCase[] {
  const { filter, headline, device } = options;
  const cases = all.filter((c) => filter.test(c.id) && (c.headline || !headline));
  if (cases.length === 0) throw new ConfigError(`no case of ${device} matches ${String(filter)}; --list prints their names`);
  return cases;
}

async function run(argv: readonly string[]): Promise<number> {
  const options = parseOptions(argv);
  const { action, on, tiny } = options;
  if (action === "help") output.out(usage());
  else if (action === "list") for (const c of chosen(options, benchCases(on, tiny))) console.log(c.id);
  else if (action === "describe") {
    const { peerDocument } = await import("./peer/peer.ts");
    console.log(peerDocument({ device: on, tiny, cases: peerCases(on, tiny, chosen(options, benchCases(on, tiny))) }));
  } else if (on === "cpu") {
    const { runCpu } = await import("./cpu/run.ts");
    return runCpu({ ...options, cases: chosen(options, benchCases(on, tiny)) });
  } else {
    const { gpuCases, reportGpu, runGpu } = await import("./gpu/run.ts");
    if (action === "report") return reportGpu(options.from, options.markdown);
    return runGpu({ ...options, cases: chosen(options, gpuCases(tiny)) });
  }
  return 0;
}

const output = processOutput("bench", (code) => process.exit(code));

try {
  process.exitCode = await run(process.argv.slice(2));
} catch (error) {
  // What a user can mend is one line; what is left is a bug and shows where it happened.
  const expected = error instanceof EsftError || (error instanceof Error && "syscall" in error);
  if (!expected) throw error;
  console.error(`bench: ${error.message.split("\n").join(" ")}`);
  process.exitCode = 2;
}
