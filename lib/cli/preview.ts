// esft preview: rows as the model will see them, token by token, with what is trained.

import type { Command } from "@commander-js/extra-typings";
import { Dataset, noUsableRow } from "../data/dataset.ts";
import type { DatasetReport } from "../data/dataset.ts";
import { formatPreview } from "../data/preview.ts";
import { openTemplate } from "../data/source.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { announcePipe, CheckFailed, dataOptions, wholeNumber } from "./common.ts";
import { MODEL, modelDir } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

export function registerPreview(program: Command, terminal: Terminal): void {
  const command = program
    .command("preview")
    .description("rows as tokens, with what carries loss (+) and what does not (·)")
    .argument("<model>", `${MODEL}: its tokenizer and chat template`)
    .argument("<data>", "rows (JSONL, JSON, CSV or Parquet; - is standard input)")
    .option("-n, --rows <n>", "rows to show", wholeNumber, 3)
    .option("--max-tokens <n>", "tokens to show of a row, the first and the last; 0 = all", wholeNumber, 512)
    .option("--lint", "read all rows and report what cannot be used")
    .option("--errors <n>", "with --lint: bad rows to list; all are counted", wholeNumber, 20)
    .option("--json", "print JSON");
  dataOptions(command)
    .addHelpText(
      "after",
      "\nExamples:\n  esft preview ./OLMoE-1B-7B law.jsonl -n 2\n  esft preview ./DeepSeek-V2-Lite law.jsonl --template esft --lint",
    )
    .action(
      async (
        dir,
        data,
        { rows, maxTokens, lint, errors: maxErrors, json, template: name = "tokenizer", format, shape, onBadRow, onDropped },
      ) => {
        const encoding = {
          tokenizer: await loadTokenizer(await modelDir(dir, terminal, "tokenizer")),
          template: await openTemplate(name),
          onDropped,
        };
        await announcePipe(data, terminal, lint !== true);
        const dataset = Dataset.fromFile(data, { onBadRow: lint ? "skip" : onBadRow, shape, format });
        const report = lint ? await dataset.lint(encoding, { signal: terminal.signal, maxErrors }) : null;
        const previews = report?.good === 0 ? [] : await dataset.preview(rows, encoding);
        if (json) {
          const errors = report?.errors.map(({ message, where }) => ({ message, where }));
          terminal.json({ previews, ...(report ? { report: { ...report, errors } } : {}) });
        } else {
          for (const p of previews) terminal.print(formatPreview(p, { maxTokens: maxTokens === 0 ? Infinity : maxTokens }));
          if (report) for (const line of lintLines(report)) terminal.print(line);
        }
        if (report?.good === 0) throw noUsableRow(report);
        if (report && report.bad > 0) throw new CheckFailed("bad rows");
      },
    );
}

/** How many rows can be used and how many not, by kind of fault; the first of them by name. */
function lintLines({ rows, good, bad, codes, warnings, errors }: DatasetReport): string[] {
  const kinds = (table: Readonly<Record<string, number>>): string =>
    Object.entries(table).map(([code, n]) => `${n} ${code}`).join(", "); // prettier-ignore
  return [
    `${rows} rows: ${good} usable, ${bad} not${bad > 0 ? ` (${kinds(codes)})` : ""}`,
    ...(Object.keys(warnings).length > 0 ? [`rows with warnings: ${kinds(warnings)}`] : []),
    ...errors.map((e) => `  ${e.message} [${String(e.where["rule"])}]`),
    ...(bad > errors.length ? [`  … and ${bad - errors.length} more bad rows (--errors ${bad} lists them all)`] : []),
  ];
}
