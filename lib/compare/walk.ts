// The walk over the cells of a plan: the base first, then task by task what methods select by, every run with its validation loss, the
// choice of rates, and the test rows of what was chosen.

import { metricsByName } from "../answers/metrics.ts";
import { NonFiniteError } from "../errors.ts";
import { fullTrainable } from "../methods/full.ts";
import { cellCount, cellDir, cellsOf, methodsOn, searched, seedsOf } from "./cells.ts";
import type { Cell } from "./cells.ts";
import { candidate, chooseRate, ruleOf } from "./choose.ts";
import { answerAll, evaluateAll, figuresOf, othersOf, scoresOf, testOf, validationOf } from "./measure.ts";
import type { PlanMethod, PlanTask } from "./plan.ts";
import { RunRecord } from "./record.ts";
import type { CellTimes, CompareCell, CompareResult, Comparison, Figures } from "./result.ts";
import { markDiverged, resolveOnTask, trainCell } from "./run_cell.ts";
import type { Resolved } from "./run_cell.ts";
import type { Session } from "./session.ts";
import { differencesOf, measuresOf, summaryOf } from "./summary.ts";
import { needsProfile, profileOf } from "./task_profile.ts";

/** Of one task: what its cells came to. */
interface TaskOutcome {
  readonly cells: CompareCell[];
  readonly choices: CompareResult["choices"];
  readonly times: Record<string, CellTimes>;
  readonly profileSeconds: number | null;
}

/** @throws what ends the comparison */
export async function carryOutAll(s: Session): Promise<Comparison> {
  const { plan } = s;
  outlook(s);
  const base = await measureBase(s);
  const outcomes: TaskOutcome[] = [];
  for (const task of plan.tasks) outcomes.push(await compareOn(s, task));
  const { device, transformer, spec } = s.model;
  const metrics = plan.evaluation.answers ? await metricsByName(plan.evaluation.answers.metrics) : [];
  const hashed = (file: string) => ({ file, sha256: s.files.sha256(file) });
  const { model: _m, device: _d, threads: _t, precision: _p, dequantise: _q, saveEvery: _s, ...asked } = plan;
  const found = {
    seeds: plan.seeds,
    tasks: plan.tasks.map(({ name, train, validation, test, answers }) => ({
      name,
      train: hashed(train),
      validation: hashed(validation),
      test: hashed(test),
      answers: plan.evaluation.answers ? hashed(answers ?? test) : null,
    })),
    others: plan.others.map(({ name, file }) => ({ name, ...hashed(file) })),
    methods: plan.methods.map(({ name, method, lr }) => ({ name, type: method.type, lr })),
    base,
    cells: outcomes.flatMap(({ cells }) => cells),
    choices: outcomes.flatMap(({ choices }) => choices),
  };
  const measures = measuresOf(found, metrics.map(({ name }) => name)); // prettier-ignore
  const { instructionSet, threads } = device.info;
  return {
    result: {
      format: "esft-compare",
      version: 1,
      model: {
        name: s.model.name,
        type: spec.modelType,
        fingerprint: s.identity.fingerprint,
        parameters: fullTrainable(spec).totalParameters,
      },
      device: { backend: device.info.backend, precision: transformer.precision },
      plan: JSON.parse(JSON.stringify(asked)) as Record<string, unknown>,
      ...found,
      measures,
      rule: ruleOf(plan.rateSeeds),
      summary: summaryOf(found, measures),
      differences: differencesOf(found, measures),
    },
    times: {
      format: "esft-compare-times",
      version: 1,
      device: { instructionSet, threads },
      cells: Object.assign({}, ...outcomes.map(({ times }) => times)) as Record<string, CellTimes>,
      profileSeconds: Object.fromEntries(plan.tasks.flatMap(({ name }, i) => {
        const { profileSeconds } = outcomes[i]!;
        return profileSeconds === null ? [] : [[name, profileSeconds]];
      })), // prettier-ignore
    },
  };
}

/** All the work that there is, whether or not it was done before. */
function outlook(s: Session): void {
  const { plan } = s;
  const { tasks, steps, evaluation } = plan;
  s.cells = cellCount(plan);
  for (const task of tasks) {
    const methods = methodsOn(plan, task.name);
    for (const method of methods) {
      const runs = cellCount({ ...plan, tasks: [task], methods: [method] });
      s.outlook.add(`train ${method.name}`, steps * runs);
      s.outlook.add(`evaluate ${validationOf(task).name}`, runs);
    }
    const chosen = methods.reduce((n, method) => n + seedsOf(plan, method).length, 0);
    if (needsProfile(plan, task)) s.outlook.add(`profile ${task.name}`, 1);
    s.outlook.add(`evaluate ${validationOf(task).name}`, 1);
    s.outlook.add(`evaluate ${testOf(task).name}`, 1 + chosen);
    if (evaluation.answers) s.outlook.add(`answers ${task.name}`, 1 + chosen);
    for (const other of othersOf(s)) s.outlook.add(`evaluate ${other.name}`, chosen);
  }
  for (const other of othersOf(s)) s.outlook.add(`evaluate ${other.name}`, 1);
}

