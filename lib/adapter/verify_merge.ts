// Is a checkpoint base + adapter and nothing else? It is read again from disk and compared bit for bit; of the writer's code only the
// slice arithmetic and the cast are shared.
import { instanceArgument, optionsArgument, pathArgument } from "../arguments.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkpointArgument, openCheckpoint } from "../files/checkpoint.ts";
import { decodeFloats } from "../files/floats.ts";
import { shownType } from "../files/fault.ts";
import type { Dtype } from "../files/safetensors.ts";
import { tensorBytes } from "../files/safetensors.ts";
import { frozenRanges, placeSlices, sliceKey } from "../files/slice.ts";
import { DequantisedCheckpoint } from "../quantised.ts";
import type { LongTask } from "../task.ts";
import { throwIfAborted } from "../task.ts";
import { Adapter } from "./adapter.ts";
import { readInto } from "./tensors.ts";

/** How far one trained slice moved from the base, in the merged model's own dtype. */
export interface SliceDelta {
  readonly key: string;
  readonly elements: number;
  readonly changed: number;
  /** ‖merged − base‖₂, ‖base‖₂ and the largest |merged − base|. */
  readonly deltaNorm: number;
  readonly baseNorm: number;
  readonly maxAbs: number;
}

export interface MergeReport {
  readonly ok: boolean;
  /** First hundred faults in words. */
  readonly mismatches: readonly string[];
  readonly tensors: number;
  /** Tensors that are bit-equal to the base as a whole. */
  readonly untouched: number;
  readonly bytesCompared: number;
  readonly slices: readonly SliceDelta[];
  /** Experts of which at least one value differs: layer → ascending ids. */
  readonly changedExperts: Readonly<Record<number, readonly number[]>>;
}

const STEP = 8 * 1024 * 1024;

function* steps(range: { readonly begin: number; readonly end: number }): Generator<[number, number]> {
  for (let at = range.begin; at < range.end; at += STEP) yield [at, Math.min(at + STEP, range.end)];
}

/**
 * Rereads a merged directory: outside the adapter's slices every tensor is bit-equal to the base, inside it is bit-equal to the
 * cast adapter; names, dtypes, shapes and shards are the base's. Of a base that is quantised on disk they are those of the dequantised
 * checkpoint. A mismatch is reported, not thrown.
 */
export async function verifyMerge(base: Checkpoint, adapter: Adapter, mergedDir: string, options: LongTask = {}): Promise<MergeReport> {
  checkpointArgument(base, "verifyMerge: base");
  instanceArgument(adapter, Adapter, "verifyMerge: adapter");
  pathArgument(mergedDir, "verifyMerge: mergedDir");
  optionsArgument(options, "verifyMerge: options");
  adapter.refuseAttached("verify a merged model with");
  const merged = await openCheckpoint(mergedDir);
  using source = new DequantisedCheckpoint(base);
  const { totalBytes: total } = source;
  const placed = placeSlices(adapter.tensors.values(), source.tensors);
  const mismatches: string[] = [];
  const fault = (text: string) => mismatches.length < 100 && mismatches.push(text);
  const slices: SliceDelta[] = [];
  const changedExperts = new Map<number, Set<number>>();
  let untouched = 0;
  let done = 0;
  const advance = (bytes: number): void => {
    done += bytes;
    options.onProgress?.({ phase: "verify", done, total, unit: "bytes" });
  };

  for (const name of merged.tensors.keys()) if (!source.tensors.has(name)) fault(`tensor "${name}" is not in the base`);
  for (const [name, b] of source.tensors) {
    throwIfAborted(options.signal, `verifying ${mergedDir}`);
    const m = merged.tensors.get(name);
    if (!m || describe(m) !== describe(b)) {
      fault(`tensor "${name}": expected ${describe(b)}, found ${m ? describe(m) : "no such tensor"}`);
      continue;
    }
    const own = placed.get(name) ?? [];
    if (own.length === 0) untouched++;
    for (const range of frozenRanges(tensorBytes(b.dtype, b.shape)!, own)) {
      for (const [from, to] of steps(range)) {
        throwIfAborted(options.signal, `verifying ${mergedDir}`);
        const [left, right] = [await source.range(name, from, to), await merged.range(name, from, to)];
        if (!equalBytes(left, right)) fault(`tensor "${name}": bytes ${from} to ${to} differ from the base although they are frozen`);
        advance(to - from);
      }
    }
    for (const s of own) {
      const key = sliceKey(s.slice);
      const [before, found] = [await source.range(name, s.begin, s.end), await merged.range(name, s.begin, s.end)];
      if (!equalBytes(found, await readInto(key, s.slice, b))) fault(`tensor "${key}" differs from the adapter`);
      const delta = compare(key, decodeFloats(before, b.dtype), decodeFloats(found, b.dtype));
      slices.push(delta);
      const { layer, expert } = s.slice;
      if (delta.changed > 0 && expert !== undefined) changedExperts.set(layer, (changedExperts.get(layer) ?? new Set()).add(expert));
      advance(s.end - s.begin);
    }
  }
  return {
    ok: mismatches.length === 0,
    mismatches,
    tensors: source.tensors.size,
    untouched,
    bytesCompared: done,
    slices,
    changedExperts: Object.fromEntries([...changedExperts].map(([layer, ids]) => [layer, [...ids].sort((a, b) => a - b)])),
  };
}

const describe = (t: { readonly dtype: Dtype; readonly shape: readonly number[]; readonly file: string }) => `${shownType(t)} in ${t.file}`;
const equalBytes = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;

function compare(key: string, base: Float32Array, merged: Float32Array): SliceDelta {
  let changed = 0;
  let delta = 0;
  let norm = 0;
  let maxAbs = 0;
  for (let i = 0; i < base.length; i++) {
    const d = merged[i]! - base[i]!;
    if (d !== 0) changed++;
    delta += d * d;
    norm += base[i]! * base[i]!;
    if (Math.abs(d) > maxAbs) maxAbs = Math.abs(d);
  }
  return { key, elements: base.length, changed, deltaNorm: Math.sqrt(delta), baseNorm: Math.sqrt(norm), maxAbs };
}
