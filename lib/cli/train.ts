// esft train and esft resume.

import type { Command } from "@commander-js/extra-typings";
import { isList } from "../data/mixture.ts";
import { requireApart } from "../files/apart.ts";
import type { TrainEvent } from "../train/events.ts";
import type { DriftEvent } from "../train/drift.ts";
import type { GuardLoss } from "../train/guard.ts";
import type { Job } from "../train/request.ts";
import { announcePipe, openModel } from "./common.ts";
import { bytes, count, duration, percent } from "../format.ts";
import { JOB_NAMES, jobLeaves, REPEATED } from "./job_options.ts";
import { addSchemaFlags } from "./schema_flags.ts";
import type { Terminal } from "./terminal.ts";

const TENSORBOARD = "folder to write an event file of TensorBoard to, beside events.jsonl";
const EXTEND =
  "when resuming: take more --steps of a schedule that depends on them; the rates of the steps left are those of the longer one";

export function registerTrain(program: Command, terminal: Terminal): void {
  const train = program
    .command("train")
    .description("train the selected experts (or everything) of a checkpoint on a task; resumable")
    .argument("[config]", "YAML or JSON file with the same options; flags win");
  const read = addSchemaFlags(train, jobLeaves, JOB_NAMES, REPEATED);
  train
    .option("--resume", "go on from the checkpoint in the run directory when there is one")
    .option("--extend", EXTEND)
    .option("--tensorboard <dir>", TENSORBOARD)
    .option("--json", "print the events as JSON lines")
    .addHelpText(
      "after",
      `
Every option also has a dotted form (--optimizer.lr, --data.max-length). A file takes the same
names, short, dotted or nested:
  model: ./OLMoE-1B-7B
  data: law.jsonl                 # or {file: law.jsonl, template: esft, maxLength: 4096}
                                  # or [{file: law.csv, weight: 2}, {file: chat.parquet, weight: 1}]
  method: {type: esft, experts: law.experts.json}
  outDir: out/law
  optimizer: {lr: 1.0e-5, schedule: cosine}
Examples:
  esft train law.yaml --steps 1000 --lr 2e-5
  esft train --model ./OLMoE-1B-7B --data law.jsonl --experts law.experts.json --out out/law --steps 500
  esft train --model ./OLMoE-1B-7B --data law.csv=2 --data chat.parquet=1 --method lora --out out/mix
  esft train --model ./OLMoE-1B-7B --data law.jsonl --profile law.profile.json --score token --p 0.2 --out out/law
An interrupt (Ctrl-C) writes a checkpoint and stops; esft resume goes on to the same bits.`,
    )
    .action(async (config, flags) => {
      const { readJob } = await import("./job.ts");
      const control = { resume: flags.resume ?? false, extend: flags.extend ?? false, signal: terminal.signal };
      await runJob(await readJob(config ?? null, read(flags), control), flags, terminal);
    });

  const resume = program
    .command("resume")
    .description("go on with an interrupted run; the run directory holds all it needs")
    .argument("<dir>", "run directory (--out of esft train)");
  const mayChange = new Set([
    "steps",
    "epochs",
    "earlyStop.patience",
    "earlyStop.minDelta",
    "maxHours",
    "guard.every",
    "guard.maxRise",
    "guard.stop",
    "keep",
    "saveEvery",
    "threads",
    "device",
    "model",
    "data.file",
  ]);
  const readChanges = addSchemaFlags(
    resume,
    jobLeaves.filter((l) => mayChange.has(l.path.join("."))),
    JOB_NAMES,
    REPEATED,
  );
  resume
    .option("--extend", EXTEND)
    .option("--tensorboard <dir>", TENSORBOARD)
    .option("--json", "print the events as JSON lines")
    .addHelpText(
      "after",
      "\nExamples:\n  esft resume out/law\n  esft resume out/law --steps 1000 --extend\n  esft resume out/law --model /new/place/of/OLMoE-1B-7B",
    )
    .action(async (dir, flags) => {
      const { readRunJob } = await import("./job.ts");
      const control = { resume: true, extend: flags.extend ?? false, signal: terminal.signal };
      await runJob(await readRunJob(dir, readChanges(flags), control), flags, terminal);
    });
}

