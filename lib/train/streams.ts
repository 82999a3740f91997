// The rows of a run: batches to train on, and rows that losses are taken over.

import type { Rows } from "../data/epoch.ts";
import type { Examples } from "../data/examples.ts";
import { BatchStream } from "../data/stream.ts";
import type { BatchOptions } from "../data/stream.ts";
import type { AskedOptions } from "../options.ts";

function streamOptions({ data, seed }: AskedOptions, padId: number): Omit<BatchOptions, "rowsPerBatch" | "shuffle"> {
  const { packing, maxLength, onOverflow } = data;
  return { packing, maxLength, onOverflow, seed, padId };
}

/** The batches that a run takes, from the first one on. */
export function trainingStream(train: Examples, options: AskedOptions, padId: number): BatchStream {
  return new BatchStream(train, { ...streamOptions(options, padId), rowsPerBatch: options.rowsPerStep });
}

/** Rows that a loss is taken over: the first `limit` in the file's order (0 = all), null when nothing in them is supervised. */
export function heldOutRows(heldOut: Examples, options: AskedOptions, padId: number, limit: number): Rows | null {
  const all = new BatchStream(heldOut, { ...streamOptions(options, padId), rowsPerBatch: 1, shuffle: false }).rows();
  const rows = limit > 0 ? all.first(limit) : all;
  for (let r = 0; r < rows.length; r++) if (rows.count(r).supervised > 0) return rows;
  return null;
}
