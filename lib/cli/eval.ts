// esft eval: held-out loss of a model, and of model + adapter beside it.

import type { Command } from "commander";
import { openAdapter } from "../adapter/esft_layout.ts";
import type { Evaluation } from "../train/evaluate.ts";
import { dataInput, dataOptions, machineOptions, openModel, wholeNumber } from "./common.ts";
import type { DataFlags, MachineFlags } from "./common.ts";
import { count, percent, table } from "./format.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends DataFlags, MachineFlags {
  readonly data: string[];
  readonly adapter?: string;
  readonly rows?: number;
  readonly batchTokens: number;
  readonly json?: boolean;
}

export function registerEval(program: Command, terminal: Terminal): void {
  const command = program
    .command("eval")
    .description("loss, perplexity and token accuracy on held-out rows; with an adapter: base and adapter side by side")
    .argument("<dir>", "checkpoint directory")
    .requiredOption("--data <files...>", "held-out rows (JSONL), one or more files")
    .option("--adapter <dir>", "adapter to compare with the base (ours or the official layout)")
    .option("--rows <n>", "use the first n rows of each file", wholeNumber)
    .option("--max-length <n>", "tokens per row (default: 1024)", wholeNumber)
    .option("--batch-tokens <n>", "tokens per forward", wholeNumber, 4096)
    .option("--json", "print JSON");
  machineOptions(dataOptions(command))
    .addHelpText(
      "after",
      "\nExamples:\n  esft eval ./OLMoE-1B-7B --data law.test.jsonl\n  esft eval ./OLMoE-1B-7B --adapter out/law --data law.test.jsonl general.jsonl --json",
    )
    .action(async (dir: string, flags: Flags) => {
      const model = await openModel(dir, flags, terminal);
      try {
        const options = {
          ...dataInput(flags, model.spec.maxPositions),
          batchTokens: flags.batchTokens,
          ...(flags.rows ? { rows: flags.rows } : {}),
        };
        const pass = async (name: string): Promise<Evaluation[]> => {
          const out: Evaluation[] = [];
          for (const file of flags.data)
            out.push(
              await model.evaluate(file, options, {
                signal: terminal.signal,
                onProgress: (p) => terminal.progress(`${name} ${file}: ${p.done} of ${p.total} rows`),
              }),
            );
          return out;
        };
        // The adapter is opened and checked before anything is computed.
        const adapter =
          flags.adapter === undefined ? null : await openAdapter(flags.adapter, { base: model.checkpoint, signal: terminal.signal });
        const base = await pass("base");
        if (adapter) await model.applyAdapter(adapter);
        const tuned = adapter ? await pass("adapter") : null;
        if (flags.json)
          return terminal.json({
            model: dir,
            adapter: flags.adapter ?? null,
            results: flags.data.map((file, i) => ({
              data: file,
              base: base[i],
              ...(tuned ? { adapter: tuned[i], lossChange: tuned[i]!.loss - base[i]!.loss } : {}),
            })),
          });
        terminal.print(
          tuned
            ? table(
                ["data", "trained tokens", "base loss", "adapter loss", "change", "base accuracy", "adapter accuracy"],
                flags.data.map((file, i) => [
                  file,
                  count(base[i]!.supervised),
                  base[i]!.loss.toFixed(4),
                  tuned[i]!.loss.toFixed(4),
                  signed(tuned[i]!.loss - base[i]!.loss),
                  percent(base[i]!.accuracy),
                  percent(tuned[i]!.accuracy),
                ]),
              )
            : table(
                ["data", "trained tokens", "loss", "perplexity", "accuracy"],
                flags.data.map((file, i) => [
                  file,
                  count(base[i]!.supervised),
                  base[i]!.loss.toFixed(4),
                  base[i]!.perplexity.toFixed(3),
                  percent(base[i]!.accuracy),
                ]),
              ),
        );
      } finally {
        await model[Symbol.asyncDispose]();
      }
    });
}

export const signed = (x: number): string => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(4)}`;
