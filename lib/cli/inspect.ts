// esft inspect: what a checkpoint is and what training it would need, from headers alone.

import { Option } from "@commander-js/extra-typings";
import type { Command } from "@commander-js/extra-typings";
import { ConfigError } from "../errors.ts";
import { expertLayout, ExpertSet, ranges } from "../experts/expert_set.ts";
import { ruleWords } from "../experts/rule_words.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkpointSpec } from "../model/families/index.ts";
import { fullTrainable } from "../methods/full.ts";
import { esftTrainable } from "../methods/esft.ts";
import { number, wholeNumber } from "./common.ts";
import { bytes, count, pairs, percent, table } from "../format.ts";
import { MODEL, modelDir } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

const inspectCommand = (program: Command) =>
  program
    .command("inspect")
    .description("layers, experts, router, parameters and memory of a checkpoint, from its headers alone")
    .argument("<model>", MODEL)
    .option("--experts <file>", "estimate training this expert set (esft select's output, or expert_cfg.json)")
    .option("--experts-per-layer <n>", "estimate training so many experts per layer", wholeNumber)
    .option("--share <x>", "estimate training this share of all routed experts, in (0, 1]", number)
    .addOption(new Option("--method <type>", "estimate only this method").choices(["esft", "full"] as const))
    .option("--max-length <n>", "tokens per row in the estimate", wholeNumber, 1024)
    .option("--micro-batch <n>", "rows per forward and backward in the estimate (default: as many as make 4096 tokens)", wholeNumber)
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      "\nExamples:\n  esft inspect ./OLMoE-1B-7B\n  esft inspect ./OLMoE-1B-7B --experts law.experts.json --max-length 4096 --json",
    );
type Flags = ReturnType<ReturnType<typeof inspectCommand>["opts"]>;

export function registerInspect(program: Command, terminal: Terminal): void {
  inspectCommand(program).action(async (dir, flags) => {
    const { inspectCheckpoint } = await import("../inspect.ts");
    const checkpoint = await openCheckpoint(await modelDir(dir, terminal));
    const found = inspectCheckpoint(checkpoint);
    const training = await estimates(checkpoint, flags);
    if (flags.json) return terminal.json({ ...found, training });
    const { modelType, layers, hidden, vocab, maxPositions, experts, expertHidden, moeLayers, shards, tensors, unusedTensors } = found;
    const dtypes = Object.entries(found.dtypes).map(([dtype, n]) => `${n} ${dtype}`);
    const expertsText = `${experts} of width ${expertHidden} in ${moeLayers.length} layers (${ranges(moeLayers)}), ${count(found.expertParameters)} parameters each, stored ${found.expertLayout}`;
    const filesText = `${shards} shard${shards === 1 ? "" : "s"}, ${tensors} tensors (${dtypes.join(", ")}), ${bytes(found.bytes)}`;
    terminal.print(
      pairs([
        ["model", `${modelType}, ${layers} layers, hidden ${hidden}, vocabulary ${vocab}, ${maxPositions} positions`],
        ["attention", found.attention],
        ["experts", experts === 0 ? "none (dense model)" : expertsText],
        ["shared", found.sharedHidden === 0 ? "none" : `one expert of width ${found.sharedHidden}`],
        ["router", found.routerText],
        ["parameters", `${count(found.parameters)}, ${count(found.activeParameters)} active per token`],
        ["files", filesText + (unusedTensors > 0 ? `, ${unusedTensors} not used` : "")],
        ...found.decoded.map((d, i): [string, string] => [
          i > 0 ? "" : found.quantMethod === null ? "decoded" : "quantised",
          `${d.weights} weights as ${d.scheme}: ${bytes(d.bytes)}, in memory ${bytes(d.memoryBytes)} as ${d.memoryDtype}`,
        ]),
      ]),
    );
    const roles = found.roles.map((r) => [
      r.role,
      r.tensors,
      count(r.parameters),
      percent(r.parameters / found.parameters),
      bytes(r.bytes),
    ]);
    terminal.print(`\n${table(["role", "tensors", "parameters", "share", "bytes"], roles)}`);
    if (training.length === 0) return;
    terminal.print(`\nmemory of training, micro-batches of ${training[0]!.tokensPerBatch} tokens, f32:`);
    terminal.print(
      table(
        ["what trains", "parameters", "share", "weights", "state", "activations", "host", "total", "adapter"],
        training.map((t) => [
          t.label,
          count(t.trainedParameters),
          percent(t.share),
          ...[t.weightBytes, t.stateBytes, t.activationBytes, t.hostBytes, t.totalBytes, t.adapterBytes].map(bytes),
        ]),
      ),
    );
  });
}

async function estimates(checkpoint: Checkpoint, flags: Flags) {
  const { estimateTraining } = await import("../inspect.ts");
  const { defaultMicroBatch } = await import("../train/memory_plan.ts");
  const spec = checkpointSpec(checkpoint);
  const layout = expertLayout(spec);
  const E = Math.max(0, ...layout.values());
  const length = Math.min(flags.maxLength, spec.maxPositions);
  const tokens = length * (flags.microBatch ?? defaultMicroBatch(length));
  const given = [flags.experts, flags.expertsPerLayer, flags.share].filter((x) => x !== undefined).length;
  if (given > 1) throw new ConfigError("inspect: expected one of --experts, --experts-per-layer, --share");
  const spread = (n: number) =>
    new ExpertSet({ layers: [...layout].map(([l, e]) => [l, { ranked: Array.from({ length: Math.min(n, e) }, (_, i) => i) }] as const) });
  const wanted: [string, ExpertSet | null][] = [];
  if (flags.method !== "full" && E > 0) {
    if (flags.experts !== undefined) {
      const set = await ExpertSet.load(flags.experts);
      const rule = ruleWords(set.rule);
      wanted.push([`${set.count} experts of ${flags.experts}${rule === null ? "" : ` (${rule})`}`, set]);
    } else if (flags.expertsPerLayer !== undefined) {
      if (flags.expertsPerLayer < 1 || flags.expertsPerLayer > E)
        throw new ConfigError(`inspect: expected --experts-per-layer from 1 to ${E}, found ${flags.expertsPerLayer}`);
      wanted.push([`${flags.expertsPerLayer} experts per layer`, spread(flags.expertsPerLayer)]);
    } else {
      if (flags.share !== undefined && !(flags.share > 0 && flags.share <= 1))
        throw new ConfigError(`inspect: expected --share in (0, 1], found ${flags.share}`);
      for (const share of flags.share === undefined ? [0.05, 0.1, 0.2] : [flags.share]) {
        const n = Math.max(1, Math.round(share * E));
        wanted.push([`${n} of ${E} experts per layer`, spread(n)]);
      }
    }
  }
  if (flags.method !== "esft" && given === 0) wanted.push(["everything (full)", null]);
  return wanted.map(([label, set]) => ({
    label,
    ...estimateTraining(checkpoint, spec, set ? esftTrainable(spec, set) : fullTrainable(spec), tokens),
  }));
}
