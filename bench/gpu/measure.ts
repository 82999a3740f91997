// How a case is timed on a GPU.
//
// No clock of the device is read: a slice submits some milliseconds of calls and waits once, so that the wait and the launch of the
// first call vanish. Calls go round over several sets of buffers (together well above the L2 cache). A call is timed twice: as one
// graph of all sets, replayed, and as ordinary submissions ("eager", which shows what launching costs where calls are short). Of a case
// that destroys its inputs a slice is one round over the sets, which are restored before, outside the time.

import type { Device, Graph } from "../../lib/tensor.ts";
import type { Work } from "../cases/case.ts";
import { median, quantile } from "../statistics.ts";

const SLICE_MS = 10;
const CACHE_BYTES = 180e6; // three times the L2 of an H200
const BIG_SET = 2e9; // sets above this are alone: one call reads far more than any cache holds
export const MIN_RUNS = 100;

export interface Times {
  readonly median: number;
  readonly p10: number;
  readonly p90: number;
  /** Calls that were timed. */
  readonly calls: number;
}

/** How many sets of buffers a case needs, from the bytes of one. */
export function setsFor(bytes: number): number {
  if (bytes > BIG_SET) return 1;
  return Math.max(3, Math.min(16, Math.ceil(CACHE_BYTES / Math.max(1, bytes))));
}

export function timesOf(ms: readonly number[], callsPerSlice: number): Times {
  return { median: median(ms), p10: quantile(ms, 0.1), p90: quantile(ms, 0.9), calls: ms.length * callsPerSlice };
}

/** One way to run a case: some calls per submission, timed in slices. */
export interface Runner {
  readonly calls: number;
  readonly slice: () => Promise<number>;
}

/** Calls that are submitted together, and what must be done before each slice of them. */
interface Submission {
  readonly submit: () => void;
  readonly calls: number;
  readonly restore: (() => void) | null;
}

/** Milliseconds per call of `submissions` submissions. */
async function time(device: Device, { submit, calls, restore }: Submission, submissions: number): Promise<number> {
  if (restore) {
    restore();
    await device.synchronize();
  }
  const began = performance.now();
  for (let i = 0; i < submissions; i++) submit();
  await device.synchronize();
  return (performance.now() - began) / (submissions * calls);
}

async function runner(device: Device, what: Submission): Promise<Runner> {
  await time(device, what, 1);
  const once = await time(device, what, 1);
  const submissions = what.restore ? 1 : Math.max(1, Math.min(2000, Math.round(SLICE_MS / (once * what.calls))));
  return { calls: submissions * what.calls, slice: () => time(device, what, submissions) };
}

const restoreOf = (sets: readonly Work[]): (() => void) | null =>
  sets.some((w) => w.restore) ? () => sets.forEach((w) => w.restore?.()) : null;

export async function eagerRunner(device: Device, sets: readonly Work[]): Promise<Runner> {
  let next = 0;
  const one = (): void => {
    const work = sets[next++ % sets.length]!;
    work.before?.();
    work.run();
  };
  const all = (): void => sets.forEach(one);
  const restore = restoreOf(sets);
  if (!restore) all();
  return runner(device, restore ? { submit: all, calls: sets.length, restore } : { submit: one, calls: 1, restore });
}

/** One launch runs every set once; null where nothing can be recorded. @throws KernelError an op cannot be */
export async function graphRunner(device: Device, sets: readonly Work[]): Promise<{ runner: Runner; graph: Graph } | null> {
  if (!device.info.graphs || sets.some((w) => w.eagerOnly)) return null;
  const graph = await device.capture(() => {
    for (const work of sets) work.run();
  });
  return { graph, runner: await runner(device, { submit: () => graph.launch(), calls: sets.length, restore: restoreOf(sets) }) };
}

/** Slices that give at least MIN_RUNS calls and ten slices, or as many as fit into the seconds (never fewer than five). */
export function slicesFor(msPerCall: number, calls: number, seconds: number): number {
  const wanted = Math.max(10, Math.ceil(MIN_RUNS / calls));
  return Math.max(5, Math.min(wanted, Math.ceil((seconds * 1000) / (msPerCall * calls))));
}
