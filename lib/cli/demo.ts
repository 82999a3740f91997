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
import { MoeModel } from "../moe_model.ts";
import { packageRoot } from "../native.ts";
import { esftTrainable } from "../methods/trainable.ts";
import type { Evaluation } from "../train/evaluate.ts";
import type { EsftMethod } from "../train/run.ts";
import { bytes, count, duration, percent, table } from "./format.ts";
import type { Terminal } from "./terminal.ts";
import { progressLine } from "./train.ts";

export interface DemoOptions {
  readonly model?: string;
  readonly out: string;
  readonly steps?: number;
  readonly threads?: number;
  readonly json?: boolean;
}

const TASK = "booking";
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

interface Method {
  readonly name: string;
  readonly lr: number;
  readonly seconds: number;
  readonly trainedParameters: number;
  readonly share: number;
  readonly adapterBytes: number;
  readonly stateBytes: number;
  readonly results: Readonly<Record<string, Evaluation>>;
}

/** @returns whether every check passed */
export async function runDemo(options: DemoOptions, terminal: Terminal): Promise<boolean> {
  const began = performance.now();
  const { signal } = terminal;
  const dir = options.model ?? join(packageRoot, "examples", "embedded");
  const data = join(packageRoot, "examples", "embedded", "data");
  const domains = (await readdir(join(data, "domains"))).map((f) => f.replace(/\.jsonl$/, "")).sort();
  const fileOf = (name: string): string => (name === TASK ? join(data, `${TASK}.eval.jsonl`) : join(data, "domains", `${name}.jsonl`));
  const trainFile = join(data, `${TASK}.train.jsonl`);
  const out = options.out;
  await prepare(out);
  const say = (text: string): void => terminal.print(text);
  const checks: { name: string; ok: boolean }[] = [];
  const check = (name: string, ok: boolean): void => {
    checks.push({ name, ok });
    say(`  ${ok ? "ok    " : "FAILED"} ${name}`);
  };

  const model = await MoeModel.fromPretrained(dir, { device: "cpu", signal, ...(options.threads ? { threads: options.threads } : {}) });
  try {
    const { instructionSet, threads } = model.device.info;
    say(`1. model     ${dir}: ${model.spec.modelType}, ${instructionSet}, ${threads} threads`);
    const dataOptions = { maxLength: MAX_LENGTH };
    const evaluate = async (label: string): Promise<Record<string, Evaluation>> => {
      const results: Record<string, Evaluation> = {};
      for (const name of [TASK, ...domains]) {
        terminal.progress(`evaluating ${label}: ${name}`);
        results[name] = await model.evaluate(fileOf(name), dataOptions, { signal });
      }
      terminal.clear();
      return results;
    };
    const base = await evaluate("the base");

    const profile = await model.profile(trainFile, { tokens: 32_768, seed: SEED, data: dataOptions, signal });
    await profile.save(join(out, "profile.json"));
    const { set, p } = choose(model, profile);
    await set.save(join(out, "experts.json"));
    const planned = esftTrainable(model.spec, set);
    say(`2. profile   ${count(profile.tokens)} tokens of the task "${TASK}", which pretraining never saw`);
    say(
      `3. select    token score, p = ${p}: ${set.count} of ${profile.expertCount} experts, ${percent(planned.parameters / planned.totalParameters)} of the model`,
    );

    const train = async (step: string, method: "esft" | "full"): Promise<Method & { adapter: Adapter }> => {
      const outDir = join(out, method);
      const request: EsftMethod | { type: "full" } = method === "esft" ? { type: "esft", experts: set } : { type: "full" };
      const run = model.train({
        data: { file: trainFile, ...dataOptions },
        method: request,
        outDir,
        signal,
        steps: options.steps ?? STEPS,
        rowsPerStep: ROWS_PER_STEP,
        microBatch: ROWS_PER_STEP,
        seed: SEED,
        evalFraction: 0,
        keep: "last",
        optimizer: { lr: LR[method], schedule: "cosine", warmupSteps: 5, minLrRatio: 0.1, weightDecay: 0 },
      });
      for await (const e of run) if (e.type === "step") terminal.progress(`${method}  ${progressLine(e)}`);
      const result = await run.result;
      signal.throwIfAborted();
      const adapter = result.adapter!;
      await model.applyAdapter(adapter);
      const results = await evaluate(method);
      model.removeAdapter();
      const { parameters, totalParameters } = result.trainable;
      say(
        `${step} ${result.step} steps of ${method === "esft" ? "ESFT" : "full fine-tuning"} in ${duration(result.seconds)}: loss on the task ${base[TASK]!.loss.toFixed(3)} → ${results[TASK]!.loss.toFixed(3)}`,
      );
      return {
        name: method,
        lr: LR[method],
        seconds: result.seconds,
        trainedParameters: parameters,
        share: parameters / totalParameters,
        adapterBytes: adapter.bytes,
        stateBytes: parameters * 16,
        results,
        adapter,
      };
    };
    const esft = await train("4. train    ", "esft");

    const merged = join(out, "merged");
    const checkpoint = await openCheckpoint(dir);
    const report = await mergeAdapter(checkpoint, esft.adapter, merged, { signal });
    say(`5. merge     ${merged}, ${bytes(checkpoint.totalBytes)}, in the base's own layout`);
    const digest = await frozenDigest(await openCheckpoint(merged), esft.adapter.tensors.values());
    const logits = await checkMergedLogits(dir, esft.adapter, merged, { signal });
    say("6. verify");
    check(`reread from disk: ${report.untouched} of ${report.tensors} tensors bit-equal to the base, the others to the adapter`, report.ok);
    check(
      "the experts that changed are the selected ones",
      Object.values(report.changedExperts).flat().length === set.count && report.slices.length === set.count * 3,
    );
    check("digest of the frozen weights: after training as before", digest === esft.adapter.frozenDigest);
    check(`logits of the merged model = base + adapter, bit for bit (${logits.values} values)`, logits.ok);
    check(`trained share ${percent(esft.share)} ≤ ${percent(MAX_SHARE)} of the model`, esft.share <= MAX_SHARE);
    check("ESFT lowers the loss on the task's held-out rows", esft.results[TASK]!.loss < base[TASK]!.loss);

    const full = await train("7. compare  ", "full");

    const rows = [TASK, ...domains];
    const seconds = (performance.now() - began) / 1000;
    const ok = checks.every((c) => c.ok);
    const plain = ({ adapter: _, ...m }: Method & { adapter: Adapter }): Method => m;
    const summary = {
      model: dir,
      task: TASK,
      seed: SEED,
      steps: options.steps ?? STEPS,
      rowsPerStep: ROWS_PER_STEP,
      maxLength: MAX_LENGTH,
      p,
      experts: set.count,
      device: { instructionSet, threads },
      seconds,
      ok,
      checks,
      base,
      methods: [plain(esft), plain(full)],
    };
    await writeFileAtomic(join(out, MARK), formatJson(summary));
    if (options.json) terminal.json(summary);
    else {
      say("");
      say(resultTable(rows, base, [esft, full]));
      say("");
      say(methodTable([esft, full]));
      say("");
      say(
        `Same rows, order, ${summary.steps} steps and seed for both; learning rates that forget about equally much. Loss: nats per answer token; acc.: share of answer tokens predicted right.`,
      );
      say(
        `adapter ${shown(join(out, "esft"))} · merged model ${shown(merged)} · figures ${shown(join(out, MARK))} · ${duration(seconds)} in all`,
      );
    }
    return ok;
  } finally {
    await model[Symbol.asyncDispose]();
  }
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
  await mkdir(out, { recursive: true });
  // From here on the directory is known to be the demo's, however it ends.
  await writeFileAtomic(join(out, MARK), formatJson({ running: true }));
}

