// Does a merged model compute what base + adapter computes? Compared bit for bit on fixed token rows.

import type { Adapter } from "./adapter/adapter.ts";
import { readInto } from "./adapter/tensors.ts";
import type { Checkpoint } from "./files/checkpoint.ts";
import { hostBatch } from "./model/batch.ts";
import { MoeModel } from "./moe_model.ts";

export type LogitsCheck = Awaited<ReturnType<typeof checkMergedLogits>>;

const ROWS = 3;
const TOKENS = 24;

/** Rows of token ids that are the same everywhere: a Weyl sequence over the vocabulary. */
function tokenRows(vocab: number, length: number): number[][] {
  return Array.from({ length: ROWS }, (_, r) =>
    Array.from({ length }, (_unused, t) => Math.floor((((r * length + t + 1) * 0.618033988749895) % 1) * vocab)),
  );
}

const rowsOf = ({ spec }: MoeModel): number[][] => tokenRows(spec.vocab, Math.min(TOKENS, spec.maxPositions));

/** Logits of those rows, a row after the other. */
async function logitsOf(model: MoeModel): Promise<Float32Array[]> {
  const out: Float32Array[] = [];
  for (const ids of rowsOf(model)) {
    using logits = model.transformer.logits(hostBatch([{ ids, targets: ids.map(() => -100) }]));
    out.push(await logits.readF32());
  }
  return out;
}

/** Of the base alone, and with the adapter as merging rounds it. */
async function ofBase(dir: string, adapter: Adapter, load: Parameters<typeof MoeModel.fromPretrained>[1]) {
  await using base = await MoeModel.fromPretrained(dir, load);
  const before = await logitsOf(base);
  await base.applyAdapter(asMerged(adapter, base.checkpoint));
  return { before, wanted: await logitsOf(base), tokens: rowsOf(base).flat().length };
}

/** @throws LayoutError the adapter does not fit the base */
export async function checkMergedLogits(
  baseDir: string,
  adapter: Adapter,
  mergedDir: string,
  options: { readonly threads?: number; readonly signal?: AbortSignal } = {},
) {
  // On the CPU, which is exact. One model after the other: weights may be copied when they are loaded.
  // A base that is quantised on disk is computed with as merging writes it.
  const load = { ...options, device: "cpu", checkWeights: false, dequantise: "bf16" } as const;
  const { before, wanted, tokens } = await ofBase(baseDir, adapter, load);
  await using merged = await MoeModel.fromPretrained(mergedDir, load);
  const found = await logitsOf(merged);
  let [different, values, maxAbs, maxChange] = [0, 0, 0, 0];
  found.forEach((row, r) => {
    const [w, b] = [wanted[r]!, before[r]!];
    values += row.length;
    const bits = new Uint32Array(row.buffer);
    const wantedBits = new Uint32Array(w.buffer);
    for (let i = 0; i < row.length; i++) {
      if (bits[i] !== wantedBits[i]) different++;
      const d = Math.abs(row[i]! - w[i]!);
      if (d > maxAbs || Number.isNaN(d)) maxAbs = d;
      maxChange = Math.max(maxChange, Math.abs(row[i]! - b[i]!));
    }
  });
  return {
    ok: different === 0,
    rows: ROWS,
    tokens,
    values,
    different,
    /** Largest |merged − (base + adapter)|; 0 when equal. */
    maxAbs,
    /** Largest |merged − base|: shows that the adapter does something. */
    maxChange,
  };
}

/** The adapter with the values that a merge writes: rounded to the base's dtype. */
function asMerged(adapter: Adapter, base: Checkpoint): Adapter {
  const tensors = [...adapter.tensors].map(([key, t]) => {
    const into = base.weights.get(t.name);
    return into ? { ...t, dtype: into.dtype, read: () => readInto(key, t, into) } : t; // applyAdapter names one that is not there
  });
  return adapter.with({ tensors });
}
