// csrc/ops/activation.h: the activations of gated experts and MLPs, a = f(gate, up).
import { code, type Maybe } from "./bind.ts";

/**
 * "swiglu": silu(gate) · up. "clamped swiglu": g · σ(alpha · g) · (u + 1) with g = min(gate, limit) and u = up within ±limit.
 * "gelu tanh gate": gelu(gate) · up, GELU by its tanh formula.
 */
export type Activation =
  | { readonly kind: "swiglu" }
  | { readonly kind: "clamped swiglu"; readonly alpha: number; readonly limit: number }
  | { readonly kind: "gelu tanh gate" };

const kinds = { swiglu: 1, "clamped swiglu": 2, "gelu tanh gate": 3 };

/** How an op reads its activation; without one: `absent`. */
export const activationArgs = <A extends { readonly activation?: Maybe<Activation> }>(absent: 0 | 1) => {
  const numbers = (a: A) => a.activation as { readonly alpha?: number; readonly limit?: number } | null | undefined;
  return {
    act: (a: A): unknown => (a.activation ? code(kinds, a.activation.kind) : (absent as unknown)),
    alpha: (a: A): unknown => numbers(a)?.alpha ?? 0,
    limit: (a: A): unknown => numbers(a)?.limit ?? 0,
  };
};
