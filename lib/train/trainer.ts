// The training loop: updates, held-out loss, checkpoints, exact resume and safe interrupts.
// It knows neither the method (a TrainableSpec says what trains) nor where adapters go (the caller delivers).

import { join } from "node:path";
import { mkdir } from "node:fs/promises";
import { AbortError, ConfigError, MemoryError, NonFiniteError } from "../errors.ts";
import type { Examples } from "../data/examples.ts";
import type { BatchStream } from "../data/stream.ts";
import type { Rows } from "../data/epoch.ts";
import { CHECK_WEIGHTS, explainNonFinite } from "../model/non_finite.ts";
import type { Transformer } from "../model/transformer.ts";
import { STATE_BYTES_PER_PARAMETER } from "../model/weights/training_state.ts";
import type { TrainingState } from "../model/weights/training_state.ts";
import type { TrainableSpec } from "../methods/method.ts";
import type { ReallocationPlan } from "../methods/reallocation.ts";
import { Checkpoints } from "./checkpoint.ts";
import type { RunState } from "./checkpoint.ts";
import { patienceOver, requireHeldOut, seen } from "./early_stop.ts";
import type { Waiting } from "./early_stop.ts";
import { requireEffects } from "./effects.ts";
import { EventLog, EVENTS } from "./events.ts";
import type { Stopped, TrainEvent } from "./events.ts";
import { evaluateRows } from "./evaluate.ts";
import type { Evaluation } from "./evaluate.ts";
import { Reallocator } from "./reallocator.ts";
import type { RankSummary } from "./reallocation_state.ts";
import type { Drift } from "./drift.ts";
import type { Guard } from "./guard.ts";
import { requireSameRun, runFacts } from "./fingerprint.ts";
import type { Extension } from "./fingerprint.ts";
import { stepActivations } from "./memory_plan.ts";
import { routerCost } from "./router_cost.ts";
import * as ops from "../ops.ts";
import type { ExpertSums } from "../experts/counting.ts";
import type { TrainOptions } from "../options.ts";
import type { Sampler } from "./samples.ts";
import { stageAt } from "./schedule.ts";
import { heldOutRows, trainingStream } from "./streams.ts";
import { Update } from "./update.ts";
import type { StepFigures } from "./update.ts";

/** Steps in a row that may be skipped for a non-finite gradient before the run gives up. */
const MAX_SKIPPED = 5;

export interface TrainerInit {
  readonly model: Transformer;
  readonly trainable: TrainableSpec;
  readonly train: Examples;
  readonly heldOut: Examples | null;
  readonly options: TrainOptions;
  readonly outDir: string;
  /** Identity of the base model, for the run fingerprint. */
  readonly base: string;
  /** Weights that are quantised on disk were rounded to bf16: another run than without. */
  readonly roundedBase?: boolean;
  readonly padId: number;
  /** Of `train`, at its beginning, where it was made to count the rows of epochs or the shares of files; and how many those are. */
  readonly stream?: BatchStream | undefined;
  readonly epochRows?: number | undefined;
  /** Of the memory plan, to be told. */
  readonly hostBytes: number;
  /** Fires = checkpoint, then stop. */
  readonly signal?: AbortSignal | undefined;
  /** The same, when the run's time is used up (maxHours). */
  readonly timeUp?: AbortSignal | undefined;
  readonly emit: (event: TrainEvent) => void;
  /** @throws what the trained values rest on is no longer what it was: nothing is saved */
  readonly beforeSave: () => Promise<void>;
  /** Answers to held-out questions; null: none are wanted. */
  readonly sampler?: Sampler | null;
  /** What is not to be forgotten; null: nothing is looked at. */
  readonly guard?: Guard | null;
  /** How far the routing moves; null: nobody asks. */
  readonly drift?: Drift | null;
  /** Called when the held-out loss reached a new minimum: keeps the trained values. */
  readonly keepBest: (step: number, ranks: RankSummary | null) => Promise<void>;
  /** Is the best adapter that a checkpoint names still whole? @throws LayoutError */
  readonly checkBest?: (best: RunState["best"]) => Promise<void>;
  /** A run to resume may get more steps of its decaying schedule. */
  readonly extend?: boolean | undefined;
}

