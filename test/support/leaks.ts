// Whether a process grows: what it holds after each stretch of a long repetition, and a line through that.

import { readdirSync, readFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { native } from "../../lib/native.ts";

setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc") as () => void;

/** What a process holds at one moment: bytes, or how many. */
export interface Held {
  /** Resident memory. */
  readonly rss: number;
  /** V8's heap after a collection. */
  readonly heap: number;
  /** Memory outside the heap that V8 was told of: of tensors and buffers. */
  readonly accounted: number;
  readonly handles: number;
  readonly threads: number;
}
export type Quantity = keyof Held;

/** Rises that count as flat, over all that is measured: bytes allow for the allocator's and the compiler's own movement. */
export const flat: Readonly<Record<Quantity, number>> = { rss: 16 << 20, heap: 2 << 20, accounted: 64 << 10, handles: 0, threads: 0 };

/** Collects garbage, lets finalizers and closing handles through, and looks. */
export async function look(): Promise<Held> {
  for (let i = 0; i < 3; i++) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const status = readFileSync("/proc/self/status", "utf8");
  return {
    rss: 1024 * Number(/^VmRSS:\s+(\d+)/m.exec(status)![1]),
    heap: process.memoryUsage().heapUsed,
    accounted: native.externalMemory(),
    handles: readdirSync("/proc/self/fd").length,
    threads: readdirSync("/proc/self/task").length,
  };
}

export interface Growth {
  readonly first: number;
  readonly last: number;
  /**
   * Of resident memory and the heap: of the least-squares line, from the first sample after the warm-up to the last. Of what a save or
   * a pool of threads holds for a moment (accounted memory, handles, threads): from the least of the first third to the least of the
   * last.
   */
  readonly rise: number;
  readonly flat: boolean;
}

/** The share of the samples that is warm-up. */
const warmUp = 0.3;

/** By quantity: how samples at equal distances grow, the warm-up left out. */
export function growth(samples: readonly Held[]): Record<Quantity, Growth> {
  const measured = samples.slice(Math.floor(samples.length * warmUp));
  const n = measured.length;
  const line = (y: readonly number[]): number => {
    const mean = y.reduce((sum, value) => sum + value, 0) / n;
    const middle = (n - 1) / 2;
    const xy = y.reduce((sum, value, x) => sum + (x - middle) * (value - mean), 0);
    const xx = y.reduce((sum, _, x) => sum + (x - middle) ** 2, 0);
    return (xy / xx) * (n - 1);
  };
  const third = Math.max(1, Math.floor(n / 3));
  const least = (y: readonly number[]): number => Math.min(...y.slice(-third)) - Math.min(...y.slice(0, third));
  const of = (quantity: Quantity): Growth => {
    const y = measured.map((held) => held[quantity]);
    const rise = (quantity === "rss" || quantity === "heap" ? line : least)(y);
    return { first: y[0]!, last: y[n - 1]!, rise, flat: rise <= flat[quantity] };
  };
  return { rss: of("rss"), heap: of("heap"), accounted: of("accounted"), handles: of("handles"), threads: of("threads") };
}

/** A gauge that is told of every repetition of `count` and looks at `samples` of them. */
export class Gauge {
  readonly samples: Held[] = [];
  private readonly every: number;
  private done = 0;
  constructor(count: number, samples = 24) {
    this.every = Math.max(1, Math.floor(count / samples));
  }
  async again(): Promise<void> {
    if (++this.done % this.every === 0) this.samples.push(await look());
  }
}
