// events.jsonl of a run as values: every line checked, the last one left out where it is being written.

import { z } from "zod";
import { pathArgument } from "../arguments.ts";
import { LayoutError } from "../errors.ts";
import { checkSchema } from "../files/json.ts";
import { readTextFile } from "../files/regular.ts";

const step = z.int().min(0);
const whole = z.int().min(0);
/** JSON has no NaN: what was not finite is null. */
const figure = z.number().nullable();
/** When the line was written, ISO 8601 in UTC. */
const time = z.string().optional();

const trained = z.array(z.looseObject({ role: z.string(), attached: z.boolean(), tensors: whole, parameters: whole }));
/** By layer, a value per expert. */
const perExpert = z.record(z.string(), z.array(z.number()));

/** Every type of event with all that this version writes of it (docs/events.md); keys of later versions are kept as they are. */
export const eventSchemas = {
  start: z.looseObject({
    type: z.literal("start"),
    step,
    steps: step,
    epochs: z.number().optional(),
    epochRows: whole.optional(),
    files: z
      .array(
        z.looseObject({
          file: z.string(),
          weight: z.number().nullable(),
          rows: whole,
          tokens: whole,
          rowsPerEpoch: whole,
          share: z.number(),
        }),
      )
      .optional(),
    method: z.string(),
    trainedParameters: whole,
    trained,
    totalParameters: whole,
    activationBytes: z.number(),
    stateBytes: z.number(),
    hostBytes: z.number(),
    straightThrough: z.looseObject({ flops: z.number(), bytes: z.number(), layers: z.array(whole), frozen: z.array(whole) }).optional(),
    reallocation: z.looseObject({ kind: z.string(), rank: z.number(), maxRank: whole }).optional(),
    examples: whole,
    heldOut: whole,
    device: z.string(),
    precision: z.string(),
    time,
  }),
  step: z.looseObject({
    type: z.literal("step"),
    step,
    steps: step,
    loss: figure,
    accuracy: figure,
    tokens: whole,
    supervised: whole,
    gradNorm: figure,
    lr: z.number(),
    epoch: whole,
    coverage: figure.optional(),
    alwaysActive: whole.optional(),
    balanceLoss: figure.optional(),
    seconds: z.number(),
    tokensPerSecond: figure,
    etaSeconds: figure,
    time,
  }),
  eval: z.looseObject({ type: z.literal("eval"), step, loss: figure, accuracy: figure, supervised: whole, best: z.boolean(), time }),
  guard: z.looseObject({
    type: z.literal("guard"),
    step,
    files: z.array(z.looseObject({ name: z.string(), loss: figure, rise: figure, over: z.boolean() })),
    time,
  }),
  drift: z.looseObject({
    type: z.literal("drift"),
    step,
    since: z.string(),
    tokens: z.number(),
    shift: z.number(),
    chance: z.number(),
    layers: z.array(z.looseObject({ layer: whole, shift: z.number() })),
    kept: z.number().optional(),
    time,
  }),
  sample: z.looseObject({
    type: z.literal("sample"),
    step,
    place: z.string(),
    prompt: z.string(),
    reference: z.string(),
    answer: z.string(),
    time,
  }),
  stage: z.looseObject({ type: z.literal("stage"), step, stage: whole, of: whole, trained, time }),
  reallocate: z.looseObject({
    type: z.literal("reallocate"),
    step,
    kind: z.string(),
    columns: whole,
    ranks: perExpert,
    importance: perExpert,
    time,
  }),
  checkpoint: z.looseObject({ type: z.literal("checkpoint"), step, path: z.string(), time }),
  warning: z.looseObject({ type: z.literal("warning"), step, message: z.string(), time }),
  extend: z.looseObject({ type: z.literal("extend"), step, from: step, to: step, time }),
  done: z.looseObject({ type: z.literal("done"), step, reason: z.string(), message: z.string().optional(), seconds: z.number(), time }),
};
const { start, ...others } = eventSchemas;
const Line = z.discriminatedUnion("type", [start, ...Object.values(others)]);

export type LoggedEvent = z.output<typeof Line>;
export type LoggedOf<T extends LoggedEvent["type"]> = Extract<LoggedEvent, { type: T }>;

export interface RunLog {
  readonly events: readonly LoggedEvent[];
  /** The file ends in the middle of a line: the run is writing it, or was killed while it did. */
  readonly cut: boolean;
}

const MOST_BYTES = 2 ** 29;

/** @param file events.jsonl of a run directory @throws LayoutError a line that is none, by its number · IoError */
export async function readRunLog(file: string): Promise<RunLog> {
  pathArgument(file, "readRunLog: file");
  const text = await readTextFile(file, MOST_BYTES, "replace");
  const lines = text.split("\n");
  const cut = lines.pop() !== "";
  const events = lines.map((line, i): LoggedEvent => {
    const where = `${file}, line ${i + 1}`;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      throw new LayoutError(`${where}: expected an event as JSON, found ${JSON.stringify(line.slice(0, 60))}; the file is damaged`, {
        where: { file, line: i + 1 },
        cause,
      });
    }
    return checkSchema(Line, value, where, LayoutError);
  });
  return { events, cut };
}

export function eventsOf<T extends LoggedEvent["type"]>({ events }: RunLog, type: T): LoggedOf<T>[] {
  return events.filter((e): e is LoggedOf<T> => e.type === type);
}
