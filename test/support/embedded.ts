// The embedded model and a short training on its booking task, enough to answer in the task's form.

import { join } from "node:path";
import type { MoeModel } from "../../lib/index.ts";

export const embedded = join(import.meta.dirname, "../../examples/embedded");

/** @param outDir where the adapter goes */
export async function trainBooking(model: MoeModel, outDir: string, steps = 30): Promise<void> {
  await model.train({
    data: { file: join(embedded, "data/booking.train.jsonl"), maxLength: 128 },
    method: "full",
    outDir,
    steps,
    rowsPerStep: 8,
    evalFraction: 0,
    optimizer: { lr: 1e-3 },
  }).result;
}
