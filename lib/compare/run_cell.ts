// One cell: a training run in a directory of its own, resumed where it was killed, left alone where it is done and would come out the
// same.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { Adapter } from "../adapter/adapter.ts";
import { isAdapterDir } from "../adapter/folder.ts";
import { MANIFEST } from "../adapter/manifest.ts";
import { NonFiniteError } from "../errors.ts";
import { expertLayout } from "../experts/expert_set.ts";
import type { ExpertSet } from "../experts/expert_set.ts";
import type { Profile } from "../experts/profile.ts";
import { disk } from "../files/disk.ts";
import { formatJson } from "../files/json.ts";
import { sha256 } from "../files/hash.ts";
import { readTextFile } from "../files/regular.ts";
import { throwIfAborted } from "../task.ts";
import { EVENTS } from "../train/events.ts";
import type { MethodOptions } from "../train/method_options.ts";
import { CheckedRequest } from "../train/request.ts";
import type { TrainRequest } from "../train/request.ts";
import { expertsOf } from "../train/resolve_method.ts";
import { eventsOf, readRunLog } from "../train/run_log.ts";
import { cellDir } from "./cells.ts";
import type { Cell } from "./cells.ts";
import { placed } from "./place.ts";
import type { PlanMethod } from "./plan.ts";
import { RunRecord } from "./record.ts";
import type { Facts, Trained } from "./record.ts";
import type { Session } from "./session.ts";
import { meanOf } from "./statistics.ts";
import { selectsOnTask } from "./task_profile.ts";

/** What a method is on a task: with the experts that it selects there. */
export interface Resolved {
  readonly method: MethodOptions;
  readonly experts: ExpertSet | null;
  /** Share of the profile's routed slots that these experts got; null where nothing was profiled, or they are all. */
  readonly coverage: number | null;
}

/** @throws ConfigError the selection does not fit · IoError */
export async function resolveOnTask(s: Session, task: string, { name, method }: PlanMethod, profile: Profile | null): Promise<Resolved> {
  if (method.type !== "esft" && method.type !== "lora") return { method, experts: null, coverage: null };
  const { experts, profile: file, select, ...rest } = method;
  const source = { experts, select, profile: profile !== null && selectsOnTask({ method } as PlanMethod) ? profile : file };
  const warn = (text: string): void => s.noteOnce(task, name, text);
  const set = await expertsOf(s.model, source, warn).catch((error: unknown) => {
    throw placed(error, `${task}, ${name}`);
  });
  if (set === null) return { method, experts: null, coverage: null };
  for (const warning of set.warnings) warn(warning);
  const all = [...expertLayout(s.model.spec)].every(([layer, n]) => set.ids(layer).length === n);
  const coverage = profile === null || all ? null : shareOf(set, profile);
  return { method: { ...rest, experts: set } as MethodOptions, experts: set, coverage };
}

/** Mean over the sparse layers of what their selected experts got. */
function shareOf(set: ExpertSet, profile: Profile): number {
  const share = meanOf(profile.layers.map((layer) => {
    const scores = profile.scores(layer, { score: "token" });
    return set.ids(layer).reduce((sum, id) => sum + scores[id]!, 0);
  })); // prettier-ignore
  return Math.min(1, share ?? 0);
}

function requestOf(s: Session, { task, method, lr, seed, id }: Cell, resolved: Resolved): CheckedRequest {
  const { name: _, train, validation, test: _t, answers: _a, ...data } = task;
  const { steps, rowsPerStep, microBatch, evalEvery, evalRows, saveEvery, keep } = s.plan;
  const { auxLoss, adapterDtype, stages, optimizer } = method;
  return CheckedRequest.parse({
    data: { file: train, ...data },
    // The last adapter needs no losses on the way.
    ...(keep === "best" ? { evalData: validation, evalEvery, evalRows } : { evalFraction: 0, evalEvery: 0 }),
    method: resolved.method as TrainRequest["method"],
    outDir: cellDir(s.out, { id }),
    steps,
    rowsPerStep,
    microBatch,
    seed,
    saveEvery,
    keep,
    auxLoss,
    adapterDtype,
    stages,
    optimizer: { ...optimizer, lr },
    resume: true,
    signal: s.signal,
  });
}

/** All that the trained values rest on: not how often a run saves, or tells where its routing is. */
function factsOf(s: Session, { task }: Cell, { options, method }: CheckedRequest, { experts }: Resolved): Facts {
  const { data, saveEvery: _, driftEvery: _d, maxDrift: _m, ...rest } = options;
  const { experts: _e, profile: _p, select: _s, ...how } = method as MethodOptions & Record<string, unknown>;
  return {
    ...s.modelFacts,
    rows: s.files.dataFacts(task.train, data),
    validation: options.keep === "best" ? s.files.sha256(task.validation) : null,
    method: how,
    experts: experts === null ? null : sha256(formatJson(experts.toJSON())),
    ...rest,
  };
}

