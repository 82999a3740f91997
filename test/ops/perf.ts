// Performance rows of the case tables: calls made by the functions that make the rows whose values are checked, at sizes that matter.
// bench/cases turns them into benchmark cases; bench/peer_torch.py gets the same names and sizes as JSON.
//
// A row gives a `Sketch` to its builders, so that what is large is described and filled on the device. Tensors made by `out` are
// overwritten by a call, others that it writes are its state. One tensor object in several calls of a row is one tensor.

import type { Args, Random } from "./host.ts";

/** Whose sizes these are. On cuda activations and the weights of products are bf16 (bf16_args.ts). */
export type Backend = "cpu" | "cuda";

/** Sizes by the letters of the op contracts, and words for what is not a size. */
export type Sizes = Readonly<Record<string, number | string>>;

export interface OpCall {
  readonly op: string;
  readonly args: Args;
}

export interface Cost {
  /** Useful floating-point operations of products: a multiply-add is two, no padding, nothing for frozen experts. */
  readonly flops?: number;
  /** Bytes that must move at least once. */
  readonly bytes?: number;
  readonly tokens?: number;
}

/** The calls of a row, in order. Without `bytes` every operand counts once as it is stored, state twice. */
export interface PerfCalls extends Cost {
  readonly calls: readonly OpCall[];
  /** What else is worth knowing about the inputs. */
  readonly facts?: Readonly<Record<string, number>>;
}

export interface PerfRow {
  /** what/config/dtype/mode; dtype is the precision of products ("-bf16w": of f32 products with bf16 weights). */
  readonly id: string;
  readonly on: Backend;
  readonly sizes: Sizes;
  /** With the row's own sizes, or with smaller ones that prove it. */
  readonly make: (sizes: Sizes, r: Random) => PerfCalls;
}

/** A row whose builder knows its sizes by name. */
export function perfRow<S extends Sizes>(id: string, on: Backend, sizes: S, make: (sizes: S, r: Random) => PerfCalls): PerfRow {
  return { id, on, sizes, make: (given, r) => make(given as S, r) };
}

/** A row of one call. */
export function perfCall<S extends Sizes>(
  id: string,
  on: Backend,
  sizes: S,
  op: string,
  args: (sizes: S, r: Random) => Args,
  cost: (sizes: S) => Cost = () => ({}),
): PerfRow {
  return perfRow(id, on, sizes, (s, r) => ({ calls: [{ op, args: args(s, r) }], ...cost(s) }));
}