async function measureBase(s: Session): Promise<CompareResult["base"]> {
  const record = await RunRecord.open(s.at("base"), s.modelFacts, (keys) =>
    s.note(`the base is measured again: ${keys.join(", ")} changed`),
  );
  const base = { id: "base", record, adapter: null };
  const tasks: CompareResult["base"]["tasks"] = {};
  for (const task of s.plan.tasks) {
    await evaluateAll(s, base, [validationOf(task), testOf(task)]);
    await answerAll(s, base, task);
    const [validation, test] = [figuresOf(s, record, validationOf(task))!, figuresOf(s, record, testOf(task))!]; // not finite is an error here
    tasks[task.name] = { validation, test, answers: await scoresOf(s, record, task) };
  }
  await evaluateAll(s, base, othersOf(s));
  return { tasks, others: othersFigures(s, record) };
}

/** By domain; those that are not finite are left out. */
function othersFigures(s: Session, record: RunRecord): Record<string, Figures> {
  const rows = othersOf(s);
  return Object.fromEntries(
    s.plan.others.flatMap(({ name }, i) => {
      const figures = figuresOf(s, record, rows[i]!);
      return figures === null ? [] : [[name, figures]];
    }),
  );
}

/** A cell that was carried out. */
interface Done {
  readonly cell: Cell;
  readonly record: RunRecord;
  readonly resolved: Resolved;
}

async function compareOn(s: Session, task: PlanTask): Promise<TaskOutcome> {
  const profiled = needsProfile(s.plan, task) ? await profileOf(s, task) : null;
  const resolved = new Map<string, Resolved>();
  const methods = methodsOn(s.plan, task.name);
  for (const method of methods) resolved.set(method.name, await resolveOnTask(s, task.name, method, profiled?.profile ?? null));
  const all = cellsOf({ ...s.plan, tasks: [task] });
  const found = new Map<string, Done>();
  const run = async (cell: Cell): Promise<void> => {
    const of = resolved.get(cell.method.name)!;
    const record = await trainCell(s, cell, of);
    s.cellsDone++;
    await validate(s, { cell, record, resolved: of });
    found.set(cell.id, { cell, record, resolved: of });
  };
  for (const cell of all) if (searched(s.plan, cell)) await run(cell);
  const choices = methods.map((method) => choose(s, task, method, [...found.values()]));
  const rates = new Map(choices.map(({ method, lr }) => [method, lr]));
  for (const cell of all) if (!searched(s.plan, cell) && cell.lr === rates.get(cell.method.name)) await run(cell);
  const done = all.flatMap(({ id }) => found.get(id) ?? []);
  // What was chosen is evaluated on test rows, other domains and questions, which decide nothing.
  for (const d of done) if (d.cell.lr === rates.get(d.cell.method.name)) await test(s, d, task);
  const cells: CompareCell[] = [];
  for (const d of done) cells.push(await told(s, d, d.cell.lr === rates.get(d.cell.method.name)));
  const times = Object.fromEntries(
    done.flatMap(({ cell, record: { trained, evaluationSeconds } }) =>
      trained?.times ? [[cell.id, { ...trained.times, evaluationSeconds }]] : [],
    ),
  );
  return { cells, choices, times, profileSeconds: profiled?.seconds ?? null };
}

/** Figures that are not finite here are a run that has no result. */
async function validate(s: Session, { cell, record, resolved }: Done): Promise<void> {
  if (record.trained!.diverged !== null) return;
  try {
    await evaluateAll(s, { id: cell.id, record, adapter: cellDir(s.out, cell) }, [validationOf(cell.task)]);
  } catch (error) {
    if (!(error instanceof NonFiniteError)) throw error;
    await markDiverged(s, record, cell.id, error, resolved);
  }
}

/** By the validation rows of what was run to choose. */
function choose(s: Session, task: PlanTask, method: PlanMethod, done: readonly Done[]): CompareResult["choices"][number] {
  const own = done.filter(({ cell }) => cell.method.name === method.name);
  const lossOf = ({ record }: Done): number | null =>
    record.trained!.diverged === null ? figuresOf(s, record, validationOf(task))!.loss : null;
  const candidates = method.lr.map((lr) => candidate(lr, own.filter(({ cell }) => cell.lr === lr).map(lossOf))); // prettier-ignore
  return { task: task.name, method: method.name, lr: chooseRate(candidates), candidates };
}

async function test(s: Session, { cell, record }: Done, task: PlanTask): Promise<void> {
  // With seeds beyond those that choose, a run at the chosen rate may have diverged: it has no adapter.
  if (record.trained!.diverged !== null) return skipTests(s, task);
  const of = { id: cell.id, record, adapter: cellDir(s.out, cell), lenient: true };
  await evaluateAll(s, of, [testOf(task), ...othersOf(s)]);
  await answerAll(s, of, task);
}

function skipTests(s: Session, task: PlanTask): void {
  for (const rows of [testOf(task), ...othersOf(s)]) s.outlook.skip(`evaluate ${rows.name}`, 1);
  if (s.plan.evaluation.answers) s.outlook.skip(`answers ${task.name}`, 1);
}

async function told(s: Session, { cell, record, resolved }: Done, chosen: boolean): Promise<CompareCell> {
  const { id, task, method, lr, seed } = cell;
  const { times: _, adapter: _a, counted, ...trained } = record.trained!;
  const has = trained.diverged === null;
  const tested = has && chosen;
  const coverage = has ? (counted ?? resolved.coverage) : null;
  return {
    id,
    task: task.name,
    method: method.name,
    lr,
    seed,
    chosen,
    ...trained,
    coverage,
    coverageFrom: coverage === null ? null : counted === null ? "profile" : "training",
    validation: has ? figuresOf(s, record, validationOf(task)) : null,
    test: tested ? figuresOf(s, record, testOf(task)) : null,
    others: tested ? othersFigures(s, record) : null,
    answers: tested ? await scoresOf(s, record, task) : null,
  };
}