export interface TrainSummary {
  readonly reason: "finished" | "interrupted";
  /** Why it ended before its last update; null: it did not, or its signal fired. */
  readonly stopped: Stopped | null;
  readonly step: number;
  readonly best: { step: number; loss: number } | null;
  readonly firstEval: number | null;
  readonly lastEval: number | null;
  readonly tokens: number;
  readonly seconds: number;
  /** Of experts whose ranks are re-allocated; null without. */
  readonly ranks: RankSummary | null;
  /** Lengthened schedules; empty for most runs. */
  readonly extensions: readonly Extension[];
}

export async function runTraining(init: TrainerInit): Promise<TrainSummary> {
  const { model, trainable, options, outDir } = init;
  requireEffects(model.spec, trainable, options);
  await mkdir(outDir, { recursive: true });
  const state = model.train(trainable);
  requirePlanned(state, trainable);
  const { reallocation } = trainable;
  const reallocator = reallocation && new Reallocator(model, state, reallocation);
  const loop = new Loop(init, state, reallocator);
  try {
    return await loop.run();
  } finally {
    await model.device.synchronize().catch(() => undefined);
    loop.dispose();
    reallocator?.dispose();
  }
}

const rankWords = ({ kind, rank, maxRank }: ReallocationPlan) => ({ kind, rank, maxRank });

/** What was planned trains, and nothing else. @throws ConfigError */
function requirePlanned({ parameters }: TrainingState, { keys, attachments }: TrainableSpec): void {
  const planned = new Set([...keys, ...(attachments?.parameters ?? []).map((p) => p.key)]);
  const odd = parameters.find((p) => !planned.delete(p.key))?.key ?? [...planned][0];
  if (odd !== undefined)
    throw new ConfigError(`what trains is not what was planned: "${odd}" is only on one side; this is a defect of esft`, {
      where: { tensor: odd },
    });
}

/** What a run has reached; restored with a checkpoint. */
type Progress = { -readonly [K in "step" | "skipped" | "best" | "firstEval" | "lastEval" | "tokens"]: RunState[K] };

const doneWords = (
  reason: TrainSummary["reason"],
  stopped: Stopped | null,
): Pick<Extract<TrainEvent, { type: "done" }>, "reason" | "message"> =>
  stopped === null ? { reason } : { reason: stopped.by, message: stopped.message };

class Loop {
  private readonly init: TrainerInit;
  private readonly state: TrainingState;
  /** Of the stage that the run is in. */
  private update: Update;
  private stage = 0;
  private readonly reallocator: Reallocator | null;
  private readonly stream: BatchStream;
  /** Null: nothing in them is supervised. */
  private readonly heldOut: Rows | null;
  private readonly log: EventLog;
  private readonly facts: RunState["facts"];
  private readonly checkpoints: Checkpoints;
  private extensions: readonly Extension[] = [];
  private reached: Progress = { step: 0, skipped: 0, best: null, firstEval: null, lastEval: null, tokens: 0 };
  private secondsBefore = 0;
  private startedAt = 0;
  /** The held-out loss of this step is still to be taken: before the first update, and where an interrupt cut it short. */
  private evalDue = true;
  private sampleDue = true;
  private savedStep = -1;
  /** Something that was due at this step was measured since it was saved. */
  private measured = false;
  /** Of early stopping. */
  private waiting: Waiting | null = null;
  /** Fires with either of those that stop the run. */
  private readonly signal: AbortSignal;
  private firstStep = 0;
  /** A warning said why passes are not recorded. */
  private refusalTold = false;

