// The demo: the whole ESFT job on the embedded model, beside full fine-tuning with the same data, steps and seed. Every figure
// it prints was measured in this run.

import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { ConfigError } from "../errors.ts";
import type { Adapter } from "../adapter/adapter.ts";
import { frozenDigest } from "../adapter/digest.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import { mergeAdapter } from "../adapter/merge.ts";
import type { Profile } from "../experts/profile.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import { formatJson } from "../files/json.ts";
import { checkMergedLogits } from "../logits_check.ts";
import { STATE_BYTES_PER_PARAMETER } from "../model/weights/training_state.ts";
import { MoeModel } from "../moe_model.ts";
import { packageRoot } from "../native.ts";
import { esftTrainable } from "../methods/esft.ts";
import type { Evaluation } from "../train/evaluate.ts";
import type { EsftMethod } from "../train/request.ts";
import { methodTable, resultTable } from "./demo_tables.ts";
import type { MethodResult, Results } from "./demo_tables.ts";
import { bytes, count, duration, percent } from "./format.ts";
import type { Terminal } from "./terminal.ts";
import { progressLine } from "./train.ts";

export interface DemoOptions {
  readonly model?: string;
  readonly out: string;
  readonly steps?: number;
  readonly threads?: number;
  readonly json?: boolean;
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

/** @returns whether every check passed */
export async function runDemo(options: DemoOptions, terminal: Terminal): Promise<boolean> {
  const { signal } = terminal;
  const domains = (await readdir(join(DATA, "domains"))).map((f) => f.replace(/\.jsonl$/, "")).sort();
  await prepare(options.out);
  const dir = options.model ?? EMBEDDED;
  const model = await MoeModel.fromPretrained(dir, { device: "cpu", signal, threads: options.threads });
  try {
    return await new Demo(model, dir, [TASK, ...domains], options, terminal).run();
  } finally {
    await model[Symbol.asyncDispose]();
  }
}

class Demo {
  private readonly model: MoeModel;
  private readonly dir: string;
  /** Names of the held-out rows: the task first. */
  private readonly rows: readonly string[];
  private readonly options: DemoOptions;
  private readonly terminal: Terminal;
  private readonly checks: { name: string; ok: boolean }[] = [];
  private readonly began = performance.now();

  constructor(model: MoeModel, dir: string, rows: readonly string[], options: DemoOptions, terminal: Terminal) {
    this.model = model;
    this.dir = dir;
    this.rows = rows;
    this.options = options;
    this.terminal = terminal;
  }

  private at(...parts: string[]): string {
    return join(this.options.out, ...parts);
  }
  private say(text: string): void {
    this.terminal.print(text);
  }
  private check(name: string, ok: boolean): void {
    this.checks.push({ name, ok });
    this.say(`  ${ok ? "ok    " : "FAILED"} ${name}`);
  }

  async run(): Promise<boolean> {
    const { model, dir, options, terminal, checks } = this;
    const { instructionSet, threads } = model.device.info;
    this.say(`1. model     ${dir}: ${model.spec.modelType}, ${instructionSet}, ${threads} threads`);
    const base = await this.evaluate("the base");
    const { experts, p } = await this.select();
    const esft = await this.train("4. train    ", { type: "esft", experts }, base);
    await this.mergeAndVerify(esft, experts, base);
    const full = await this.train("7. compare  ", { type: "full" }, base);

    const ok = checks.every((c) => c.ok);
    const plain = ({ adapter: _, ...figures }: Trained): MethodResult => figures;
    const summary = {
      model: dir,
      task: TASK,
      seed: SEED,
      steps: options.steps ?? STEPS,
      rowsPerStep: ROWS_PER_STEP,
      maxLength: MAX_LENGTH,
      p,
      experts: experts.count,
      device: { instructionSet, threads },
      seconds: (performance.now() - this.began) / 1000,
      ok,
      checks,
      base,
      methods: [plain(esft), plain(full)],
    };
    await writeFileAtomic(this.at(MARK), formatJson(summary));
    if (options.json) terminal.json(summary);
    else this.report(base, summary);
    return ok;
  }

  private async evaluate(label: string): Promise<Results> {
    const { model, terminal } = this;
    const results: Record<string, Evaluation> = {};
    for (const name of this.rows) {
      terminal.progress(`evaluating ${label}: ${name}`);
      const file = name === TASK ? join(DATA, `${TASK}.eval.jsonl`) : join(DATA, "domains", `${name}.jsonl`);
      results[name] = await model.evaluate(file, { maxLength: MAX_LENGTH }, { signal: terminal.signal });
    }
    terminal.clear();
    return results;
  }

  private async select(): Promise<{ experts: ExpertSet; p: number }> {
    const { model, terminal } = this;
    const data = { maxLength: MAX_LENGTH };
    const profile = await model.profile(TRAIN_FILE, { tokens: 32_768, seed: SEED, data, signal: terminal.signal });
    await profile.save(this.at("profile.json"));
    const { experts, p } = choose(model, profile);
    await experts.save(this.at("experts.json"));
    const { parameters, totalParameters } = esftTrainable(model.spec, experts);
    this.say(`2. profile   ${count(profile.tokens)} tokens of the task "${TASK}", which pretraining never saw`);
    this.say(
      `3. select    token score, p = ${p}: ${experts.count} of ${profile.experts * profile.layers.length} experts, ${percent(parameters / totalParameters)} of the model`,
    );
    return { experts, p };
  }

