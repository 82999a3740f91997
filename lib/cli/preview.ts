// esft preview: rows as the model will see them, token by token, with what is trained.

import type { Command } from "@commander-js/extra-typings";
import { Dataset, formatPreview } from "../data/dataset.ts";
import { openTemplate } from "../data/source.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { announcePipe, CheckFailed, dataOptions, wholeNumber } from "./common.ts";
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
    .action(async (dir, data, { rows, lint, json, template: name = "tokenizer", shape, onBadRow }) => {
      const encoding = { tokenizer: await loadTokenizer(dir), template: await openTemplate(name) };
      await announcePipe(data, terminal, lint !== true);
      const dataset = Dataset.fromFile(data, { onBadRow: lint ? "skip" : onBadRow, shape });
      const previews = await dataset.preview(rows, encoding);
      const report = lint ? await dataset.lint(encoding, { signal: terminal.signal }) : null;
      if (json) {
        const errors = report?.errors.map(({ message, where }) => ({ message, where }));
        terminal.json({ previews, ...(report ? { report: { ...report, errors } } : {}) });
      } else {
        for (const p of previews) terminal.print(formatPreview(p));
        if (report) {
          const warnings = Object.entries(report.warnings).map(([code, n]) => `; ${n} with warning ${code}`);
          terminal.print(`${report.rows} rows: ${report.good} usable, ${report.bad} not${warnings.join("")}`);
          for (const e of report.errors) terminal.print(`  ${e.message}`);
        }
      }
      if (report && report.bad > 0) throw new CheckFailed("bad rows");
    });
}