/** What parameters are to the model, for people. */
const ROLES: Readonly<Record<Trained[number]["role"], string>> = {
  embedding: "the embedding",
  attention: "attention",
  norm: "norms",
  router: "routers",
  selectionBias: "selection biases",
  expert: "routed experts",
  shared: "shared experts",
  dense: "dense MLPs",
  head: "the head",
  constant: "constants",
};

interface Shown {
  readonly json?: true | undefined;
  readonly tensorboard?: string | undefined;
}

async function runJob({ model: dir, request, ...machine }: Job, { json, tensorboard }: Shown, terminal: Terminal): Promise<void> {
  // First: what it refuses is told before a large model is read.
  await using board = tensorboard === undefined ? null : await openBoard(tensorboard, dir, terminal);
  await using model = await openModel(dir, machine, terminal);
  const guarded = request.guard?.files.map(({ file }) => file) ?? [];
  const named = [...(isList(request.data) ? request.data.map((of) => of.file) : [request.data]), request.evalData, ...guarded];
  for (const rows of named) if (typeof rows === "string") await announcePipe(rows, terminal);
  const run = model.train(request);
  for await (const event of run) {
    if (json) terminal.jsonLine(event);
    else show(event, terminal);
    await board?.add(event);
  }
  const { adapter, trainable, outDir, ...summary } = await run.result;
  const { best, firstEval, lastEval, seconds, step, tokens, reason } = summary;
  const { parameters: trainedParameters, totalParameters } = trainable;
  const share = trainedParameters / totalParameters;
  if (json) terminal.jsonLine({ type: "result", ...summary, outDir, trainedParameters, share, adapterBytes: adapter?.bytes ?? null });
  if (reason === "interrupted" || !adapter) {
    terminal.note(`checkpoint at step ${step} in ${outDir}; go on with: esft resume ${outDir}`);
    terminal.signal.throwIfAborted();
    return;
  }
  if (json) return;
  terminal.print(
    `adapter: ${outDir} (${count(adapter.parameters)} parameters, ${percent(adapter.parameters / totalParameters)} of the model, ${bytes(adapter.bytes)})`,
  );
  if (firstEval !== null && lastEval !== null)
    terminal.print(
      `held-out loss ${firstEval.toFixed(4)} → ${lastEval.toFixed(4)}${best ? `, best ${best.loss.toFixed(4)} at step ${best.step}${request.options.keep === "best" ? " (kept)" : ""}` : ""}`,
    );
  terminal.print(`${step} steps, ${count(tokens)} tokens, ${duration(seconds)}`);
}

/** A log that cannot be written ends with a warning: the run does not depend on it. */
async function openBoard(folder: string, model: string, terminal: Terminal) {
  await requireApart(folder, model, "the model", "tensorboard");
  const { TensorBoardLog } = await import("../report/tensorboard.ts");
  const log = await TensorBoardLog.open(folder);
  let failed = false;
  return {
    add: async (event: TrainEvent): Promise<void> => {
      if (failed) return;
      await log.add(event).catch((error: Error) => {
        failed = true;
        terminal.note(`warning: ${error.message}; the run goes on without it`);
      });
    },
    [Symbol.asyncDispose]: () => log[Symbol.asyncDispose](),
  };
}

type Trained = Extract<TrainEvent, { type: "start" }>["trained"];

function showTrained(trained: Trained, terminal: Terminal): void {
  for (const { role, attached, tensors, parameters } of trained)
    terminal.note(`  trains ${attached ? "beside " : ""}${ROLES[role]}: ${tensors} tensors, ${count(parameters)} parameters`);
}

const frozenRouters = (layers: readonly number[]): string =>
  layers.length === 0 ? "" : `; no target names the routers of layers ${layers.join(", ")}, which stay frozen`;

