// esft pull: a model of the Hugging Face Hub into the cache.

import type { Command } from "@commander-js/extra-typings";
import { pulled } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

export function registerPull(program: Command, terminal: Terminal): void {
  program
    .command("pull")
    .description(
      "fetch a model (or an adapter) of the Hugging Face Hub into the cache that Python's library uses too, and print where it lies",
    )
    .argument("<model>", "org/name, or org/name@revision with a branch, a tag or a commit")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Only what is needed is fetched: configuration, tokenizer, templates and weights in safetensors. A
download that was cut goes on where it ended; every file is checked against its hash. Every command
that takes a checkpoint directory takes such a name too, and fetches what is not there.
Environment, as Python's library reads it: HF_HOME (default ~/.cache/huggingface), HF_HUB_CACHE,
  HF_TOKEN (for gated and private models; or the file HF_HOME/token), HF_ENDPOINT,
  HF_HUB_OFFLINE=1 (the cache alone)
Examples:
  esft pull allenai/OLMoE-1B-7B-0924
  esft inspect allenai/OLMoE-1B-7B-0924
  HF_HOME=/data/hf esft pull Qwen/Qwen3-30B-A3B@main --json`,
    )
    .action(async (model, { json }) => {
      const found = await pulled(model, terminal);
      if (json) terminal.json(found);
      else terminal.print(found.dir);
    });
}
