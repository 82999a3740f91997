// events.jsonl of a run as values: every line checked, the last one left out where it is being written.

import { z } from "zod";
import { LayoutError } from "../errors.ts";
import { checkSchema } from "../files/json.ts";
import { readTextFile } from "../files/regular.ts";

const step = z.int().min(0);
/** JSON has no NaN: what was not finite is null. */
const figure = z.number().nullable();

const Start = z.looseObject({
  type: z.literal("start"),
  step,
  steps: step,
  epochs: z.number().optional(),
  method: z.string(),
  trainedParameters: z.number(),
  totalParameters: z.number(),
  activationBytes: z.number(),
  stateBytes: z.number(),
  examples: z.number(),
  heldOut: z.number(),
  device: z.string(),
  precision: z.string(),
  time: z.string().optional(),
});
const Step = z.looseObject({
  type: z.literal("step"),
  step,
  steps: step,
  loss: figure,
  accuracy: figure,
  tokens: z.number(),
  gradNorm: figure,
  lr: z.number(),
  epoch: z.number(),
  coverage: figure.optional(),
  balanceLoss: figure.optional(),
  seconds: z.number(),
  tokensPerSecond: figure,
  etaSeconds: figure,
});
const Eval = z.looseObject({ type: z.literal("eval"), step, loss: figure, accuracy: figure, best: z.boolean() });
const Told = {
  sample: z.looseObject({
    type: z.literal("sample"),
    step,
    place: z.string(),
    prompt: z.string(),
    reference: z.string(),
    answer: z.string(),
  }),
  stage: z.looseObject({ type: z.literal("stage"), step, stage: z.number(), of: z.number() }),
  reallocate: z.looseObject({ type: z.literal("reallocate"), step, columns: z.number() }),
  guard: z.looseObject({
    type: z.literal("guard"),
    step,
    files: z.array(z.looseObject({ name: z.string(), loss: figure, rise: figure, over: z.boolean() })),
  }),
  drift: z.looseObject({
    type: z.literal("drift"),
    step,
    since: z.string(),
    tokens: z.number(),
    shift: z.number(),
    chance: z.number(),
    layers: z.array(z.looseObject({ layer: z.number(), shift: z.number() })),
    kept: z.number().optional(),
  }),
  checkpoint: z.looseObject({ type: z.literal("checkpoint"), step }),
  warning: z.looseObject({ type: z.literal("warning"), step, message: z.string() }),
  extend: z.looseObject({ type: z.literal("extend"), step, from: z.number(), to: z.number() }),
  done: z.looseObject({ type: z.literal("done"), step, reason: z.string(), message: z.string().optional(), seconds: z.number() }),
};
const Line = z.discriminatedUnion("type", [Start, Step, Eval, ...Object.values(Told)]);

export type LoggedEvent = z.output<typeof Line>;
export type LoggedOf<T extends LoggedEvent["type"]> = Extract<LoggedEvent, { type: T }>;

export interface RunLog {
  readonly events: readonly LoggedEvent[];
  /** The file ends in the middle of a line: the run is writing it, or was killed while it did. */
  readonly cut: boolean;
}

const MOST_BYTES = 2 ** 29;

/** @throws LayoutError a line that is none, by its number · IoError */
export async function readRunLog(file: string): Promise<RunLog> {
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
