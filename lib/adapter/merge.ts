// base + adapter → a checkpoint in the base's own layout, verified before it appears.
//
// Shard by shard, tensor by tensor, in file order: same names, dtypes, shards and order; only the adapter's byte ranges are
// replaced (cast to the base's dtype, nearest even). The verification rereads the written files and shares no code with the
// writer but the slice arithmetic.
import { copyFile, readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { ConfigError, LayoutError, NonFiniteError } from "../errors.ts";
import type { LongTask } from "../task.ts";
import { writeDirectoryAtomic } from "../files/atomic.ts";
import { ioError, throwIfAborted } from "../task.ts";
import { castFloats, decodeFloats, firstNonFinite } from "../files/floats.ts";
import type { Checkpoint, CheckpointTensor } from "../files/checkpoint.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import { readFileRange } from "../files/safetensors.ts";
import type { TensorEntry } from "../files/safetensors_writer.ts";
import { writeSafetensors } from "../files/safetensors_writer.ts";
import type { PlacedSlice } from "../files/slice.ts";
import { frozenRanges, placeSlices, sliceKey } from "../files/slice.ts";
import type { Adapter } from "./adapter.ts";
import type { AdapterTensor } from "./tensors.ts";

export interface MergeOptions extends LongTask {
  /** Replace an existing, non-empty output directory. Default false. */
  readonly overwrite?: boolean | undefined;
}

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

type Placed = PlacedSlice & { readonly slice: AdapterTensor };

/**
 * Writes the merged model to `outDir` (absent or empty) and verifies it; on any mismatch nothing appears.
 * @throws LayoutError adapter for another base, unsupported dtype, verification failed · NonFiniteError a value overflows the
 * base's dtype · IoError
 */
export async function mergeAdapter(base: Checkpoint, adapter: Adapter, outDir: string, options: MergeOptions = {}): Promise<MergeReport> {
  if (resolve(outDir) === resolve(base.dir))
    throw new ConfigError(`expected an output folder other than the base ${base.dir}; the base is never overwritten`, {
      where: { file: outDir },
    });
  adapter.refuseAttached("merge");
  // Only a model may be replaced by a model: an existing folder of anything else fails here.
  if (options.overwrite && (await hasEntries(outDir))) await openCheckpoint(outDir);
  await adapter.checkBase(base, options);
  const placed = placeSlices(adapter.tensors.values(), base.tensors);
  let bytes = 0;
  for (const shard of base.shards) bytes += shard.bytes;
  return writeDirectoryAtomic(
    outDir,
    async (temp) => {
      let before = 0;
      for (const shard of base.shards) {
        const entries = shard.tensors.map((t): TensorEntry => {
          const slices = placed.get(t.name);
          return {
            name: t.name,
            dtype: t.dtype,
            shape: t.shape,
            data: slices ? () => overlay(base, t, slices, adapter) : () => base.chunks(t.name),
          };
        });
        const from = before;
        const written = await writeSafetensors(join(temp, shard.file), entries, {
          metadata: shard.metadata,
          hash: false, // the verification compares bytes
          signal: options.signal,
          onProgress: (p) => options.onProgress?.({ phase: "merge", done: from + p.done, total: bytes, unit: "bytes" }),
        });
        before += written.bytes;
      }
      for (const file of [...base.sideFiles, ...(base.indexFile ? [base.indexFile] : [])])
        await copyFile(join(base.dir, file), join(temp, file)).catch((error: unknown) => {
          throw ioError(error, `cannot copy ${file}`, { file: join(base.dir, file) });
        });
      const report = await verifyMerge(base, adapter, temp, options);
      if (!report.ok)
        throw new LayoutError(
          `${outDir}: the merged model does not verify and was discarded: ${report.mismatches.slice(0, 3).join("; ")}`,
          { where: { file: outDir } },
        );
      return report;
    },
    { bytes, replace: options.overwrite ?? false },
  );
}

async function hasEntries(dir: string): Promise<boolean> {
  return (await readdir(dir).catch(() => [])).length > 0;
}

/** The tensor's bytes with the adapter's slices in place. */
async function* overlay(
  base: Checkpoint,
  tensor: CheckpointTensor,
  slices: readonly Placed[],
  adapter: Adapter,
): AsyncGenerator<Uint8Array> {
  const ranges = [...frozenRanges(tensor.end - tensor.begin, slices), ...slices].sort((a, b) => a.begin - b.begin);
  for (const range of ranges) {
    if ("slice" in range) yield castTo(await adapter.read(sliceKey(range.slice)), range.slice, tensor);
    else for (const [a, b] of steps(range)) yield await readFileRange(tensor.path, tensor.begin + a, tensor.begin + b);
  }
}

function castTo(bytes: Uint8Array, from: AdapterTensor, tensor: CheckpointTensor): Uint8Array {
  const key = sliceKey(from);
  let cast: Uint8Array;
  try {
    cast = castFloats(bytes, from.dtype, tensor.dtype);
  } catch (error) {
    throw new LayoutError(
      `${tensor.path}: tensor "${key}": cannot merge ${from.dtype} into ${tensor.dtype}; merge into a dequantised base`,
      { where: { file: tensor.path, tensor: key }, cause: error },
    );
  }
  const bad = firstNonFinite(cast, tensor.dtype);
  if (bad !== -1)
    throw new NonFiniteError(`tensor "${key}": element ${bad} overflows the base's dtype ${tensor.dtype}`, {
      where: { tensor: key, element: bad },
    });
  return cast;
}

const STEP = 8 * 1024 * 1024;

function* steps(range: { readonly begin: number; readonly end: number }): Generator<[number, number]> {
  for (let at = range.begin; at < range.end; at += STEP) yield [at, Math.min(at + STEP, range.end)];
}

/**
 * Rereads a merged directory: outside the adapter's slices every tensor is bit-equal to the base, inside it is bit-equal to the
 * cast adapter; names, dtypes, shapes and shards are the base's. A mismatch is reported, not thrown.
 */
export async function verifyMerge(base: Checkpoint, adapter: Adapter, mergedDir: string, options: LongTask = {}): Promise<MergeReport> {
  adapter.refuseAttached("verify a merged model with");
  const merged = await openCheckpoint(mergedDir);
  const placed = placeSlices(adapter.tensors.values(), base.tensors);
  const mismatches: string[] = [];
  const fault = (text: string) => mismatches.length < 100 && mismatches.push(text);
  const slices: SliceDelta[] = [];
  const changedExperts = new Map<number, Set<number>>();
  let untouched = 0;
  let done = 0;

  for (const name of merged.tensors.keys()) if (!base.tensors.has(name)) fault(`tensor "${name}" is not in the base`);
  for (const [name, b] of base.tensors) {
    throwIfAborted(options.signal, `verifying ${mergedDir}`);
    const m = merged.tensors.get(name);
    if (!m) {
      fault(`tensor "${name}" is missing`);
      continue;
    }
    if (describe(m) !== describe(b)) {
      fault(`tensor "${name}": expected ${describe(b)}, found ${describe(m)}`);
      continue;
    }
    const own = placed.get(name) ?? [];
    if (own.length === 0) untouched++;
    for (const range of frozenRanges(b.end - b.begin, own)) {
      for (const [from, to] of steps(range)) {
        throwIfAborted(options.signal, `verifying ${mergedDir}`);
        const [left, right] = [await bytesOf(b, from, to), await bytesOf(m, from, to)];
        if (!equalBytes(left, right)) fault(`tensor "${name}": bytes ${from} to ${to} differ from the base although they are frozen`);
        done += to - from;
        options.onProgress?.({ phase: "verify", done, total: base.totalBytes, unit: "bytes" });
      }
    }
    for (const s of own) {
      const found = await bytesOf(m, s.begin, s.end);
      if (!equalBytes(found, castTo(await adapter.read(sliceKey(s.slice)), s.slice, b)))
        fault(`tensor "${sliceKey(s.slice)}" differs from the adapter`);
      const delta = compare(sliceKey(s.slice), decodeFloats(await bytesOf(b, s.begin, s.end), b.dtype), decodeFloats(found, b.dtype));
      slices.push(delta);
      const { role, layer, expert } = s.slice;
      if (delta.changed > 0 && role === "expert" && expert !== undefined)
        changedExperts.set(layer, (changedExperts.get(layer) ?? new Set()).add(expert));
      done += s.end - s.begin;
      options.onProgress?.({ phase: "verify", done, total: base.totalBytes, unit: "bytes" });
    }
  }
  return {
    ok: mismatches.length === 0,
    mismatches,
    tensors: base.tensors.size,
    untouched,
    bytesCompared: done,
    slices,
    changedExperts: Object.fromEntries([...changedExperts].map(([layer, ids]) => [layer, [...ids].sort((a, b) => a - b)])),
  };
}

const describe = (t: CheckpointTensor) => `${t.dtype} [${t.shape.join(", ")}] in ${t.file}`;
const bytesOf = (t: CheckpointTensor, begin: number, end: number) => readFileRange(t.path, t.begin + begin, t.begin + end);
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
