// esft report: a run, profiles or a comparison as one HTML file.

import { existsSync } from "node:fs";
import { Option } from "@commander-js/extra-typings";
import type { Command } from "@commander-js/extra-typings";
import { ConfigError } from "../errors.ts";
import { requireOutputFile } from "../files/apart.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { number } from "./common.ts";
import { bytes } from "../format.ts";
import type { Terminal } from "./terminal.ts";

export function registerReport(program: Command, terminal: Terminal): void {
  program
    .command("report")
    .description("one HTML file about a run, profiles or a comparison: charts, tables and their data, opens without a network")
    .argument("<inputs...>", "directory of esft train or esft compare, or one or more profiles of one model")
    .requiredOption("-o, --output <file>", "page to write")
    .option("--overwrite", "replace the page when it is there")
    .option("--title <text>", "title of the page (default: what is reported)")
    .addOption(
      new Option("--score <kind>", "of profiles: share of routed tokens, of gate weight, or of ‖W ⊙ dW‖ (default: token)").choices([
        "token",
        "gate",
        "gradient",
      ] as const),
    )
    .option("--p <x>", "of profiles: mark the experts whose scores sum to p (default: 0.2)", number)
    .option("--experts <file>", "of one profile: mark this selection instead")
    .addHelpText(
      "after",
      "\nExamples:\n  esft report out/law -o law.html\n  esft report law.profile.json intent.profile.json -o experts.html --p 0.2\n  esft report law.profile.json --experts law.experts.json -o law.html",
    )
    .action(async (inputs, { output, overwrite, title, score, p, experts }) => {
      const { filesRead, makeReport } = await import("../report/report.ts");
      await requireOutputFile(output, [...filesRead(inputs), ...(experts === undefined ? [] : [experts])]);
      if (overwrite !== true && existsSync(output))
        throw new ConfigError(`${output} is there already; --overwrite replaces it`, { where: { key: "output", file: output } });
      const page = await makeReport(inputs, { title, score, p, experts });
      await writeFileAtomic(output, page);
      terminal.print(`written: ${output} (${bytes(Buffer.byteLength(page))})`);
    });
}
