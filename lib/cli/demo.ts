// The demo: the whole ESFT job on the embedded model, beside full fine-tuning with the same data, steps and seed. Every figure
// it prints was measured in this run.

import { readdir, rm, stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { ConfigError } from "../errors.ts";
import type { Adapter } from "../adapter/adapter.ts";
import { frozenDigest } from "../adapter/digest.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import { mergeAdapter } from "../convert/merge.ts";
import type { Profile } from "../experts/profile.ts";
import { makeFolder, writeFileAtomic } from "../files/atomic.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import { formatJson } from "../files/json.ts";
import { checkMergedLogits } from "../logits_check.ts";
import { STATE_BYTES_PER_PARAMETER } from "../model/weights/training_state.ts";
import { MoeModel } from "../moe_model.ts";
import { packageRoot } from "../native.ts";
import { esftTrainable } from "../methods/esft.ts";
import type { Evaluation } from "../train/evaluate.ts";
import type { EsftMethod } from "../train/method_options.ts";
import { methodTable, resultTable } from "./demo_tables.ts";
import type { MethodResult, Results } from "./demo_tables.ts";
import { bytes, count, duration, percent } from "../format.ts";
import type { Terminal } from "./terminal.ts";
import { progressLine } from "./train.ts";

export interface DemoOptions {
  readonly model?: string | undefined;
  readonly out: string;
  readonly steps?: number | undefined;
  readonly threads?: number | undefined;
  readonly json?: boolean | undefined;
}

const EMBEDDED = join(packageRoot, "examples", "embedded");
const DATA = join(EMBEDDED, "data");
const TASK = "booking";
const TRAIN_FILE = join(DATA, `${TASK}.train.jsonl`);
const MARK = "demo.json";
const SEED = 1;
/** Trained share of the model that the selection may reach. */
const MAX_SHARE = 0.15;
const STEPS = 120;
const ROWS_PER_STEP = 8;
const MAX_LENGTH = 256;
// Each method at its own rate: the one of a sweep (2e-4 … 5e-3 and 5e-5 … 2e-3) at which the mean loss on the other domains
// rises by about 0.1, so that the task's rows compare what each method gains for the same forgetting.
const LR = { esft: 1e-3, full: 2e-4 } as const;

/** What the steps share. */
interface Demo {
  readonly model: MoeModel;
  readonly dir: string;
  /** Names of the held-out rows: the task first. */
  readonly rows: readonly string[];
  readonly steps: number;
  readonly terminal: Terminal;
  readonly at: (name: string) => string;
  readonly checks: { readonly name: string; readonly ok: boolean }[];
}

/** @returns whether every check passed */
export async function runDemo(options: DemoOptions, terminal: Terminal): Promise<boolean> {
  const { model: dir = EMBEDDED, out, steps = STEPS, threads: wanted } = options;
  const began = performance.now();
  const domains = (await readdir(join(DATA, "domains"))).map((f) => f.replace(/\.jsonl$/, "")).sort();
  await prepare(out);
  await using model = await MoeModel.fromPretrained(dir, { device: "cpu", signal: terminal.signal, threads: wanted });
  const demo: Demo = { model, dir, rows: [TASK, ...domains], steps, terminal, at: (name) => join(out, name), checks: [] };
  const { at, checks, rows } = demo;
  const { instructionSet, threads } = model.device.info;
  terminal.print(`1. model     ${dir}: ${model.spec.modelType}, ${instructionSet}, ${threads} threads`);
  const base = await evaluate(demo, "the base");
  const { experts, p } = await select(demo);
  const { adapter, ...esft } = await train(demo, "4. train    ", { type: "esft", experts }, base);
  await mergeAndVerify(demo, adapter, experts, esft, base);
  const { adapter: _, ...full } = await train(demo, "7. compare  ", { type: "full" }, base);

  const ok = checks.every((c) => c.ok);
  const methods = [esft, full];
  const summary = {
    model: dir,
    task: TASK,
    seed: SEED,
    steps,
    rowsPerStep: ROWS_PER_STEP,
    maxLength: MAX_LENGTH,
    p,
    experts: experts.count,
    device: { instructionSet, threads },
    seconds: (performance.now() - began) / 1000,
    ok,
    checks,
    base,
    methods,
  };
  await writeFileAtomic(at(MARK), formatJson(summary));
  if (options.json) terminal.json(summary);
  else
    for (const text of [
      `\n${resultTable(rows, base, methods)}`,
      `\n${methodTable(methods)}`,
      `\nSame rows, order, ${steps} steps and seed for both; learning rates that forget about equally much. Loss: nats per answer token; acc.: share of answer tokens predicted right.`,
      `adapter ${shown(at("esft"))} · merged model ${shown(at("merged"))} · figures ${shown(at(MARK))} · ${duration(summary.seconds)} in all`,
    ])
      terminal.print(text);
  return ok;
}

async function evaluate({ model, rows, terminal }: Demo, label: string): Promise<Results> {
  const results: Record<string, Evaluation> = {};
  for (const name of rows) {
    terminal.progress(`evaluating ${label}: ${name}`);
    const file = name === TASK ? join(DATA, `${TASK}.eval.jsonl`) : join(DATA, "domains", `${name}.jsonl`);
    results[name] = await model.evaluate(file, { maxLength: MAX_LENGTH }, { signal: terminal.signal });
  }
  terminal.clear();
  return results;
}

async function select({ model, terminal, at }: Demo): Promise<{ experts: ExpertSet; p: number }> {
  const data = { maxLength: MAX_LENGTH };
  const profile = await model.profile(TRAIN_FILE, { tokens: 32_768, seed: SEED, data, signal: terminal.signal });
  await profile.save(at("profile.json"));
  const { experts, p, share } = choose(model, profile);
  await experts.save(at("experts.json"));
  terminal.print(`2. profile   ${count(profile.tokens)} tokens of the task "${TASK}", which pretraining never saw`);
  terminal.print(`3. select    token score, p = ${p}: ${experts.count} of ${profile.expertCount} experts, ${percent(share)} of the model`);
  return { experts, p };
}

type Trained = MethodResult & { readonly adapter: Adapter };

async function train(demo: Demo, step: string, method: EsftMethod | { readonly type: "full" }, base: Results): Promise<Trained> {
  const { model, terminal, steps, at } = demo;
  const { signal } = terminal;
  const name = method.type;
  const run = model.train({
    data: { file: TRAIN_FILE, maxLength: MAX_LENGTH },
    method,
    outDir: at(name),
    signal,
    steps,
    rowsPerStep: ROWS_PER_STEP,
    microBatch: ROWS_PER_STEP,
    seed: SEED,
    evalFraction: 0,
    keep: "last",
    optimizer: { lr: LR[name], schedule: "cosine", warmupSteps: 5, minLrRatio: 0.1, weightDecay: 0 },
  });
  for await (const e of run) if (e.type === "step") terminal.progress(`${name}  ${progressLine(e)}`);
  const { adapter, seconds, trainable, step: done } = await run.result;
  signal.throwIfAborted();
  await model.applyAdapter(adapter!); // not interrupted
  const results = await evaluate(demo, name);
  model.removeAdapter();
  terminal.print(
    `${step} ${done} steps of ${name === "esft" ? "ESFT" : "full fine-tuning"} in ${duration(seconds)}: loss on the task ${base[TASK]!.loss.toFixed(3)} → ${results[TASK]!.loss.toFixed(3)}`,
  );
  const { parameters: trainedParameters, totalParameters } = trainable;
  const share = trainedParameters / totalParameters;
  const stateBytes = trainedParameters * STATE_BYTES_PER_PARAMETER;
  return { name, lr: LR[name], seconds, trainedParameters, share, adapterBytes: adapter!.bytes, stateBytes, results, adapter: adapter! };
}

async function mergeAndVerify(demo: Demo, adapter: Adapter, experts: ExpertSet, esft: MethodResult, base: Results): Promise<void> {
  const { dir, terminal, at } = demo;
  const { signal } = terminal;
  const merged = at("merged");
  const checkpoint = await openCheckpoint(dir);
  const report = await mergeAdapter(checkpoint, adapter, merged, { signal });
  terminal.print(`5. merge     ${merged}, ${bytes(checkpoint.totalBytes)}, in the base's own layout`);
  const digest = await frozenDigest(await openCheckpoint(merged), adapter.tensors.values());
  const logits = await checkMergedLogits(dir, adapter, merged, { signal });
  const changed = Object.values(report.changedExperts).flat().length;
  terminal.print("6. verify");
  const check = (name: string, ok: boolean): void => {
    demo.checks.push({ name, ok });
    terminal.print(`  ${ok ? "ok    " : "FAILED"} ${name}`);
  };
  check(`reread from disk: ${report.untouched} of ${report.tensors} tensors bit-equal to the base, the others to the adapter`, report.ok);
  check("the experts that changed are the selected ones", changed === experts.count && report.slices.length === experts.count * 3);
  check("digest of the frozen weights: after training as before", digest === adapter.frozenDigest);
  check(`logits of the merged model = base + adapter, bit for bit (${logits.values} values)`, logits.ok);
  check(`trained share ${percent(esft.share)} ≤ ${percent(MAX_SHARE)} of the model`, esft.share <= MAX_SHARE);
  check("ESFT lowers the loss on the task's held-out rows", esft.results[TASK]!.loss < base[TASK]!.loss);
}

const shown = (path: string): string => relative(process.cwd(), path) || path;

/** An empty directory for the results. Only what a demo wrote is ever deleted. */
async function prepare(out: string): Promise<void> {
  const entries = await readdir(out).catch(() => [] as string[]);
  const ours = await stat(join(out, MARK)).then(() => true, () => false); // prettier-ignore
  if (entries.length > 0 && !ours)
    throw new ConfigError(`${out} holds other files than the demo's; choose another --out`, { where: { key: "out", file: out } });
  for (const name of ["esft", "full", "merged", "profile.json", "experts.json"])
    await rm(join(out, name), { recursive: true, force: true });
  await makeFolder(out);
  // From here on the directory is known to be the demo's, however it ends.
  await writeFileAtomic(join(out, MARK), formatJson({ running: true }));
}

/** The largest p (in steps of 0.01) whose experts fit MAX_SHARE, with their share of the model. */
function choose({ spec }: MoeModel, profile: Profile): { experts: ExpertSet; p: number; share: number } {
  for (let i = 99; i >= 1; i--) {
    const experts = profile.select({ score: "token", p: i / 100 });
    const { parameters, totalParameters } = esftTrainable(spec, experts);
    const share = parameters / totalParameters;
    if (share <= MAX_SHARE) return { experts, p: i / 100, share };
  }
  throw new ConfigError(`demo: one expert per layer is more than ${percent(MAX_SHARE)} of this model; use the embedded one`);
}
