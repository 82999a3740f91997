// How long a run is: as many updates as were asked for, as its stages have together, or as the packed rows of its epochs need.

import type { BatchStream } from "../data/stream.ts";
import { ConfigError } from "../errors.ts";
import { DEFAULT_STEPS } from "../options.ts";
import type { AskedOptions } from "../options.ts";
import { throwIfAborted } from "../task.ts";

type Asked = Pick<AskedOptions, "steps" | "epochs" | "stages">;

/**
 * The updates that a request names; undefined: those of its epochs, which no one knows before the rows are there.
 * @throws ConfigError steps and epochs, epochs and stages, or steps that are not those of the stages
 */
export function stepsAsked({ steps, epochs, stages }: Asked): number | undefined {
  if (epochs !== undefined) {
    const other = stages ? "stages (which have steps of their own)" : steps === undefined ? undefined : "steps";
    if (other === undefined) return undefined;
    throw new ConfigError(`train.epochs: expected either epochs or ${other}, found both; leave one of them out`, {
      where: { key: "epochs" },
    });
  }
  const sum = stages?.reduce((n, stage) => n + stage.steps, 0);
  if (steps !== undefined && sum !== undefined && sum !== steps)
    throw new ConfigError(`train.steps: expected ${sum}, the sum of the stages' steps (leave it out), found ${steps}`, {
      where: { key: "steps" },
    });
  return steps ?? sum ?? DEFAULT_STEPS;
}

/** Of `value`, which is a product of what people write as decimals: 0.1 · 30 is 3, not a little more. */
export const ceilOf = (value: number): number => Math.max(0, Math.ceil(value - 1e-9 * Math.max(1, value)));

/**
 * Rows of `epochs` epochs, of the last one in part, counted as training takes them: an epoch has a few rows more or less, by its
 * order. The event loop turns between epochs. @throws AbortError
 */
export async function rowsOf(stream: Pick<BatchStream, "rowsInEpoch">, epochs: number, signal?: AbortSignal): Promise<number> {
  const whole = Math.floor(epochs);
  let rows = 0;
  for (let epoch = 0; epoch < whole; epoch++) {
    rows += stream.rowsInEpoch(epoch);
    await new Promise(setImmediate);
    throwIfAborted(signal, "counting the rows of the epochs");
  }
  const part = epochs - whole;
  return Math.max(1, part === 0 ? rows : rows + ceilOf(part * stream.rowsInEpoch(whole)));
}