  constructor(init: TrainerInit, state: TrainingState, reallocator: Reallocator | null) {
    const { options, train, heldOut } = init;
    this.init = init;
    this.signal = AbortSignal.any([init.signal, init.timeUp].filter((s) => s !== undefined));
    this.state = state;
    this.reallocator = reallocator;
    this.update = this.enter(0);
    this.stream = init.stream ?? trainingStream(train, options, init.padId);
    this.heldOut = heldOut && heldOutRows(heldOut, options, init.padId, options.evalRows);
    requireHeldOut(options, this.heldOut);
    this.log = new EventLog(join(init.outDir, EVENTS));
    this.facts = runFacts(init, this.stream);
    this.checkpoints = new Checkpoints(init.outDir);
  }

  dispose(): void {
    this.update.dispose();
  }

  /** The stage of update `done` + 1; 0 in a run without. */
  private stageAt(done: number): number {
    return stageAt(this.init.options.stages ?? [], done).index;
  }

  /** What this stage trains is what trains from here on. @returns its updates */
  private enter(stage: number): Update {
    const { model, trainable, options } = this.init;
    const { stages } = trainable;
    if (stages) model.activate(stages[stage]!.keys);
    this.stage = stage;
    return new Update(model, this.state, options, this.reallocator, trainable.condensing);
  }

  /** Where the next update is the first of a stage: moments start anew, and what trains is told. */
  private async nextStage(): Promise<void> {
    const { model, options, trainable } = this.init;
    const { step } = this.reached;
    if (!options.stages || !trainable.stages) return;
    const { index, first } = stageAt(options.stages, step);
    if (index !== this.stage) {
      this.update.dispose();
      this.update = this.enter(index);
      for (const x of [this.state.m, this.state.v]) ops.fill(model.device, { x, value: 0 });
      model.prepare(this.update.capacity, true);
    }
    if (step === first)
      await this.emit({
        type: "stage",
        step: step + 1,
        stage: index + 1,
        of: options.stages.length,
        trained: trainable.stages[index]!.roles,
      });
  }

  private async emit(event: TrainEvent): Promise<void> {
    await this.log.append(event);
    this.init.emit(event);
  }
  private get seconds(): number {
    return this.secondsBefore + (performance.now() - this.startedAt) / 1000;
  }

  async run(): Promise<TrainSummary> {
    const { init, reached } = this;
    const { options } = init;
    const { signal } = this;
    await this.start();
    let reason: TrainSummary["reason"] = "finished";
    for (;;) {
      if (this.evalDue) await this.evaluate();
      if (!this.evalDue && init.guard?.due && !signal.aborted) await this.look(init.guard);
      if (this.sampleDue && !signal.aborted) await this.sample();
      const pending = this.evalDue || (init.guard?.due ?? false);
      const last = reached.step === options.steps || this.stopped !== null;
      const saveDue = last || (reached.step > 0 && reached.step % options.saveEvery === 0);
      if (!pending && saveDue && this.savedStep !== reached.step) await this.save();
      if (!pending && last) break;
      if (pending || signal.aborted || !(await this.next())) {
        reason = "interrupted";
        if (this.savedStep !== reached.step || this.measured) await this.save(); // the same state twice would push out the one before
        break;
      }
      this.sampleDue = reached.step === options.steps || (options.sampleEvery > 0 && reached.step % options.sampleEvery === 0);
      if (init.guard) init.guard.due = init.guard.isDue(reached.step, reached.step === options.steps);
      this.evalDue = reached.step === options.steps || (options.evalEvery > 0 && reached.step % options.evalEvery === 0);
    }
    const { seconds } = this;
    const { step, best, firstEval, lastEval, tokens } = reached;
    const stopped = reason === "interrupted" ? this.outOfTime : step < options.steps ? this.stopped : null;
    await this.emit({ type: "done", step, ...doneWords(reason, stopped), seconds });
    const ranks = this.reallocator?.summary ?? null;
    return { reason, stopped, step, best, firstEval, lastEval, tokens, seconds, ranks, extensions: this.extensions };
  }