/** The largest p (in steps of 0.01) whose experts fit MAX_SHARE. */
function choose(model: MoeModel, profile: Profile): { set: ExpertSet; p: number } {
  for (let i = 99; i >= 1; i--) {
    const set = profile.select({ score: "token", p: i / 100 });
    const { parameters, totalParameters } = esftTrainable(model.spec, set);
    if (parameters <= MAX_SHARE * totalParameters) return { set, p: i / 100 };
  }
  throw new ConfigError(`demo: one expert per layer is more than ${percent(MAX_SHARE)} of this model; use the embedded one`);
}

function resultTable(rows: readonly string[], base: Readonly<Record<string, Evaluation>>, methods: readonly Method[]): string {
  const change = (x: number): string => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(3)}`;
  const others = rows.slice(1);
  const mean = (of: Readonly<Record<string, Evaluation>>, key: "loss" | "accuracy"): number =>
    others.reduce((s, name) => s + of[name]![key], 0) / others.length;
  const line = (
    label: string,
    loss: (of: Readonly<Record<string, Evaluation>>) => number,
    accuracy: (of: Readonly<Record<string, Evaluation>>) => number,
  ) => [
    label,
    loss(base).toFixed(3),
    ...methods.flatMap((m) => [loss(m.results).toFixed(3), change(loss(m.results) - loss(base))]),
    percent(accuracy(base)),
    ...methods.map((m) => percent(accuracy(m.results))),
  ];
  const one = (name: string) => line(name === TASK ? `${name} (the task)` : name, (of) => of[name]!.loss, (of) => of[name]!.accuracy); // prettier-ignore
  return table(
    ["held-out rows", "base loss", "ESFT", "change", "full", "change", "base acc.", "ESFT", "full"],
    [...rows.map(one), line("mean of the others", (of) => mean(of, "loss"), (of) => mean(of, "accuracy"))], // prettier-ignore
  );
}

function methodTable(methods: readonly Method[]): string {
  return table(
    ["method", "learning rate", "time", "trained parameters", "share of model", "adapter", "training state"],
    methods.map((m) => [
      m.name === "esft" ? "ESFT" : "full",
      m.lr.toExponential(),
      duration(m.seconds),
      count(m.trainedParameters),
      percent(m.share),
      bytes(m.adapterBytes),
      bytes(m.stateBytes),
    ]),
  );
}
