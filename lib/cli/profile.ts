// esft profile: the affinity of every expert to a task, from running the model or from the official routing logs.

import { stat } from "node:fs/promises";
import type { Command } from "@commander-js/extra-typings";
import { requireOutputFile } from "../files/apart.ts";
import { Profile } from "../experts/profile.ts";
import { readTraces } from "../experts/traces.ts";
import { disk } from "../files/disk.ts";
import { announcePipe, dataInput, dataOptions, machineOptions, openModel, wholeNumber } from "./common.ts";
import { bytes, count, duration, percent, table } from "../format.ts";
import { MODEL } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

const SAVE_EVERY = 5000; // ms between partial profiles

function profileCommand(program: Command) {
  const command = program
    .command("profile")
    .description("score every routed expert on a task: share of routed tokens, mean gate weight, and what its gradient says")
    .argument("[model]", MODEL)
    .argument("[data]", "task rows (JSONL, JSON, CSV or Parquet; - is standard input)")
    .requiredOption("-o, --output <file>", "profile to write; an interrupted run keeps <file>.partial and goes on from it")
    .option("--tokens <n>", "tokens to score", wholeNumber, 131_072)
    .option("--seed <n>", "order of the rows", wholeNumber, 1)
    .option("--max-length <n>", "longest row; longer ones are cut at the end (default: 1024)", wholeNumber)
    .option("--batch-tokens <n>", "tokens per forward", wholeNumber, 4096)
    .option("--gradient", "gradient scores ‖W ⊙ dW‖ too: a backward per batch over the supervised tokens; nothing trains")
    .option("--restart", "ignore a partial profile")
    .option("--from-traces <dir>", "instead of running a model: read expert_weights_<layer>.txt")
    .option("--top-k <n>", "with --from-traces: experts per token (default: concluded from the logs)", wholeNumber)
    .option("--experts <n>", "with --from-traces: experts per layer (default: concluded from the logs)", wholeNumber)
    .option("--json", "print the scores of every expert as JSON");
  return machineOptions(dataOptions(command)).addHelpText(
    "after",
    "\nExamples:\n  esft profile ./OLMoE-1B-7B law.jsonl -o law.profile.json --tokens 131072\n  esft profile --from-traces traces/law -o law.profile.json",
  );
}
type Flags = ReturnType<ReturnType<typeof profileCommand>["opts"]>;

export function registerProfile(program: Command, terminal: Terminal): void {
  const command = profileCommand(program);
  command.action(async (dir, data, flags) => {
    const { output, fromTraces, topK, experts, json } = flags;
    const partial = `${output}.partial`;
    for (const file of [output, partial]) await requireOutputFile(file, data === undefined ? [] : [data]);
    let profile: Profile;
    if (fromTraces !== undefined) {
      if (dir !== undefined) command.error(`--from-traces takes no checkpoint, found ${dir}`);
      profile = await readTraces(fromTraces, { topK, experts, signal: terminal.signal });
    } else {
      if (dir === undefined || data === undefined)
        return command.error("expected a checkpoint directory and a data file, or --from-traces DIR");
      profile = await measure(dir, data, partial, flags, terminal);
    }
    await profile.save(output);
    await disk.rm(partial, { force: true });
    if (json) terminal.json({ ...scoresOf(profile), output });
    else report(profile, output, terminal);
  });
}

async function measure(dir: string, data: string, partial: string, flags: Flags, terminal: Terminal): Promise<Profile> {
  const found = !flags.restart && (await stat(partial).then(() => true, () => false)); // prettier-ignore
  const resume = found ? await Profile.load(partial) : null;
  await using model = await openModel(dir, flags, terminal);
  if (resume) terminal.note(`going on from ${partial} (${count(resume.tokens)} tokens scored); --restart begins anew`);
  await announcePipe(data, terminal);
  const { tokens, seed, batchTokens, gradient } = flags;
  const { signal } = terminal;
  let savedAt = performance.now();
  return await model.profile(data, {
    data: dataInput(flags, model.spec.maxPositions),
    tokens,
    seed,
    batchTokens,
    ...(gradient ? { gradient } : {}),
    onGradientMemory: (n) => terminal.note(`gradient scores take ${bytes(n)} of activations and weight gradients`),
    resume,
    signal,
    partialEvery: 1,
    onPartial: async (state) => {
      if (!signal.aborted && performance.now() - savedAt < SAVE_EVERY) return;
      await state.save(partial);
      savedAt = performance.now();
      if (signal.aborted) terminal.note(`${partial} keeps ${count(state.tokens)} scored tokens; the same command goes on from there`);
    },
    onProgress: (p) =>
      terminal.progress(
        `profile ${count(p.done)} of ${count(p.total)} tokens  ${count(p.tokensPerSecond)} tok/s  ETA ${duration(p.etaSeconds)}`,
      ),
  });
}

function scoresOf(profile: Profile) {
  const { source, model, data, seed, topK, experts, sequences } = profile.data;
  return {
    source,
    model,
    data,
    seed,
    topK,
    experts,
    sequences,
    tokens: profile.tokens,
    layers: profile.layers.map((layer) => ({
      layer,
      tokenScores: [...profile.scores(layer, { score: "token" })],
      gateScores: [...profile.scores(layer, { score: "gate" })],
      ...(profile.data.gradient ? { gradientScores: [...profile.scores(layer, { score: "gradient" })] } : {}),
      layerMass: profile.layerMass(layer),
    })),
  };
}

function report(profile: Profile, output: string, terminal: Terminal): void {
  const gradient = profile.data.gradient !== undefined;
  terminal.print(
    `${count(profile.tokens)} tokens in ${count(profile.data.sequences)} sequences, ${profile.layers.length} layers of ${several(profile.layout.values())} experts, top-${several(profile.layers.map((l) => profile.topK(l)))}`,
  );
  terminal.print(
    table(
      ["layer", "best by token share", "best by gate", ...(gradient ? ["best by gradient"] : []), "for half of the tokens", "gate mass"],
      profile.layers.map((layer) => {
        const token = profile.scores(layer, { score: "token" });
        const gate = profile.scores(layer, { score: "gate" });
        const sorted = [...token].sort((a, b) => b - a);
        let sum = 0;
        let n = 0;
        while (sum < 0.5 && n < sorted.length) sum += sorted[n++]!;
        const byGradient = gradient ? [best(profile.scores(layer, { score: "gradient" }), percent)] : [];
        const mass = profile.layerMass(layer).toFixed(3);
        return [layer, best(token, percent), best(gate, (x) => x.toFixed(3)), ...byGradient, `${n} experts`, mass];
      }),
      { left: gradient ? [1, 2, 3] : [1, 2] },
    ),
  );
  terminal.print(`written: ${output}`);
}

/** One number, or where they differ the lowest and the highest. */
function several(numbers: Iterable<number>): string {
  const all = [...numbers];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  return low === high ? `${low}` : `${low} to ${high}`;
}

function best(scores: Float64Array, show: (score: number) => string): string {
  const order = Array.from(scores, (s, e) => [e, s] as const).sort((a, b) => b[1] - a[1]);
  return order.slice(0, 3).map(([e, s]) => `${e} (${show(s)})`).join(", "); // prettier-ignore
}