  /** Goes on from a checkpoint when there is one, and plans the memory of the passes. */
  private async start(): Promise<void> {
    const { options, outDir, trainable, model, train, heldOut } = this.init;
    let extension = null as Extension | null;
    const restored = await this.checkpoints.restore(this.state, async (run) => {
      extension = requireSameRun(outDir, run.step, run.facts, this.facts, this.init.extend ?? false);
      this.init.guard?.restore(run.guard, run.step);
      this.init.drift?.restore(run.drift, run.step);
      await this.init.checkBest?.(run.best);
    });
    if (restored !== null) {
      await this.restore(restored.run);
      model.params.refreshCopies();
      for (const message of restored.damages) await this.emit({ type: "warning", step: restored.run.step, message });
    } else await this.log.rewind(-1); // of a run that was killed before its first checkpoint
    await this.checkpoints.requireSpace(this.state);
    this.startedAt = performance.now();
    const { capacity } = this.update;
    model.prepare(capacity, true);
    if (extension !== null) await this.extend(extension);
    const straight = routerCost(model.spec, trainable, capacity, model.device.info.activationDtype);
    await this.emit({
      type: "start",
      step: this.reached.step,
      steps: options.steps,
      ...(options.epochs === undefined ? {} : { epochs: options.epochs, epochRows: this.init.epochRows }),
      ...(this.stream.shares === null ? {} : { files: this.stream.shares }),
      method: trainable.type,
      trainedParameters: trainable.parameters,
      trained: trainable.roles,
      totalParameters: trainable.totalParameters,
      activationBytes: stepActivations(model.spec, trainable, model.device.info.activationDtype, capacity),
      stateBytes: this.state.size * STATE_BYTES_PER_PARAMETER,
      hostBytes: this.init.hostBytes,
      ...(straight ? { straightThrough: straight } : {}),
      ...(trainable.reallocation ? { reallocation: rankWords(trainable.reallocation) } : {}),
      examples: train.length,
      heldOut: heldOut?.length ?? 0,
      device: model.device.info.instructionSet,
      precision: model.precision,
    });
  }

  private async restore(run: RunState): Promise<void> {
    const { steps } = this.init.options;
    if (run.step > steps)
      throw new ConfigError(
        `${this.init.outDir}: the run is at step ${run.step} already, beyond ${steps}; ask for at least ${run.step} steps`,
        { where: { key: "steps" } },
      );
    const { step, skipped, best, firstEval, lastEval, tokens } = run;
    this.reallocator?.restore(run.reallocation);
    this.update.dispose();
    this.update = this.enter(this.stageAt(Math.max(0, run.step - 1)));
    this.stream.restore(run.cursor);
    this.update.optimizer.steps = run.optimizerSteps;
    Object.assign(this.reached, { step, skipped, best, firstEval, lastEval, tokens } satisfies Progress);
    this.savedStep = this.firstStep = step;
    this.evalDue = !run.evaluated;
    this.waiting = run.waiting === undefined ? run.best && { loss: run.best.loss, evaluations: 0 } : run.waiting;
    this.sampleDue = false;
    this.secondsBefore = run.seconds;
    this.extensions = run.extensions;
    // Saved when an interrupt came between a re-allocation and its update.
    const moved = this.reallocator?.done(step) ?? false;
    await this.log.rewind(step, (event) => moved && event.type === "reallocate" && event.step === step + 1);
  }

  /** From here on the schedule is the longer one. Kept at once: request.json will ask for the new number of steps. */
  private async extend(extension: Extension): Promise<void> {
    this.extensions = [...this.extensions, extension];
    await this.emit({ type: "extend", ...extension });
    await this.save();
  }

  private async save(): Promise<void> {
    const { seconds, facts, extensions, reached } = this;
    const { step } = reached;
    await this.init.beforeSave();
    const path = await this.checkpoints.save(this.state, {
      ...reached,
      evaluated: !this.evalDue,
      optimizerSteps: this.update.optimizer.steps,
      cursor: this.stream.cursor,
      ...(this.init.guard ? { guard: this.init.guard.state } : {}),
      ...(this.init.drift ? { drift: this.init.drift.state } : {}),
      ...(this.init.options.earlyStop ? { waiting: this.waiting } : {}),
      facts,
      extensions: [...extensions],
      ...(this.reallocator ? { reallocation: this.reallocator.state } : {}),
      seconds,
    });
    this.savedStep = step;
    this.measured = false;
    await this.emit({ type: "checkpoint", step, path });
  }

