// esft merge: base + adapter → a checkpoint in the base's layout, verified on disk and by its logits.

import type { Command } from "commander";
import { openAdapter } from "../adapter/esft_layout.ts";
import { mergeAdapter } from "../adapter/merge.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import { byteProgress, CheckFailed, wholeNumber } from "./common.ts";
import { bytes } from "./format.ts";
import type { Terminal } from "./terminal.ts";
import { deltaText, logitsText } from "./verify.ts";

interface Flags {
  readonly adapter: string;
  readonly output: string;
  readonly overwrite?: boolean;
  readonly logits: boolean;
  readonly threads?: number;
  readonly json?: boolean;
}

export function registerMerge(program: Command, terminal: Terminal): void {
  program
    .command("merge")
    .description("write base + adapter as a checkpoint in the base's own layout; verified after writing, exit 1 on any mismatch")
    .argument("<dir>", "base checkpoint")
    .requiredOption("--adapter <dir>", "adapter (ours or the official layout)")
    .requiredOption("-o, --output <dir>", "directory to write")
    .option("--overwrite", "replace a model that is there already")
    .option("--no-logits", "skip comparing the logits of base + adapter with those of the merged model")
    .option("--threads <n>", "worker threads of the logits check", wholeNumber)
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      "\nExamples:\n  esft merge ./OLMoE-1B-7B --adapter out/law -o ./OLMoE-law\n  esft merge ./OLMoE-1B-7B --adapter out/law -o ./OLMoE-law --overwrite --json",
    )
    .action(async (dir: string, flags: Flags) => {
      const task = { signal: terminal.signal, onProgress: byteProgress(terminal) };
      const base = await openCheckpoint(dir);
      const adapter = await openAdapter(flags.adapter, { base, ...task });
      const report = await mergeAdapter(base, adapter, flags.output, { ...task, overwrite: flags.overwrite });
      const { checkMergedLogits } = await import("../logits_check.ts");
      const logits = flags.logits
        ? await checkMergedLogits(dir, adapter, flags.output, {
            signal: terminal.signal,
            ...(flags.threads ? { threads: flags.threads } : {}),
          })
        : null;
      if (flags.json) {
        const { slices, ...rest } = report;
        terminal.json({ ...rest, output: flags.output, logits, slices });
      } else {
        terminal.print(`merged: ${flags.output} (${bytes(base.totalBytes)}, ${report.tensors} tensors)`);
        terminal.print(
          `reread: ${report.untouched} tensors bit-equal to the base, ${report.slices.length} trained parts bit-equal to the adapter`,
        );
        terminal.print(deltaText(report, adapter));
        if (logits) terminal.print(logitsText(logits));
      }
      if (logits && !logits.ok) throw new CheckFailed("logits differ");
    });
}
