// What is measured on a GPU: shapes.json, read by bench/peer too so that both sides run the same sizes. "tiny" runs every path of the
// benchmark on the emulation and on torch's CPU; its times mean nothing.

import { readFileSync } from "node:fs";

/** D model, F expert, E experts, K experts per token, and how many of the hottest experts train in ESFT modes. */
export interface MoeShape {
  readonly D: number;
  readonly F: number;
  readonly E: number;
  readonly K: number;
  readonly trained: number;
}

export interface Shapes {
  /** Rows × columns of bf16. */
  readonly copy: readonly [number, number];
  /** [K, N, M]. */
  readonly gemm: readonly (readonly [number, number, number])[];
  readonly models: Readonly<Record<string, MoeShape>>;
  readonly tokens: readonly number[];
  readonly routings: readonly string[];
  /** Layer configurations and modes that are compared with PyTorch; the others are the sweep. */
  readonly headline: Readonly<Record<string, readonly string[]>>;
  readonly grouped: { readonly model: string; readonly tokens: readonly number[] };
  readonly routing: { readonly T: number; readonly E: number; readonly K: number };
  readonly combine: { readonly T: number; readonly K: number; readonly D: number };
  /** dims: width of queries and keys, width of values. Where they differ, the last `shared` of every key are one copy (MLA). */
  readonly attention: {
    readonly dims: readonly (readonly [number, number])[];
    readonly shared: number;
    readonly S: number;
    readonly B: number;
    readonly heads: number;
  };
  readonly head: { readonly N: number; readonly D: number; readonly V: number };
  readonly norm: { readonly T: number; readonly D: number };
  readonly rope: { readonly T: number; readonly heads: number; readonly dim: number };
  readonly swiglu: { readonly T: number; readonly F: number };
  /** The training state of an optimizer step. */
  readonly state: { readonly name: string; readonly matrices: number; readonly rows: number; readonly cols: number };
  readonly step: {
    readonly name: string;
    readonly batch: number;
    readonly seq: number;
    readonly trained: number;
    readonly config: Readonly<Record<string, number | null>>;
  };
}

export function readShapes(tiny: boolean): Shapes {
  const all = JSON.parse(readFileSync(new URL("shapes.json", import.meta.url), "utf8")) as Record<"full" | "tiny", Shapes>;
  return all[tiny ? "tiny" : "full"];
}
