// esft merge: base + adapter → a checkpoint in the base's layout, verified on disk and by its logits.

import type { Command } from "@commander-js/extra-typings";
import { openAdapter } from "../convert/open.ts";
import { requireApart } from "../files/apart.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import { checkpointSpec } from "../model/families/index.ts";
import { byteProgress, CheckFailed, wholeNumber } from "./common.ts";
import { bytes } from "../format.ts";
import { adapterDir, ADAPTER_FORMS, MODEL, modelDir } from "./hub.ts";
import type { Terminal } from "./terminal.ts";
import { deltaText, logitsText } from "./verify.ts";

export function registerMerge(program: Command, terminal: Terminal): void {
  program
    .command("merge")
    .description("write base + adapter as a checkpoint in the base's own layout; verified after writing, exit 1 on any mismatch")
    .argument("<model>", `base: ${MODEL}`)
    .requiredOption("--adapter <dir>", `adapter (${ADAPTER_FORMS})`)
    .requiredOption("-o, --output <dir>", "directory to write")
    .option("--overwrite", "replace a model that is there already")
    .option("--dequantise", "of a base that is quantised on disk, write the whole model as bf16")
    .option("--no-logits", "skip comparing the logits of base + adapter with those of the merged model")
    .option("--threads <n>", "worker threads of the logits check", wholeNumber)
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      "\nExamples:\n  esft merge ./OLMoE-1B-7B --adapter out/law -o ./OLMoE-law\n  esft merge ./OLMoE-1B-7B --adapter out/law -o ./OLMoE-law --overwrite --json",
    )
    .action(async (word, { output, overwrite, dequantise, threads, ...flags }) => {
      const { signal } = terminal;
      const task = { signal, onProgress: byteProgress(terminal) };
      const dir = await modelDir(word, terminal);
      const base = await openCheckpoint(dir);
      checkpointSpec(base);
      const from = await adapterDir(flags.adapter, terminal);
      await requireApart(output, from, "the adapter", "output", true);
      const opened = await openAdapter(from, { base, ...task });
      const { foldAdapter } = await import("../convert/fold.ts"); // loads the addon, which other commands must do without
      const { mergeAdapter } = await import("../convert/merge.ts");
      const adapter = foldAdapter(base, opened);
      const report = await mergeAdapter(base, adapter, output, { ...task, overwrite, dequantise });
      const { checkMergedLogits } = await import("../logits_check.ts");
      const check = threads ? { signal, threads } : { signal };
      const logits = flags.logits ? await checkMergedLogits(dir, adapter, output, check) : null;
      if (flags.json) {
        const { slices, ...rest } = report;
        terminal.json({ ...rest, output, logits, slices });
      } else {
        terminal.print(`merged: ${output} (${bytes(report.bytesCompared)}, ${report.tensors} tensors)`);
        terminal.print(
          `reread: ${report.untouched} tensors bit-equal to the base, ${report.slices.length} trained parts bit-equal to the adapter`,
        );
        terminal.print(deltaText(report, adapter));
        if (logits) terminal.print(logitsText(logits));
      }
      if (logits && !logits.ok) throw new CheckFailed("logits differ");
    });
}
