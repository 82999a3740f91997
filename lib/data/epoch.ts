// The rows of one epoch: their sizes are known at once, a row is made when it is asked for.

import type { Examples } from "./examples.ts";
import { fit, kept, packDocuments } from "./packing.ts";
import type { PackedRow, PackingOptions } from "./packing.ts";

/** Which examples share a row: row r holds items[starts[r]] up to items[starts[r + 1]]. No starts: each row holds one. */
export interface RowPlan {
  readonly items: Uint32Array;
  readonly starts: Uint32Array | null;
}

/** A plan from rows in their order, as planRows gives them; `items` in all. */
export function rowPlan(rows: Iterable<readonly number[]>, items: number): RowPlan {
  const flat = new Uint32Array(items);
  const starts = new Uint32Array(items + 1);
  let [row, at] = [0, 0];
  for (const row_ of rows) {
    flat.set(row_, at);
    starts[++row] = at += row_.length;
  }
  return { items: flat, starts: starts.slice(0, row + 1) };
}

export class Rows implements Iterable<PackedRow> {
  readonly length: number;
  private readonly plan: RowPlan;
  private readonly examples: Examples;
  private readonly options: Omit<PackingOptions, "packing">;

  constructor(plan: RowPlan, examples: Examples, options: Omit<PackingOptions, "packing">, limit = Number.POSITIVE_INFINITY) {
    this.plan = plan;
    this.examples = examples;
    this.options = options;
    this.length = Math.min(limit, plan.starts === null ? plan.items.length : plan.starts.length - 1);
  }

  /** The first `n` rows, or all where there are fewer. */
  first(n: number): Rows {
    return new Rows(this.plan, this.examples, this.options, Math.min(n, this.length));
  }

  /** Examples, tokens and targets of row `r`, as `make` would have them. */
  count(r: number): { readonly examples: number; readonly tokens: number; readonly supervised: number } {
    const { maxLength, onOverflow } = this.options;
    let [tokens, supervised] = [0, 0];
    const items = this.itemsOf(r);
    for (const i of items) {
      const [from, to] = kept(this.examples.size(i), maxLength, onOverflow);
      tokens += to - from;
      supervised += this.examples.supervised(i, from, to);
    }
    return { examples: items.length, tokens, supervised };
  }

  make(r: number): PackedRow {
    const { maxLength, onOverflow } = this.options;
    return packDocuments(Array.from(this.itemsOf(r), (i) => fit(this.examples.get(i), maxLength, onOverflow)));
  }

  *[Symbol.iterator](): Generator<PackedRow> {
    for (let r = 0; r < this.length; r++) yield this.make(r);
  }

  private itemsOf(r: number): Uint32Array {
    const { items, starts } = this.plan;
    return starts === null ? items.subarray(r, r + 1) : items.subarray(starts[r], starts[r + 1]);
  }
}
