// A comparison: every method, learning rate and seed of a plan on every task, one after another on one model. What it leaves below its
// directory lets the same command go on wherever it was killed:
//
//   DIR/ compare.json, compare.times.json, compare.md    what was found
//        plan.json                                       the plan, and the mark of a comparison's directory
//        base/  profiles/TASK/                           figures of the model as it is; what experts are selected from
//        cells/TASK/METHOD/lr-RATE/seed-N/               a run directory, with record.json

import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { z } from "zod";
import { metricsByName } from "../answers/metrics.ts";
import { optionsArgument, pathArgument, shapeArgument } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import { requireApart } from "../files/apart.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { formatJson, readJsonFile } from "../files/json.ts";
import { modelFolder } from "../hub/folder.ts";
import { lastingName } from "../hub/layout.ts";
import { hubReference } from "../hub/reference.ts";
import { MoeModel } from "../moe_model.ts";
import { shown } from "../options.ts";
import { lockRun } from "../train/run_lock.ts";
import { PlanFiles } from "./files.ts";
import { parsePlan } from "./plan.ts";
import type { Plan, PlanInput } from "./plan.ts";
import { readPlan } from "./plan_file.ts";
import { writeComparison } from "./result.ts";
import type { Comparison } from "./result.ts";
import { Session } from "./session.ts";
import type { CompareTask } from "./session.ts";
import { markdownOf } from "./table.ts";
import { carryOutAll } from "./walk.ts";

export interface CompareOptions extends CompareTask {
  /** Directory of the comparison: new, empty, or one of an earlier `compare`, which then goes on. */
  readonly out: string;
  /** The plan's model, where it is open already; it stays open. */
  readonly model?: MoeModel | undefined;
}

const MARK = "plan.json";

/**
 * Trains and evaluates all cells of a plan (an object, or a YAML file), and writes compare.json, compare.times.json and compare.md. Cells
 * that are done are reused, as long as model, rows and options are what they were.
 * @throws ConfigError the plan, with file, line and key; a directory of something else · DataError · LayoutError · LockError · MemoryError ·
 * IoError · AbortError, or what a listener throws: what was reached is kept, and the same call goes on
 */
export async function compare(plan: PlanInput | string, options: CompareOptions): Promise<Comparison> {
  const { out, model, ...task } = optionsArgument(options, "compare: options");
  pathArgument(out, "compare: out");
  const { onNote } = task;
  if (onNote !== undefined && typeof onNote !== "function")
    throw new ConfigError(`compare: options.onNote: expected a function, found ${shown(onNote)}`, { where: { key: "onNote" } });
  if (model !== undefined) shapeArgument(model, ["train", "evaluate", "dir"], "a MoeModel", "compare: model");
  const parsed = typeof plan === "string" ? await readPlan(pathArgument(plan, "compare: plan")) : parsePlan(plan);
  const { signal } = task;
  const open = model !== undefined && hubReference(parsed.model) === null; // told below, if it is another one
  const local = open ? parsed : { ...parsed, model: await modelFolder(parsed.model, { signal, onNote }) };
  if (model !== undefined) requireBase(local, model);
  return carryOut(local, out, model ?? (() => openModel(local, signal)), task);
}

/** An open model is the plan's, as it is. @throws ConfigError */
function requireBase(plan: Plan, model: MoeModel): void {
  const dir = resolve(plan.model);
  const place = { where: { key: "model" } };
  if (model.dir !== dir) throw new ConfigError(`compare: model: expected the plan's, ${dir}, found ${model.dir}`, place);
  if (model.params.overridden)
    throw new ConfigError(
      "compare: model: expected the model as it is, found an adapter applied, whose figures would count as the base's: removeAdapter() first, " +
        "or merge the adapter and compare on the merged model",
      place,
    );
}

/** The same, of a plan that is parsed, whose model is a folder. A model that is open stays so; another one is opened when all else that is cheap was checked. */
export async function carryOut(
  plan: Plan,
  out: string,
  given: MoeModel | (() => Promise<MoeModel>),
  task: CompareTask,
): Promise<Comparison> {
  await requireApart(out, plan.model, "the model", "out");
  if (plan.evaluation.answers) await metricsByName(plan.evaluation.answers.metrics, "plan.evaluation.answers.metrics");
  await using _ = await lockRun(out);
  await requireOwn(out);
  const { signal } = task;
  const files = await PlanFiles.open(plan, signal);
  await writeFileAtomic(
    join(out, MARK),
    formatJson({ format: "esft-compare-plan", version: 1, plan: { ...plan, model: lastingName(plan.model) } }),
  );
  const model = typeof given === "function" ? await given() : given;
  try {
    const identity = await model.identity({ signal });
    const session = new Session({ plan, model, files, identity, out }, task);
    const comparison = await session.listening(() => carryOutAll(session));
    await writeFileAtomic(join(out, "compare.md"), markdownOf(comparison));
    await writeComparison(out, comparison);
    return comparison;
  } finally {
    if (given !== model) await model[Symbol.asyncDispose]();
  }
}

function openModel({ model, device, threads, precision, dequantise }: Plan, signal: AbortSignal | undefined): Promise<MoeModel> {
  return MoeModel.fromPretrained(model, { device, threads, precision, dequantise, signal });
}

/** @throws ConfigError the directory holds something else than a comparison */
async function requireOwn(out: string): Promise<void> {
  const there = (await readdir(out)).filter((name) => !name.startsWith("run.lock") && !/^\.(run\.lock|plan\.json)\./.test(name)); // also of one killed as it began
  if (there.length === 0) return;
  const mark = there.includes(MARK) ? await readJsonFile(join(out, MARK), ConfigError) : null;
  if (!z.object({ format: z.literal("esft-compare-plan") }).safeParse(mark).success)
    throw new ConfigError(`${out} holds other files than a comparison's (${there.slice(0, 3).join(", ")}); choose another --out`, {
      where: { key: "out", file: out },
    });
}
