// Learning rate over steps: linear warm-up from 0, then constant, linear or cosine decay, or constant and a decay at the end (wsd:
// warm-up, stable, decay), that would reach lr · minLrRatio with the update after the last one. Of a run that was lengthened, the rates
// from there on are those of a schedule that had the new number of steps from the beginning: where it had decayed already, the rate
// rises again. Of a run in stages each has a schedule of its own.

import { ConfigError } from "../errors.ts";
import type { AskedOptions, OptimizerOptions, StageOptions, TrainOptions } from "../options.ts";
import { ceilOf } from "./length.ts";

/** What decides how the rate goes, and from which one. */
type Shape = Pick<OptimizerOptions, "schedule" | "warmupSteps" | "warmupRatio" | "decaySteps" | "decayRatio" | "decayShape" | "minLrRatio">;
type Rates = Shape & Pick<OptimizerOptions, "lr">;

/** Share of the steps that wsd decays in when nothing else is asked for. */
const DECAY_RATIO = 0.1;

/** The stage of update `done` + 1, and the updates before it. */
export function stageAt(stages: readonly StageOptions[], done: number): { readonly index: number; readonly first: number } {
  let first = 0;
  let index = 0;
  while (index + 1 < stages.length && done >= first + stages[index]!.steps) first += stages[index++]!.steps;
  return { index, first };
}

/** The rates of a stage: what it does not say is the run's. */
function ratesOf<R extends Shape>(optimizer: R, { targets: _, steps: __, ...own }: StageOptions): R {
  const said = Object.fromEntries(Object.entries(own).filter(([, value]) => value !== undefined)) as Partial<R>;
  const warm = said.warmupSteps !== undefined || said.warmupRatio !== undefined;
  const decays = said.decaySteps !== undefined || said.decayRatio !== undefined;
  return {
    ...optimizer,
    ...(warm ? { warmupSteps: 0, warmupRatio: undefined } : {}),
    ...(decays ? { decaySteps: undefined, decayRatio: undefined } : {}),
    ...said,
  };
}

/** Learning rate of update `done` + 1: of the run's schedule, or of its stage's. */
export function rateOf({ optimizer, steps, stages }: Pick<TrainOptions, "optimizer" | "steps" | "stages">, done: number): number {
  if (!stages) return learningRate(optimizer, steps, done);
  const { index, first } = stageAt(stages, done);
  const stage = stages[index]!;
  return learningRate(ratesOf(optimizer, stage), stage.steps, done - first);
}

const warmupOf = ({ warmupSteps, warmupRatio }: Shape, steps: number): number =>
  warmupRatio === undefined ? warmupSteps : ceilOf(warmupRatio * steps);
const decayOf = ({ decaySteps, decayRatio = DECAY_RATIO }: Shape, steps: number): number => decaySteps ?? ceilOf(decayRatio * steps);

/** What is left of the rate at `t` of a decay, from 1 to 0. */
const SHAPES = {
  linear: (t: number) => 1 - t,
  cosine: (t: number) => 0.5 * (1 + Math.cos(Math.PI * t)),
  sqrt: (t: number) => 1 - Math.sqrt(t),
} as const;

/** Learning rate of update `step` (0-based) of `steps`. */
export function learningRate(rates: Rates, steps: number, step: number): number {
  const { lr, schedule, minLrRatio, decayShape = "linear" } = rates;
  const warmup = warmupOf(rates, steps);
  if (step < warmup) return (lr * (step + 1)) / warmup;
  if (schedule === "constant") return lr;
  const decays = schedule === "wsd" ? decayOf(rates, steps) : Math.max(1, steps - warmup);
  const begin = schedule === "wsd" ? steps - decays : warmup;
  const t = Math.min(1, Math.max(0, step - begin) / decays);
  return lr * (minLrRatio + (1 - minLrRatio) * SHAPES[schedule === "wsd" ? decayShape : schedule](t));
}

/** Do the rates of updates depend on how many there will be? Then a run to resume keeps their number, or is lengthened on purpose. */
export const dependsOnSteps = ({ schedule, warmupRatio = 0 }: Shape): boolean => schedule !== "constant" || warmupRatio > 0;

interface Planned extends Pick<AskedOptions, "steps" | "stages"> {
  readonly optimizer: Shape;
}

/**
 * Rates that cannot be meant, of the run and of its stages; what rests on the number of steps where that is known.
 * @param from what the options are of, in errors
 * @throws ConfigError the first, with its key
 */
export function requireRates({ optimizer, steps, stages }: Planned, from = "train"): void {
  requireApart(optimizer, optimizer.schedule, `${from}.optimizer`);
  if (!stages) return requireRoom(optimizer, steps, `${from}.optimizer`);
  stages.forEach((stage, i) => {
    requireApart(stage, stage.schedule ?? optimizer.schedule, `${from}.stages.${i}`);
    requireRoom(ratesOf(optimizer, stage), stage.steps, `${from}.stages.${i}`);
  });
}

function refuse(at: string, what: string): never {
  throw new ConfigError(`${at}: ${what}`, { where: { key: at.replace(/^[^.]*\./, "") } });
}

/** Of two options that say the same one is given, and none that the schedule does not read. */
function requireApart(rates: Omit<Partial<Shape>, "schedule"> | StageOptions, schedule: Shape["schedule"], at: string): void {
  const { warmupSteps = 0, warmupRatio, decaySteps, decayRatio } = rates;
  if (warmupRatio !== undefined && warmupSteps > 0)
    refuse(`${at}.warmupRatio`, `expected either warmupRatio or warmupSteps, found both (${warmupRatio} and ${warmupSteps})`);
  if (decayRatio !== undefined && decaySteps !== undefined)
    refuse(`${at}.decayRatio`, `expected either decayRatio or decaySteps, found both (${decayRatio} and ${decaySteps})`);
  const odd = (["decaySteps", "decayRatio", "decayShape"] as const).find((key) => rates[key] !== undefined);
  if (odd !== undefined && schedule !== "wsd") refuse(`${at}.${odd}`, `expected with schedule wsd only, found schedule ${schedule}`);
}

/** Warm-up and decay of wsd fit into the steps. */
function requireRoom(rates: Shape, steps: number | undefined, at: string): void {
  if (rates.schedule !== "wsd" || steps === undefined) return;
  const [warmup, decay] = [warmupOf(rates, steps), decayOf(rates, steps)];
  if (warmup + decay <= steps) return;
  const key = rates.decaySteps === undefined ? "decayRatio" : "decaySteps";
  refuse(
    `${at}.${key}`,
    `expected a warm-up and a decay that fit into ${steps} steps, found ${warmup} and ${decay}; make one of them shorter`,
  );
}
