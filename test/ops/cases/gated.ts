// The activations of gated experts (csrc/ops/activation.h) in plain JavaScript.

import { number } from "../host.ts";
import type { Args } from "../host.ts";

/** What an op is told: the code and its numbers. */
export interface Gated {
  readonly act: number;
  readonly alpha: number;
  readonly limit: number;
}
export const none: Gated = { act: 0, alpha: 0, limit: 0 };
export const swiglu: Gated = { act: 1, alpha: 0, limit: 0 };
/** A limit that sums of some dozen products often pass, and often do not. */
export const clamped: Gated = { act: 2, alpha: 1.702, limit: 2.5 };
export const gelu: Gated = { act: 3, alpha: 0, limit: 0 };
export const every = { SwiGLU: swiglu, "clamped SwiGLU": clamped, "tanh-GELU gate": gelu } as const;

export const gatedOf = (a: Args, code = "act"): Gated => ({ act: number(a, code), alpha: number(a, "alpha"), limit: number(a, "limit") });

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const within = (x: number, limit: number): number => Math.max(-limit, Math.min(x, limit));

/** a, ∂a/∂gate, ∂a/∂up. */
export function gated({ act, alpha, limit }: Gated, gate: number, up: number): { a: number; byGate: number; byUp: number } {
  if (act === 2) {
    const [g, u] = [Math.min(gate, limit), within(up, limit) + 1];
    const s = sigmoid(alpha * g);
    return { a: g * s * u, byGate: gate <= limit ? u * s * (1 + alpha * g * (1 - s)) : 0, byUp: Math.abs(up) <= limit ? g * s : 0 };
  }
  if (act === 3) {
    const c = Math.sqrt(2 / Math.PI);
    const t = Math.tanh(c * (gate + 0.044715 * gate ** 3));
    const half = 0.5 * (1 + t);
    const slope = (1 - t * t) * c * (1 + 3 * 0.044715 * gate * gate);
    return { a: gate * half * up, byGate: up * (half + 0.5 * gate * slope), byUp: gate * half };
  }
  const s = sigmoid(gate);
  return { a: gate * s * up, byGate: up * s * (1 + gate * (1 - s)), byUp: gate * s };
}
