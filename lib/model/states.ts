// What layers keep of a sequence from one pass to the next, so that its new tokens need not see the old ones again: keys and values of
// attention, or the latents that they are made of, the rows that a convolution reaches back to, states of linear attention. Layers ask
// for states when they are composed and hold handles; whoever decodes (lib/generate) makes the memory of each sequence and hands lists of
// it to a pass.

import type { TensorList } from "../tensor.ts";

export type StateSpec =
  /** A row of `width` numbers for each position, in the dtype of the caches. `reach`: so many positions are seen at once; null = all. */
  | { readonly kind: "rows"; readonly width: number; readonly reach: number | null }
  /** One f32 matrix, whatever the length. Zeros before the first token. */
  | { readonly kind: "matrix"; readonly rows: number; readonly cols: number };

/** Which of a model's states. */
export interface StateHandle {
  readonly index: number;
}

/** The states of a model, numbered in the order in which its layers ask for them. */
export class StateIndex {
  readonly specs: StateSpec[] = [];

  add(spec: StateSpec): StateHandle {
    return { index: this.specs.push(spec) - 1 };
  }
}

export type Shares = ReadonlyMap<string, readonly [from: number, to: number]>;

/** The states of the sequences whose newest tokens a pass takes: an item of each list per document, in the documents' order. */
export interface Continued {
  /** By the handle's index. */
  readonly lists: readonly TensorList[];
  /** All of its documents begin here: nothing is kept of them yet. */
  readonly fresh: boolean;
  /** Rows [from, to) of the pass by the adapter whose they are; rows that are nobody's are the base's. Of mixed adapters (layers/mixture.ts). */
  readonly shares?: Shares | undefined;
}
