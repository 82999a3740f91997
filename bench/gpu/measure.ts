// How a case is timed, and whether two runs of it are bit-identical.
//
// No clock of the device is read: a slice submits some milliseconds of calls and waits once, so that the wait and the launch of the
// first call vanish. Calls go round over several sets of buffers (together well above the L2 cache). A call is timed twice: as one
// graph of all sets, replayed, and as ordinary submissions ("eager", which shows what launching costs where calls are short).

import * as ops from "../../lib/ops.ts";
import type { Device, Graph, Tensor } from "../../lib/tensor.ts";
import { median, quantile } from "../statistics.ts";
import type { Work } from "./case.ts";

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

/** Milliseconds per call of `submissions` submissions. */
async function time(device: Device, submit: () => void, submissions: number, callsEach: number): Promise<number> {
  const began = performance.now();
  for (let i = 0; i < submissions; i++) submit();
  await device.synchronize();
  return (performance.now() - began) / (submissions * callsEach);
}

async function runner(device: Device, submit: () => void, callsEach: number): Promise<Runner> {
  await time(device, submit, 1, callsEach);
  const once = await time(device, submit, 1, callsEach);
  const submissions = Math.max(1, Math.min(2000, Math.round(SLICE_MS / (once * callsEach))));
  return { calls: submissions * callsEach, slice: () => time(device, submit, submissions, callsEach) };
}

export async function eagerRunner(device: Device, sets: readonly Work[]): Promise<Runner> {
  let next = 0;
  const submit = (): void => {
    const work = sets[next++ % sets.length]!;
    work.before?.();
    work.run();
  };
  for (let i = 0; i < sets.length; i++) submit();
  return runner(device, submit, 1);
}

/** One launch runs every set once; null where nothing can be recorded. @throws KernelError an op cannot be */
export async function graphRunner(device: Device, sets: readonly Work[]): Promise<{ runner: Runner; graph: Graph } | null> {
  if (!device.info.graphs || sets.some((w) => w.eagerOnly)) return null;
  const graph = await device.capture(() => {
    for (const work of sets) work.run();
  });
  return { graph, runner: await runner(device, () => graph.launch(), sets.length) };
}

/** Slices that give at least MIN_RUNS calls and ten slices, or as many as fit into the seconds (never fewer than five). */
export function slicesFor(msPerCall: number, calls: number, seconds: number): number {
  const wanted = Math.max(10, Math.ceil(MIN_RUNS / calls));
  return Math.max(5, Math.min(wanted, Math.ceil((seconds * 1000) / (msPerCall * calls))));
}

// ---- bits ---------------------------------------------------------------------------------------------------------------

const WINDOW = 64 * 2 ** 20; // bytes from the beginning and from the end of a tensor that is longer than both

interface Snapshot {
  readonly bytes: Uint8Array[];
  readonly finite: boolean;
}

function windowsOf(t: Tensor): Tensor[] {
  const scale = t.bytes / t.size;
  const n = WINDOW / scale;
  if (t.size <= 2 * n) return [t.view(0, [t.size])];
  return [t.view(0, [n]), t.view(t.size - n, [n])];
}

async function snapshot(tensors: readonly Tensor[]): Promise<Snapshot> {
  const bytes: Uint8Array[] = [];
  let finite = true;
  for (const t of tensors)
    for (const view of windowsOf(t)) {
      const data = await view.readBytes();
      view.dispose();
      bytes.push(new Uint8Array(data));
      if (t.dtype === "f32") finite &&= allFinite(new Uint32Array(data), 0x7f800000);
      if (t.dtype === "bf16") finite &&= allFinite(new Uint16Array(data), 0x7f80);
    }
  return { bytes, finite };
}

function allFinite(bits: Uint32Array | Uint16Array, exponent: number): boolean {
  for (const b of bits) if ((b & exponent) === exponent) return false;
  return true;
}

export interface Bits {
  /** Two runs from the same state gave the same bits. */
  readonly identical: boolean;
  /** Every element was written and is finite (outputs are infinite before). */
  readonly finite: boolean;
  /** Share of the output bytes that was compared. */
  readonly share: number;
}

/** Runs a case twice from the same state, outputs poisoned before, and compares. */
export async function checkBits(device: Device, work: Work): Promise<Bits> {
  const tensors = [...work.outputs, ...(work.state ?? [])];
  const once = async (): Promise<Snapshot> => {
    for (const x of work.outputs) ops.fill(device, { x, value: x.dtype === "i32" || x.dtype === "i64" ? -1 : Number.POSITIVE_INFINITY });
    work.reset?.();
    work.before?.();
    work.run();
    return snapshot(tensors);
  };
  const first = await once();
  const second = await once();
  const total = tensors.reduce((n, t) => n + t.bytes, 0);
  return {
    identical: first.bytes.every((bytes, i) => Buffer.compare(bytes, second.bytes[i]!) === 0),
    finite: first.finite && second.finite,
    share: total === 0 ? 1 : first.bytes.reduce((n, x) => n + x.byteLength, 0) / total,
  };
}
