// What a benchmark case is. A case owns its memory between setup and dispose; `run` submits one call's work.

import type { Precision, RouteRule } from "../lib/ops.ts";
import type { Device } from "../lib/tensor.ts";

export interface Running {
  /** Submits the work of one call (the harness synchronises). */
  readonly run: () => void | Promise<void>;
  readonly dispose: () => void;
}

export interface BenchCase {
  /** what/config/dtype/mode: the same names as in bench/peer_torch.py. */
  readonly id: string;
  readonly precision: Precision;
  /** Useful floating-point operations of a call. */
  readonly flops?: number;
  /** Bytes that must move, for memory-bound ops. */
  readonly bytes?: number;
  /** Sizes of a dense product, for the oracles. */
  readonly product?: { readonly M: number; readonly N: number; readonly K: number };
  /** Tokens of a call, for rates. */
  readonly tokens?: number;
  readonly setup: (device: Device) => Promise<Running>;
}

let state = 1;
/** Uniform values in ±scale, deterministic. */
export function uniform(n: number, scale: number): Float32Array {
  const out = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = (state / 2 ** 31 - 1) * scale;
  }
  return out;
}

/** The router of the op rows: softmax, no groups, weights as they are. */
export const softmaxRule: RouteRule = {
  score: "softmax",
  groups: 1,
  topkGroups: 1,
  groupScore: "max",
  dropped: "zero",
  renormalize: false,
  normEps: 0,
  scale: 1,
};
