// esft export: a LoRA adapter as a folder of PEFT.

import type { Command } from "@commander-js/extra-typings";
import { Option } from "@commander-js/extra-typings";
import { requireApart } from "../files/apart.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import { checkpointSpec } from "../model/families/index.ts";
import { byteProgress } from "./common.ts";
import { count } from "../format.ts";
import { adapterDir, MODEL, modelDir } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

export function registerExport(program: Command, terminal: Terminal): void {
  program
    .command("export")
    .description("write a LoRA adapter as a PEFT folder; what PEFT cannot express whole is refused")
    .argument("<model>", `base: ${MODEL}`)
    .requiredOption("--adapter <dir>", "adapter of method lora")
    .requiredOption("-o, --output <dir>", "directory to write adapter_config.json and adapter_model.safetensors to")
    .addOption(
      new Option("--layout <name>", "routed experts: stacks as in transformers 5, or a module per expert as in transformers 4")
        .choices(["stacked", "per-expert"] as const)
        .default("stacked" as const),
    )
    .option("--json", "print the result as JSON")
    .addHelpText("after", "\nExamples:\n  esft export ./OLMoE-1B-7B --adapter out/law-lora -o out/law-peft")
    .action(async (dir, { output, layout, json, ...flags }) => {
      const { signal } = terminal;
      const base = await openCheckpoint(await modelDir(dir, terminal));
      checkpointSpec(base);
      const from = await adapterDir(flags.adapter, terminal);
      await requireApart(output, from, "the adapter", "output", true);
      const { openAdapter } = await import("../convert/open.ts");
      const adapter = await openAdapter(from, { base, signal, onProgress: byteProgress(terminal) });
      const { savePeftAdapter } = await import("../convert/peft_write.ts"); // loads the addon, which other commands must do without
      await savePeftAdapter(adapter, base, output, { signal, layout });
      if (json) terminal.json({ output, layout, parameters: adapter.parameters });
      else terminal.print(`PEFT folder: ${output} (${count(adapter.parameters)} parameters)`);
    });
}