  private async train(step: string, method: EsftMethod | { readonly type: "full" }, base: Results): Promise<Trained> {
    const { model, terminal, options } = this;
    const { signal } = terminal;
    const name = method.type;
    const run = model.train({
      data: { file: TRAIN_FILE, maxLength: MAX_LENGTH },
      method,
      outDir: this.at(name),
      signal,
      steps: options.steps ?? STEPS,
      rowsPerStep: ROWS_PER_STEP,
      microBatch: ROWS_PER_STEP,
      seed: SEED,
      evalFraction: 0,
      keep: "last",
      optimizer: { lr: LR[name], schedule: "cosine", warmupSteps: 5, minLrRatio: 0.1, weightDecay: 0 },
    });
    for await (const e of run) if (e.type === "step") terminal.progress(`${name}  ${progressLine(e)}`);
    const result = await run.result;
    signal.throwIfAborted();
    const adapter = result.adapter!; // not interrupted
    await model.applyAdapter(adapter);
    const results = await this.evaluate(name);
    model.removeAdapter();
    const { parameters, totalParameters } = result.trainable;
    this.say(
      `${step} ${result.step} steps of ${name === "esft" ? "ESFT" : "full fine-tuning"} in ${duration(result.seconds)}: loss on the task ${base[TASK]!.loss.toFixed(3)} → ${results[TASK]!.loss.toFixed(3)}`,
    );
    return {
      name,
      lr: LR[name],
      seconds: result.seconds,
      trainedParameters: parameters,
      share: parameters / totalParameters,
      adapterBytes: adapter.bytes,
      stateBytes: parameters * STATE_BYTES_PER_PARAMETER,
      results,
      adapter,
    };
  }

  private async mergeAndVerify({ adapter, share, results }: Trained, experts: ExpertSet, base: Results): Promise<void> {
    const { dir } = this;
    const { signal } = this.terminal;
    const merged = this.at("merged");
    const checkpoint = await openCheckpoint(dir);
    const report = await mergeAdapter(checkpoint, adapter, merged, { signal });
    this.say(`5. merge     ${merged}, ${bytes(checkpoint.totalBytes)}, in the base's own layout`);
    const digest = await frozenDigest(await openCheckpoint(merged), adapter.tensors.values());
    const logits = await checkMergedLogits(dir, adapter, merged, { signal });
    const changed = Object.values(report.changedExperts).flat().length;
    this.say("6. verify");
    this.check(
      `reread from disk: ${report.untouched} of ${report.tensors} tensors bit-equal to the base, the others to the adapter`,
      report.ok,
    );
    this.check("the experts that changed are the selected ones", changed === experts.count && report.slices.length === experts.count * 3);
    this.check("digest of the frozen weights: after training as before", digest === adapter.frozenDigest);
    this.check(`logits of the merged model = base + adapter, bit for bit (${logits.values} values)`, logits.ok);
    this.check(`trained share ${percent(share)} ≤ ${percent(MAX_SHARE)} of the model`, share <= MAX_SHARE);
    this.check("ESFT lowers the loss on the task's held-out rows", results[TASK]!.loss < base[TASK]!.loss);
  }

  private report(base: Results, { methods, steps, seconds }: { methods: readonly MethodResult[]; steps: number; seconds: number }): void {
    for (const text of [
      resultTable(this.rows, base, methods),
      methodTable(methods),
      `Same rows, order, ${steps} steps and seed for both; learning rates that forget about equally much. Loss: nats per answer token; acc.: share of answer tokens predicted right.`,
    ])
      this.say(`\n${text}`);
    this.say(
      `adapter ${shown(this.at("esft"))} · merged model ${shown(this.at("merged"))} · figures ${shown(this.at(MARK))} · ${duration(seconds)} in all`,
    );
  }
}

/** What a method led to, and the adapter itself. */
type Trained = MethodResult & { readonly adapter: Adapter };

const shown = (path: string): string => relative(process.cwd(), path) || path;

/** An empty directory for the results. Only what a demo wrote is ever deleted. */
async function prepare(out: string): Promise<void> {
  const entries = await readdir(out).catch(() => [] as string[]);
  const ours = await stat(join(out, MARK)).then(() => true, () => false); // prettier-ignore
  if (entries.length > 0 && !ours)
    throw new ConfigError(`${out} holds other files than the demo's; choose another --out`, { where: { key: "out", file: out } });
  for (const name of ["esft", "full", "merged", "profile.json", "experts.json"])
    await rm(join(out, name), { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  // From here on the directory is known to be the demo's, however it ends.
  await writeFileAtomic(join(out, MARK), formatJson({ running: true }));
}

/** The largest p (in steps of 0.01) whose experts fit MAX_SHARE. */
function choose(model: MoeModel, profile: Profile): { experts: ExpertSet; p: number } {
  for (let i = 99; i >= 1; i--) {
    const experts = profile.select({ score: "token", p: i / 100 });
    const { parameters, totalParameters } = esftTrainable(model.spec, experts);
    if (parameters <= MAX_SHARE * totalParameters) return { experts, p: i / 100 };
  }
  throw new ConfigError(`demo: one expert per layer is more than ${percent(MAX_SHARE)} of this model; use the embedded one`);
}
