// Dropout of what a low-rank term reads, in passes of training: which elements are dropped is a function of the run's seed, the term, the
// number of the pass (step and micro-batch) and the element's place, so that a resumed run drops the same ones, on any number of threads.

import { createHash } from "node:crypto";
import * as ops from "../ops.ts";
import type { Run } from "../model/run.ts";
import type { Tensor } from "../tensor.ts";

export interface Dropout {
  /** Share that is dropped. */
  readonly p: number;
  /** Tells terms apart. */
  readonly seed: number;
}

/** @param seed of the run @param name of the term's first tensor. Null: nothing is dropped */
export function dropoutOf(p: number, seed: number, name: string): Dropout | null {
  if (p === 0) return null;
  const term = createHash("sha256").update(`dropout ${name}`).digest().readUInt32LE(0);
  return { p, seed: (seed % 2 ** 20) * 2 ** 32 + term };
}

/** Drops in this pass. */
export const drops = (dropout: Dropout | null, run: Run): dropout is Dropout => dropout !== null && run.keep && run.dropout !== null;

/** y = x where it is kept, times 1 / (1 − p). y may be x; the backward is the same call on gradients. */
export function drop(run: Run, { p, seed }: Dropout, x: Tensor, y: Tensor): void {
  if (run.dropout) ops.dropout(run.device, { x, counter: run.dropout, y, seed, p });
}
