// esft preview: rows as the model will see them, token by token, with what is trained.

import type { Command } from "commander";
import { Dataset, formatPreview } from "../data/dataset.ts";
import { openTemplate } from "../data/source.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { CheckFailed, dataInput, dataOptions, wholeNumber } from "./common.ts";
import type { DataFlags } from "./common.ts";
import type { Terminal } from "./terminal.ts";

export function registerPreview(program: Command, terminal: Terminal): void {
  const command = program
    .command("preview")
    .description("rows as tokens, with what carries loss (+) and what does not (·)")
    .argument("<dir>", "checkpoint directory (its tokenizer and chat template)")
    .argument("<data>", "rows (JSONL)")
    .option("-n, --rows <n>", "rows to show", wholeNumber, 3)
    .option("--lint", "read all rows and report what cannot be used")
    .option("--json", "print JSON");
  dataOptions(command)
    .addHelpText(
      "after",
      "\nExamples:\n  esft preview ./OLMoE-1B-7B law.jsonl -n 2\n  esft preview ./DeepSeek-V2-Lite law.jsonl --template esft --lint",
    )
    .action(async (dir: string, data: string, flags: DataFlags & { rows: number; lint?: boolean; json?: boolean }) => {
      const { template: name = "tokenizer", shape, onBadRow } = dataInput(flags);
      const tokenizer = await loadTokenizer(dir);
      const template = await openTemplate(name);
      const dataset = Dataset.fromFile(data, { onBadRow: flags.lint ? "skip" : (onBadRow ?? "error"), ...(shape ? { shape } : {}) });
      const previews = await dataset.preview(flags.rows, { tokenizer, template });
      const report = flags.lint ? await dataset.lint({ tokenizer, template }, { signal: terminal.signal }) : null;
      if (flags.json)
        terminal.json({
          previews,
          ...(report ? { report: { ...report, errors: report.errors.map((e) => ({ message: e.message, where: e.where })) } } : {}),
        });
      else {
        for (const p of previews) terminal.print(formatPreview(p));
        if (report) {
          terminal.print(
            `${report.rows} rows: ${report.good} usable, ${report.bad} not${Object.entries(report.warnings)
              .map(([code, n]) => `; ${n} with warning ${code}`)
              .join("")}`,
          );
          for (const e of report.errors) terminal.print(`  ${e.message}`);
        }
      }
      if (report && report.bad > 0) throw new CheckFailed("bad rows");
    });
}