  /** Why an interrupted run was; null: its caller knows. */
  private get outOfTime(): Stopped | null {
    const { signal, timeUp, options } = this.init;
    if (signal?.aborted || !timeUp?.aborted) return null;
    const done = this.reached.step - this.firstStep;
    return { by: "time", message: `its time is used up (maxHours ${options.maxHours}), with ${done} updates in it` };
  }

  /** Why the run ends here; null: it goes on. */
  private get stopped(): Stopped | null {
    const { options, guard } = this.init;
    const over = guard?.over ?? null;
    if (over !== null) return { by: "guard", message: over };
    const message = options.earlyStop ? patienceOver(this.waiting, options.earlyStop) : null;
    return message === null ? null : { by: "earlyStop", message };
  }

  /** One update, and what is told of it. @returns false when the signal fired before its end: nothing of it was done */
  private async next(): Promise<boolean> {
    const { reached, init } = this;
    const { steps } = init.options;
    await this.nextStage();
    await this.reallocate();
    const began = performance.now();
    const applied = await this.apply();
    if (applied === null) return false;
    const { coverage, routing, ...figures } = applied;
    const step = ++reached.step;
    reached.tokens += figures.tokens;
    if (Number.isFinite(figures.gradNorm)) reached.skipped = 0;
    else await this.skip(figures.loss, figures.gradNorm);
    await this.tellRefusal();
    const seconds = (performance.now() - began) / 1000;
    await this.emit({
      type: "step",
      step,
      steps,
      ...figures,
      ...(coverage === null ? {} : { coverage }),
      seconds,
      tokensPerSecond: figures.tokens / seconds,
      etaSeconds: (this.seconds / step) * (steps - step),
    });
    if (routing !== null) await this.tellDrift(routing);
    return true;
  }

  /** @param routing of the update that was made */
  private async tellDrift(routing: ReadonlyMap<number, ExpertSums>): Promise<void> {
    const { drift, options } = this.init;
    const { step } = this.reached;
    drift?.add(routing);
    const event = drift?.look(step, step === options.steps);
    if (!drift || !event) return;
    await this.emit(event);
    const message = drift.warning(event);
    if (message !== null) await this.emit({ type: "warning", step, message });
  }

  /** What is evaluated and saved after an update is what it made; ranks move before the next one. */
  private async reallocate(): Promise<void> {
    const { step } = this.reached;
    if (this.reallocator?.due(step)) await this.emit(await this.reallocator.reallocate(step));
  }

  /** What a device with graphs could not record: the run goes on, op by op. */
  private async tellRefusal(): Promise<void> {
    const { refusal } = this.init.model.recorder;
    if (refusal === null || this.refusalTold) return;
    this.refusalTold = true;
    const { step } = this.reached;
    const message = `step ${step}: a pass could not be recorded as a graph and is submitted op by op: same results, slower (${refusal})`;
    await this.emit({ type: "warning", step, message });
  }

  /** The next batch applied; null when the signal fired before its end: then the batch is still to come. */
  private async apply(): Promise<StepFigures | null> {
    const { stream, update, reached } = this;
    const { signal } = this;
    const { cursor } = stream;
    try {
      return await update.apply(await stream.next(signal), reached.step, signal);
    } catch (error) {
      if (!(error instanceof AbortError)) throw this.explain(explainNonFinite(error, `step ${reached.step + 1}`, CHECK_WEIGHTS));
      stream.restore(cursor);
      return null;
    }
  }

