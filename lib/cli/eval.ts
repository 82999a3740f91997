// esft eval: held-out loss of a model, or with --metric scores of its answers; and of model + adapter beside it.

import type { Command } from "@commander-js/extra-typings";
import { openAdapter } from "../convert/open.ts";
import { answerFlags } from "./answer_flags.ts";
import { announcePipe, dataInput, dataOptions, machineOptions, openModel, wholeNumber } from "./common.ts";
import { change, count, percent, table } from "../format.ts";
import { adapterDir, ADAPTER_FORMS, MODEL } from "./hub.ts";
import type { Terminal } from "./terminal.ts";

export function registerEval(program: Command, terminal: Terminal): void {
  const command = program
    .command("eval")
    .description(
      "loss, perplexity and token accuracy on held-out rows; with --metric: the model answers, and its answers are scored; with an adapter: base and adapter side by side",
    )
    .argument("<model>", MODEL)
    .requiredOption("--data <files...>", "held-out rows (JSONL, JSON, CSV or Parquet; - is standard input), one or more files")
    .option("--adapter <dir>", `adapter to compare with the base (${ADAPTER_FORMS})`)
    .option("--rows <n>", "use the first n rows of each file", wholeNumber)
    .option("--max-length <n>", "of the loss: tokens per row (default: 1024)", wholeNumber)
    .option("--batch-tokens <n>", "of the loss: tokens per forward (default: 4096)", wholeNumber)
    .option("--metric <names>", "score answers: names between commas (exact, rouge-l, bleu, json, regex, intent …), or a module .mjs")
    .option(
      "--answers <file>",
      "write the answers (JSONL); an interrupted evaluation goes on there; base and adapter: FILE.base, FILE.adapter",
    )
    .option("--json", "print JSON");
  machineOptions(dataOptions(answerFlags(command)))
    .addHelpText(
      "after",
      "\nExamples:\n  esft eval ./OLMoE-1B-7B --data law.test.jsonl\n  esft eval ./OLMoE-1B-7B --adapter out/law --data law.test.jsonl general.jsonl --json\n  esft eval ./OLMoE-1B-7B --adapter out/intent --data intent.test.jsonl --metric intent,exact --answers out/intent.answers.jsonl --max-tokens 128",
    )
    .action(async (dir, flags) => {
      for (const data of flags.data) await announcePipe(data, terminal, flags.adapter === undefined);
      requireTogether(flags, command);
      const { metric } = flags;
      if (metric !== undefined) return (await import("./eval_answers.ts")).evalAnswers(dir, { ...flags, metric }, terminal);
      await using model = await openModel(dir, flags, terminal);
      const { signal } = terminal;
      const options = { ...dataInput(flags, model.spec.maxPositions), batchTokens: flags.batchTokens ?? 4096, rows: flags.rows };
      const pass = async (name: string) => {
        const results = [];
        for (const data of flags.data) {
          const onProgress = (p: { done: number; total: number }) => terminal.progress(`${name} ${data}: ${p.done} of ${p.total} rows`);
          results.push({ data, ...(await model.evaluate(data, options, { signal, onProgress })) });
        }
        return results;
      };
      // The adapter is opened and checked before anything is computed.
      const adapter =
        flags.adapter === undefined
          ? null
          : await openAdapter(await adapterDir(flags.adapter, terminal), { base: model.checkpoint, signal });
      const base = await pass("base");
      if (adapter) await model.applyAdapter(adapter);
      const tuned = adapter ? await pass("adapter") : null;
      if (flags.json)
        return terminal.json({
          model: dir,
          adapter: flags.adapter ?? null,
          results: base.map(({ data, ...figures }, i) => {
            if (!tuned) return { data, base: figures };
            const { data: _, ...adapted } = tuned[i]!;
            return { data, base: figures, adapter: adapted, lossChange: adapted.loss - figures.loss };
          }),
        });
      const [header, cells] = tuned
        ? [
            ["base loss", "adapter loss", "change", "base accuracy", "adapter accuracy"],
            base.map((b, i) => {
              const t = tuned[i]!;
              return [b.loss.toFixed(4), t.loss.toFixed(4), change(t.loss - b.loss, 4), percent(b.accuracy), percent(t.accuracy)];
            }),
          ]
        : [["loss", "perplexity", "accuracy"], base.map((b) => [b.loss.toFixed(4), b.perplexity.toFixed(3), percent(b.accuracy)])];
      const rows = base.map(({ data, supervised }, i) => [data, count(supervised), ...cells[i]!]);
      terminal.print(table(["data", "trained tokens", ...header], rows));
    });
}

const ANSWERS = ["answers", "maxTokens", "temperature", "topK", "topP", "minP", "repetitionPenalty", "seed", "stop"] as const;
const LOSS = ["maxLength", "batchTokens"] as const;

/** Flags that would have no effect are refused. */
function requireTogether(flags: Readonly<Record<string, unknown>>, command: { error(message: string): never }): void {
  const name = (key: string): string => `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;
  const answers = flags["metric"] !== undefined;
  const idle = (answers ? LOSS : ANSWERS).find((key) => flags[key] !== undefined);
  if (idle !== undefined)
    command.error(
      answers ? `${name(idle)} is of the loss, it goes without --metric` : `${name(idle)} is of answers, it goes with --metric NAMES`,
    );
}
