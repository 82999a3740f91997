// First values of low-rank matrices, each from a stream of its own: (seed, name of the tensor).
//
//   kaiming  A uniform in ±1/√in (Kaiming with a = √5), B zero: PEFT's
//   perft    A normal with variance 2/r, B zero: that of arXiv 2411.08212, whose code draws B with deviation 1e-6, here exactly 0

import { createHash } from "node:crypto";
import { ShuffleRandom } from "../data/shuffle.ts";

export type LowRankInit = "kaiming" | "perft";

export const zeros = (n: number): Float32Array => new Float32Array(n);

/** A [rank, in]. */
export function firstA(init: LowRankInit, rank: number, input: number, seed: number, name: string): Float32Array {
  const n = rank * input;
  return init === "perft" ? normal(n, Math.sqrt(2 / rank), seed, name) : uniform(n, 1 / Math.sqrt(input), seed, name);
}

const streamOf = (seed: number, name: string): ShuffleRandom =>
  new ShuffleRandom(seed, createHash("sha256").update(name).digest().readUInt32LE(0));

/** n values uniform in ±bound. */
function uniform(n: number, bound: number, seed: number, name: string): Float32Array {
  const random = streamOf(seed, name);
  return Float32Array.from({ length: n }, () => (random.nextUint32() / 2 ** 31 - 1) * bound);
}

/** n normal values, by Box and Muller. */
export function normal(n: number, deviation: number, seed: number, name: string): Float32Array {
  const random = streamOf(seed, name);
  const unit = (): number => (random.nextUint32() + 0.5) / 2 ** 32;
  return Float32Array.from({ length: n }, () => deviation * Math.sqrt(-2 * Math.log(unit())) * Math.cos(2 * Math.PI * unit()));
}