/**
 * Trains a cell as far as it is not done yet.
 * @throws what ends the comparison, naming the cell; not gradients that are not finite, which are a result
 */
export async function trainCell(s: Session, cell: Cell, resolved: Resolved): Promise<RunRecord> {
  const { id, method } = cell;
  const kind = `train ${method.name}` as const;
  const request = requestOf(s, cell, resolved);
  const dir = cellDir(s.out, cell);
  const facts = factsOf(s, cell, request, resolved);
  let record = await RunRecord.open(dir, facts, (keys) => s.note(`${id} is trained again: ${keys.join(", ")} changed`));
  if (record.trained !== null) {
    const { diverged, adapter } = record.trained;
    if (diverged !== null || (adapter !== null && adapter === (await adapterHash(dir)))) {
      s.outlook.skip(kind, s.plan.steps);
      return record;
    }
    s.note(`${id}: adapter.json is not the one that was recorded; the run goes on from its checkpoint, or begins anew`);
    // The last adapter is made from the checkpoint again; the best one lay there alone.
    if (s.plan.keep === "best") record = await RunRecord.anew(dir, facts);
    else await disk.rm(join(dir, MANIFEST), { force: true });
  }
  await s.files.requireUnchanged();
  const run = s.model.train(request);
  let left = s.plan.steps;
  try {
    for await (const event of run) {
      if (event.type === "start") {
        s.outlook.skip(kind, event.step);
        left -= event.step;
      } else if (event.type === "step") {
        s.outlook.spent(kind, 1, event.seconds);
        left--;
        s.progress(id, "train", event.step, event.steps);
      } else if (event.type === "warning" && event.step === 0) s.noteOnce(cell.task.name, method.name, event.message); // of rows and selections
      else if (event.type === "warning") s.note(`${id}: ${event.message}`);
    }
    const { seconds } = await run.result;
    throwIfAborted(s.signal, "the comparison");
    await s.files.requireUnchanged(); // before the run counts as one of these rows
    await record.finish(await summaryOf(dir, resolved, seconds));
  } catch (error) {
    if (!(error instanceof NonFiniteError)) throw placed(error, id);
    s.outlook.skip(kind, left);
    await markDiverged(s, record, id, error, resolved);
  }
  return record;
}

/** The run is no result: its rate was too high. */
export async function markDiverged(s: Session, record: RunRecord, id: string, error: NonFiniteError, resolved: Resolved): Promise<void> {
  const diverged = divergedWords(error);
  s.note(`${id} diverged: ${diverged}`);
  const figures = await summaryOf(record.dir, resolved, 0);
  await record.finish({ ...figures, adapterBytes: null, adapter: null, counted: null, diverged, times: null });
}

/** The same wherever the run was interrupted and however often it was saved: which checkpoint is intact is left out. */
function divergedWords({ message, where, cause }: NonFiniteError): string {
  if (!(cause instanceof NonFiniteError)) return message;
  const found = cause.message.split(" (", 1)[0]!.split(":", 2).join(":");
  return `the trained weights are not finite after ${where["step"]} updates (${found})`;
}

async function summaryOf(dir: string, { experts }: Resolved, seconds: number): Promise<Trained> {
  const log = await readRunLog(join(dir, EVENTS));
  const steps = eventsOf(log, "step");
  const start = eventsOf(log, "start").at(-1);
  const stepSeconds = steps.reduce((sum, e) => sum + e.seconds, 0);
  const tokens = steps.reduce((sum, e) => sum + e.tokens, 0);
  const hits = steps.flatMap((e) => e.coverage ?? []);
  return {
    diverged: null,
    steps: steps.length,
    tokens,
    trainedParameters: start?.trainedParameters ?? null,
    trainedShare: start ? Math.min(1, start.trainedParameters / start.totalParameters) : null,
    stateBytes: start?.stateBytes ?? null,
    activationBytes: start?.activationBytes ?? null,
    adapterBytes: await adapterBytes(dir),
    adapter: await adapterHash(dir),
    experts: experts?.count ?? null,
    counted: hits.length === steps.length ? meanOf(hits) : null,
    times:
      steps.length === 0
        ? null
        : { secondsPerStep: stepSeconds / steps.length, stepSeconds, tokensPerSecond: tokens / stepSeconds, trainSeconds: seconds },
  };
}

async function adapterBytes(dir: string): Promise<number | null> {
  return (await isAdapterDir(dir)) ? (await Adapter.load(dir)).bytes : null;
}

/** sha256 of adapter.json; null where there is none. */
async function adapterHash(dir: string): Promise<string | null> {
  const file = join(dir, MANIFEST);
  return existsSync(file) ? sha256(await readTextFile(file, 100_000_000, "replace")) : null;
}