function show(event: TrainEvent, terminal: Terminal): void {
  switch (event.type) {
    case "start":
      terminal.note(
        `${event.step > 0 ? `going on from step ${event.step}: ` : ""}${event.method}, ${count(event.trainedParameters)} of ${count(event.totalParameters)} parameters train ` +
          `(${percent(event.trainedParameters / event.totalParameters)}); state ${bytes(event.stateBytes)}, activations ${bytes(event.activationBytes)}, host ${bytes(event.hostBytes)}; ` +
          `${event.examples} examples, ${event.heldOut} held out`,
      );
      if (event.epochs !== undefined)
        terminal.note(`  ${event.epochs} epoch${event.epochs === 1 ? "" : "s"}: ${event.epochRows} rows, ${event.steps} updates`);
      for (const of of event.files ?? [])
        terminal.note(
          `  ${of.file}: ${of.rows} rows, ${count(of.tokens)} tokens; ${of.rowsPerEpoch} rows of an epoch (${percent(of.share)})` +
            (of.rowsPerEpoch > of.rows ? `, each ${(of.rowsPerEpoch / of.rows).toFixed(1)} times: it repeats` : ""),
        );
      showTrained(event.trained, terminal);
      if (event.straightThrough)
        terminal.note(
          `  routers straight through: every backward runs all experts on all tokens, ${percent(event.straightThrough.flops)} more ` +
            `multiply-adds a step and ${bytes(event.straightThrough.bytes)} more memory${frozenRouters(event.straightThrough.frozen)}`,
        );
      if (event.reallocation)
        terminal.note(
          `  ranks are re-allocated (${event.reallocation.kind}): ${event.reallocation.rank} per expert on average, memory for ${event.reallocation.maxRank}`,
        );
      return;
    case "stage":
      terminal.note(`stage ${event.stage} of ${event.of} begins with step ${event.step}`);
      showTrained(event.trained, terminal);
      return;
    case "reallocate":
      terminal.note(`step ${event.step}: ${event.columns} ranks went from one expert to another`);
      return;
    case "step":
      terminal.progress(progressLine(event), event.step === event.steps);
      return;
    case "eval":
      terminal.note(
        `step ${event.step}: held-out loss ${event.loss.toFixed(4)}, accuracy ${percent(event.accuracy)}${event.best ? " (best)" : ""}`,
      );
      return;
    case "guard":
      terminal.note(`step ${event.step}: guard: ${event.files.map(guardWords).join(", ")}`);
      return;
    case "drift":
      terminal.note(`step ${event.step}: ${driftWords(event)}`);
      return;
    case "sample":
      terminal.note(
        `step ${event.step}: ${quoted(event.prompt, -60)} → ${quoted(event.answer, 120)}, wanted ${quoted(event.reference, 120)}`,
      );
      return;
    case "warning":
      terminal.note(`warning: ${event.message}`);
      return;
    case "extend":
      terminal.note(`step ${event.step}: the schedule of ${event.from} steps goes on to ${event.to}`);
      return;
    case "done":
      if (event.message !== undefined) terminal.note(`step ${event.step}: the run ends here: ${event.message}`);
      return;
    case "checkpoint":
      return;
    default:
      event satisfies never;
  }
}

const guardWords = ({ name, loss, rise }: GuardLoss): string => `${name} ${loss.toFixed(4)} (${rise < 0 ? "" : "+"}${rise.toFixed(4)})`;

const driftWords = ({ since, shift, chance, kept }: DriftEvent): string =>
  `routing: ${percent(shift)} of slots at other experts than in the ${since} (${percent(chance)} by chance)` +
  (kept === undefined ? "" : `, ${percent(kept)} of the trained experts would be selected again`);

/** A text in quotes on one line: its first characters, or its last ones where `most` is negative. */
function quoted(text: string, most: number): string {
  const all = [...text];
  if (all.length <= Math.abs(most)) return JSON.stringify(text);
  return most < 0 ? `… ${JSON.stringify(all.slice(most).join(""))}` : `${JSON.stringify(all.slice(0, most).join(""))} …`;
}

/** One line: where it is, how it goes, how long it takes. */
export function progressLine(e: Extract<TrainEvent, { type: "step" }>): string {
  return [
    `step ${e.step}/${e.steps}`,
    `loss ${e.loss.toFixed(4)}`,
    `acc ${percent(e.accuracy)}`,
    `norm ${e.gradNorm.toPrecision(3)}`,
    `lr ${e.lr.toExponential(1)}`,
    ...(e.coverage === undefined ? [] : [`hits ${percent(e.coverage)}`]),
    ...(e.alwaysActive === undefined ? [] : [`condensed ${e.alwaysActive}`]),
    `${count(e.tokensPerSecond)} tok/s`,
    `ETA ${duration(e.etaSeconds)}`,
  ].join("  ");
}
