// The demo: the whole ESFT job on the embedded model, beside LoRA and full fine-tuning with the same rows, steps and seed. Every figure
// it prints was measured in this run.

import { readdir, rm, stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { Adapter } from "../adapter/adapter.ts";
import { frozenDigest } from "../adapter/digest.ts";
import { cellDir } from "../compare/cells.ts";
import { carryOut } from "../compare/compare.ts";
import { parsePlan } from "../compare/plan.ts";
import type { PlanInput } from "../compare/plan.ts";
import type { CompareCell, Comparison } from "../compare/result.ts";
import { mergeAdapter } from "../convert/merge.ts";
import { ConfigError } from "../errors.ts";
import { makeFolder, writeFileAtomic } from "../files/atomic.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import { formatJson } from "../files/json.ts";
import { bytes, count, duration, percent } from "../format.ts";
import { checkMergedLogits } from "../logits_check.ts";
import { moeLayers, moeOf } from "../model/spec.ts";
import type { ModelSpec } from "../model/spec.ts";
import { MoeModel } from "../moe_model.ts";
import { packageRoot } from "../native.ts";
import { makeReport } from "../report/report.ts";
import { costTable, resultTable } from "./demo_tables.ts";
import { progressOf } from "./compare_progress.ts";
import type { Terminal } from "./terminal.ts";

export interface DemoOptions {
  readonly model?: string | undefined;
  readonly out: string;
  readonly steps?: number | undefined;
  readonly threads?: number | undefined;
  readonly json?: boolean | undefined;
}

const EMBEDDED = join(packageRoot, "examples", "embedded");
const DATA = join(EMBEDDED, "data");
const TASK = "requests";
const MARK = "demo.json";
const SEED = 1;
/** Trained share of the model that ESFT may reach. */
const MAX_SHARE = 0.15;
const STEPS = 100;

// Rates and p as examples/miniature found them by validation rows.
const METHODS: PlanInput["methods"] = [
  { name: "esft", method: { type: "esft", score: "token", p: 0.35 }, lr: 3e-3 },
  { name: "lora", method: { type: "lora", targets: "attention,shared,router,experts", rank: 8, alpha: 16 }, lr: 3e-3 },
  { name: "full", method: "full", lr: 1e-3 },
];

async function planOf(dir: string, steps: number): Promise<PlanInput> {
  const domains = (await readdir(join(DATA, "domains"))).map((f) => f.replace(/\.jsonl$/, "")).sort();
  const part = (name: string): string => join(DATA, `${TASK}.${name}.jsonl`);
  return {
    model: dir,
    device: "cpu",
    tasks: [{ name: TASK, train: part("train"), validation: part("validation"), test: part("test") }],
    others: domains.map((name) => ({ name, file: join(DATA, "domains", `${name}.jsonl`) })),
    methods: METHODS,
    seeds: [SEED],
    steps,
    rowsPerStep: 4, // rows of 256 tokens that hold several conversations
    microBatch: 4,
    data: { maxLength: 256 },
    optimizer: { schedule: "cosine", warmupSteps: 5, minLrRatio: 0.1, weightDecay: 0 },
    profile: { tokens: 32_768, seed: SEED },
    evaluation: { answers: { metrics: "exact", maxTokens: 64 } },
  };
}

/** What the steps share. */
interface Demo {
  readonly dir: string;
  readonly out: string;
  readonly terminal: Terminal;
  readonly checks: { readonly name: string; readonly ok: boolean }[];
}

/** @returns whether every check passed */
export async function runDemo(options: DemoOptions, terminal: Terminal): Promise<boolean> {
  const { model: dir = EMBEDDED, out, steps = STEPS, threads: wanted } = options;
  const began = performance.now();
  await prepare(out);
  const demo: Demo = { dir, out, terminal, checks: [] };
  const plan = parsePlan(await planOf(dir, steps));
  await using model = await MoeModel.fromPretrained(dir, { device: "cpu", signal: terminal.signal, threads: wanted });
  const { instructionSet, threads } = model.device.info;
  terminal.print(`1. model     ${dir}: ${model.spec.modelType}, ${instructionSet}, ${threads} threads`);

  const found = await carryOut(plan, join(out, "compare"), model, {
    signal: terminal.signal,
    onProgress: (p) => terminal.progress(progressOf(p)),
    onNote: (text) => terminal.note(text),
  });
  const esft = cellOf(found, "esft");
  terminal.print(`2. profile   the task "${TASK}" (its format pretraining never saw), ${duration(found.times.profileSeconds[TASK] ?? 0)}`);
  terminal.print(
    `3. select    token score: ${esft.experts} of ${expertCount(model.spec)} experts, ${percent(esft.trainedShare ?? 0)} of the model`,
  );
  const trained = found.result.methods.map(({ name }) => `${name} ${duration(found.times.cells[cellOf(found, name).id]!.stepSeconds)}`);
  terminal.print(`4. train     ${steps} steps each: ${trained.join(", ")}`);
  await mergeAndVerify(demo, esft, found);
  const report = join(out, "report.html");
  const page = await makeReport(join(out, "compare"));
  await writeFileAtomic(report, page);
  terminal.print(`7. report    ${shown(report)}, ${bytes(Buffer.byteLength(page))}: opens in a browser, without a network`);

  const ok = demo.checks.every((c) => c.ok);
  const seconds = (performance.now() - began) / 1000;
  const summary = {
    model: dir,
    task: TASK,
    seed: SEED,
    steps,
    device: { instructionSet, threads },
    seconds,
    ok,
    checks: demo.checks,
    ...found,
  };
  await writeFileAtomic(join(out, MARK), formatJson(summary));
  if (options.json) terminal.json(summary);
  else
    for (const text of [
      `\n${resultTable(found.result, TASK)}`,
      `\n${costTable(found)}`,
      `\nSame rows, order, ${steps} steps and seed for all. Loss: nats per answer token; exact: answers that are right to the letter; others: mean of ${found.result.others.length} domains that pretraining saw.`,
      `adapters ${shown(join(out, "compare", "cells"))} · merged model ${shown(join(out, "merged"))} · figures ${shown(join(out, MARK))} · ${duration(seconds)} in all`,
    ])
      terminal.print(text);
  return ok;
}

const expertCount = (spec: ModelSpec): number => moeLayers(spec).reduce((sum, layer) => sum + moeOf(spec, layer)!.experts.length, 0);

function cellOf({ result }: Comparison, method: string): CompareCell {
  const cell = result.cells.find((c) => c.method === method && c.chosen);
  if (cell === undefined) throw new ConfigError(`demo: ${method} diverged on this model; use the embedded one`);
  return cell;
}

async function mergeAndVerify(demo: Demo, esft: CompareCell, found: Comparison): Promise<void> {
  const { dir, out, terminal } = demo;
  const { signal } = terminal;
  const adapter = await Adapter.load(cellDir(join(out, "compare"), esft));
  const merged = join(out, "merged");
  const checkpoint = await openCheckpoint(dir);
  const report = await mergeAdapter(checkpoint, adapter, merged, { signal });
  terminal.print(`5. merge     ${shown(merged)}, ${bytes(checkpoint.totalBytes)}, in the base's own layout`);
  const digest = await frozenDigest(await openCheckpoint(merged), adapter.tensors.values());
  const logits = await checkMergedLogits(dir, adapter, merged, { signal });
  const changed = Object.values(report.changedExperts).flat().length;
  const loss = (method: string): number =>
    found.result.summary.find((s) => s.task === TASK && s.method === method)!.values["test.loss"]!.mean;
  terminal.print("6. verify");
  const check = (name: string, ok: boolean): void => {
    demo.checks.push({ name, ok });
    terminal.print(`  ${ok ? "ok    " : "FAILED"} ${name}`);
  };
  check(`reread from disk: ${report.untouched} of ${report.tensors} tensors bit-equal to the base, the others to the adapter`, report.ok);
  check("the experts that changed are the selected ones", changed === esft.experts && report.slices.length === changed * 3);
  check("digest of the frozen weights: after training as before", digest === adapter.frozenDigest);
  check(`logits of the merged model = base + adapter, bit for bit (${count(logits.values)} values)`, logits.ok);
  check(`trained share ${percent(esft.trainedShare ?? 1)} ≤ ${percent(MAX_SHARE)} of the model`, (esft.trainedShare ?? 1) <= MAX_SHARE);
  check("ESFT lowers the loss on the task's test rows", loss("esft") < loss("base"));
}

const shown = (path: string): string => relative(process.cwd(), path) || path;

/** What a demo leaves, today's and that of earlier versions. */
const OURS = ["compare", "merged", "report.html", "esft", "full", "profile.json", "experts.json"];

/** An empty directory for the results. Only what a demo wrote is ever deleted. */
async function prepare(out: string): Promise<void> {
  const entries = await readdir(out).catch(() => [] as string[]);
  const ours = await stat(join(out, MARK)).then(() => true, () => false); // prettier-ignore
  if (entries.length > 0 && !ours)
    throw new ConfigError(`${out} holds other files than the demo's; choose another --out`, { where: { key: "out", file: out } });
  for (const name of OURS) await rm(join(out, name), { recursive: true, force: true });
  await makeFolder(out);
  // From here on the directory is known to be the demo's, however it ends.
  await writeFileAtomic(join(out, MARK), formatJson({ running: true }));
}
