// A run of MoeModel.train to its end, or to an event where it is stopped, and what its log says.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { MoeModel, TrainEvent, TrainRequest } from "../../lib/index.ts";

/** @param stopAt at an event of which this is true the run's signal fires */
export async function runUntil(model: MoeModel, request: TrainRequest, stopAt: (e: TrainEvent) => boolean = () => false) {
  const stop = new AbortController();
  const run = model.train({ ...request, signal: stop.signal });
  const events: TrainEvent[] = [];
  for await (const event of run) {
    events.push(event);
    if (stopAt(event)) stop.abort(new Error("stop"));
  }
  return { result: await run.result, events };
}

/** Of a run's directory. */
export const loggedEvents = (outDir: string): TrainEvent[] =>
  readFileSync(join(outDir, "events.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line) as TrainEvent); // prettier-ignore