  /** The device skipped the update. Says which gradient is bad, gives up when it does not stop. */
  private async skip(loss: number, gradNorm: number): Promise<void> {
    const { step } = this.reached;
    this.reached.skipped++;
    const bad = await this.update.firstNonFinite();
    const message = `step ${step}: loss ${loss}, gradient norm ${gradNorm}; first non-finite value in ${bad}; the update was skipped`;
    await this.emit({ type: "warning", step, message });
    if (this.reached.skipped >= MAX_SKIPPED)
      throw new NonFiniteError(`${message}. ${MAX_SKIPPED} steps in a row were skipped: lower the learning rate or check the data`, {
        where: { step, tensor: bad },
      });
  }

  /** What is not finite after an update is the weights that it made; before, those of the checkpoint. */
  private explain(error: unknown): unknown {
    const { step } = this.reached;
    if (step === 0 || !(error instanceof NonFiniteError)) return error;
    const kept = this.savedStep < 0 ? "no checkpoint was written yet" : `the checkpoint of step ${this.savedStep} is intact`;
    return new NonFiniteError(
      `after ${step} steps the trained weights have diverged (${error.message.split(":", 2).join(":")}); ${kept}. Lower the learning rate, or set clipNorm`,
      { where: { ...error.where, step }, cause: error },
    );
  }

  /** Held-out loss. Leaves `evalDue` set when the signal fired before the end. */
  private async evaluate(): Promise<void> {
    const { reached, init } = this;
    const { step } = reached;
    const result = await this.measure();
    this.evalDue = result === "interrupted";
    if (typeof result === "string") return;
    this.measured = true;
    const { loss, accuracy, supervised } = result;
    if (step === 0 && !Number.isFinite(loss))
      throw new NonFiniteError(`the held-out loss before the first step is ${loss}: ${CHECK_WEIGHTS}`, { where: { step: 0 } });
    const best = Number.isFinite(loss) && (reached.best === null || loss < reached.best.loss);
    if (best) reached.best = { step, loss };
    reached.firstEval ??= loss;
    reached.lastEval = loss;
    const { earlyStop } = init.options;
    if (earlyStop) this.waiting = seen(this.waiting, loss, earlyStop);
    if (this.stopped !== null) this.atEnd();
    await this.emit({ type: "eval", step, loss, accuracy, supervised, best });
    if (best && step > 0) await init.keepBest(step, this.reallocator?.summary ?? null);
  }

  /** What every end has: answers, and a look at what is not to be forgotten. */
  private atEnd(): void {
    const { options, guard } = this.init;
    this.sampleDue = options.sampleEvery > 0;
    if (guard && guard.over === null) guard.due = true;
  }

  /** The losses of the guard. Leaves it due when the signal fired before the end. */
  private async look(guard: Guard): Promise<void> {
    const { step } = this.reached;
    try {
      await this.emit(await guard.look(this.init.model, step, this.update.capacity, this.signal));
    } catch (error) {
      if (error instanceof AbortError) return;
      throw this.explain(error);
    }
    this.measured = true;
    if (guard.warning !== null) await this.emit({ type: "warning", step, message: `step ${step}: ${guard.warning}` });
    if (guard.over !== null) this.atEnd();
  }

  /** Answers to held-out questions, to read: they decide nothing, so that what stands in their way is told and the run goes on. */
  private async sample(): Promise<void> {
    const { sampler } = this.init;
    const { step } = this.reached;
    this.sampleDue = false;
    if (!sampler) return;
    try {
      for (const sample of await sampler.sample(this.update.capacity, this.signal)) await this.emit({ type: "sample", step, ...sample });
    } catch (error) {
      if (error instanceof AbortError) return;
      if (!(error instanceof MemoryError)) throw this.explain(explainNonFinite(error, `step ${step}: a sample`, CHECK_WEIGHTS));
      await this.emit({ type: "warning", step, message: `step ${step}: no sample: ${error.message}` });
    }
  }

  private async measure(): Promise<Evaluation | "no rows" | "interrupted"> {
    const { model } = this.init;
    if (this.heldOut === null) return "no rows";
    try {
      return await evaluateRows(model, this.heldOut, this.update.capacity, { signal: this.signal });
    } catch (error) {
      if (error instanceof AbortError) return "interrupted";
      throw this.explain(error);
    }
  }
}
