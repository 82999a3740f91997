// Early stopping: a run ends when its held-out loss has not fallen for some evaluations in a row. It decides when a run ends, and nothing
// of what an update does: a run to resume may have another patience, or none.

import { z } from "zod";
import { ConfigError } from "../errors.ts";
import type { AskedOptions } from "../options.ts";

/** Of a checkpoint: the loss that the next ones are held against, and evaluations since then. */
export const waitingSchema = z.strictObject({ loss: z.number(), evaluations: z.int().min(0) });
export type Waiting = z.output<typeof waitingSchema>;

type Rule = NonNullable<AskedOptions["earlyStop"]>;

/** @throws ConfigError nothing would ever be evaluated on the way, or a stage would be cut short */
export function requireEvaluations({ earlyStop, evalEvery, stages }: AskedOptions): void {
  if (!earlyStop) return;
  const fail = (what: string): never => {
    throw new ConfigError(`train.earlyStop: expected ${what}`, { where: { key: "earlyStop" } });
  };
  if (evalEvery === 0) fail("evaluations on the way, found evalEvery 0; set it to a number of updates");
  if (stages) fail("a run without stages, whose steps are what they say, found stages; leave one of them out");
}

/** @throws ConfigError early stopping without rows whose loss could be taken */
export function requireHeldOut({ earlyStop }: Pick<AskedOptions, "earlyStop">, rows: { readonly length: number } | null): void {
  if (earlyStop && rows === null)
    throw new ConfigError(
      "train.earlyStop: expected held-out rows, found none with anything supervised; set evalFraction, or give evalData",
      {
        where: { key: "earlyStop" },
      },
    );
}

/** The next evaluation: a loss more than minDelta below the last one that fell is a new one to fall below. One that is not finite is none. */
export function seen(before: Waiting | null, loss: number, { minDelta }: Rule): Waiting | null {
  if (before === null) return Number.isFinite(loss) ? { loss, evaluations: 0 } : null;
  return loss < before.loss - minDelta ? { loss, evaluations: 0 } : { loss: before.loss, evaluations: before.evaluations + 1 };
}

/** Why the run ends here; null: it goes on. */
export function patienceOver(waiting: Waiting | null, { patience, minDelta }: Rule): string | null {
  if (waiting === null || waiting.evaluations < patience) return null;
  const by = minDelta > 0 ? ` by more than ${minDelta}` : "";
  return `the held-out loss did not fall below ${waiting.loss.toFixed(4)}${by} in ${waiting.evaluations} evaluations`;
}
