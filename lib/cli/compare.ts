// esft compare: methods, learning rates and seeds on the same rows, one after another on one model.

import type { Command } from "@commander-js/extra-typings";
import { modelDir } from "./hub.ts";
import { progressOf } from "./compare_progress.ts";
import { openModel, threadNumber } from "./common.ts";
import { count, table } from "../format.ts";
import type { Terminal } from "./terminal.ts";

export function registerCompare(program: Command, terminal: Terminal): void {
  const command = program
    .command("compare")
    .description("compare methods: every method, learning rate and seed of a plan on every task, with the same rows, order and evaluation")
    .argument("<plan>", "YAML or JSON file")
    .option("--out <dir>", "directory of the comparison; one that was interrupted, or whose plan has grown, goes on")
    .option("--threads <n>", "worker threads, in place of the plan's; results do not depend on it", threadNumber)
    .option("--dry-run", "print the cells, and compute nothing")
    .option("--json", "print what was found as JSON")
    .addHelpText(
      "after",
      `
A plan:
  model: ./OLMoE-1B-7B                      # or org/name[@revision] on the Hugging Face Hub
  tasks:
    - {name: law, train: law.train.jsonl, validation: law.validation.jsonl, test: law.test.jsonl}
  others:                                   # what must not be forgotten
    - {name: general, file: general.jsonl}
  methods:
    - {name: esft, method: {type: esft, p: 0.2}, lr: [1.0e-5, 3.0e-5]}
    - {name: lora, method: {type: lora, rank: 16}, lr: [1.0e-4, 3.0e-4]}
    - {name: full, method: full, lr: [3.0e-6, 1.0e-5]}     # tasks: [law] = on these alone
  seeds: [1, 2, 3]                          # rateSeeds: 1 = rates are chosen with the first alone
  steps: 500
  rowsPerStep: 32
  data: {maxLength: 1024}
  evaluation: {answers: {metrics: exact, maxTokens: 64}}
Experts that a method selects (p, topKPerLayer, …) come from one profile per task, of its training
rows. The learning rate is chosen by validation rows; test rows are evaluated for what was
chosen alone.
Examples:
  esft compare plan.yaml --dry-run
  esft compare plan.yaml --out out/compare`,
    );
  command.action(async (file, flags) => {
    const { readPlan } = await import("../compare/plan_file.ts");
    const plan = await readPlan(file);
    if (flags.dryRun) return dryRun(plan, flags.json ?? false, terminal);
    const { out } = flags;
    if (out === undefined) return command.error("expected --out DIR, where runs and results go, or --dry-run");
    const { carryOut } = await import("../compare/compare.ts");
    plan.model = await modelDir(plan.model, terminal);
    const { threads = plan.threads } = flags;
    const found = await carryOut(plan, out, () => openModel(plan.model, { ...plan, threads }, terminal), {
      signal: terminal.signal,
      onProgress: (p) => terminal.progress(progressOf(p)),
      onNote: (text) => terminal.note(text),
    }).catch((error: unknown) => {
      if (terminal.signal.aborted) terminal.note(`${out} keeps what was reached; the same command goes on from there`);
      throw error;
    });
    if (flags.json) return terminal.json(found.result);
    const { markdownOf } = await import("../compare/table.ts");
    terminal.print(markdownOf(found).trimEnd());
    terminal.print(`\nwritten: ${out}/compare.json, compare.md`);
  });
}

type Plan = Awaited<ReturnType<typeof import("../compare/plan_file.ts").readPlan>>;

async function dryRun(plan: Plan, json: boolean, terminal: Terminal): Promise<void> {
  const { cellsOf, searched } = await import("../compare/cells.ts");
  const told = cellsOf(plan).map((cell) => {
    const { id, task, method, lr, seed } = cell;
    const known = searched(plan, cell);
    const named = known ? id : id.replace(/lr-[^/]*/, "lr-chosen");
    return { id: named, task: task.name, method: method.name, type: method.method.type, lr: known ? lr : null, seed };
  });
  const cells = told.filter(({ id }, i) => told.findIndex((c) => c.id === id) === i);
  const { steps, rowsPerStep } = plan;
  if (json) return terminal.json({ steps, rowsPerStep, cells });
  terminal.print(
    table(
      ["cell", "task", "method", "type", "learning rate", "seed"],
      cells.map((c) => [c.id, c.task, c.method, c.type, c.lr?.toExponential() ?? "the chosen one", c.seed]),
      { left: [1, 2, 3] },
    ),
  );
  terminal.print(`${cells.length} cells of ${steps} updates of ${rowsPerStep} rows: ${count(cells.length * steps)} updates in all`);
}
