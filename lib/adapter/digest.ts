// The frozen-weight certificate: one sha256 over everything that a run must not change. Equal before and after training, and
// on the merged model, exactly when no frozen bit moved.
import { createHash } from "node:crypto";
import type { LongTask } from "../task.ts";
import { throwIfAborted } from "../task.ts";
import type { Dtype } from "../files/safetensors.ts";
import { tensorBytes } from "../files/safetensors.ts";
import type { TensorSlice } from "../files/slice.ts";
import { frozenRanges, placeSlices } from "../files/slice.ts";

/** Anything that can stream named tensors: a checkpoint, dequantised where it is quantised (quantised.ts), or weights of a device. */
export interface TensorSource {
  readonly tensors: ReadonlyMap<string, { readonly dtype: Dtype; readonly shape: readonly number[] }>;
  chunks(name: string): AsyncIterable<Uint8Array>;
}

/**
 * sha256 (hex) over all tensors in name order, without the trained slices. Per tensor: a JSON line
 * [name, dtype, shape, frozen byte ranges], then the bytes of those ranges.
 * @throws LayoutError a trained slice does not exist in the source
 */
export async function frozenDigest(source: TensorSource, trained: Iterable<TensorSlice>, options: LongTask = {}): Promise<string> {
  const placed = placeSlices(trained, source.tensors);
  const list = [...source.tensors]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, t]) => ({ name, ...t, ranges: frozenRanges(tensorBytes(t.dtype, t.shape)!, placed.get(name)) }));
  const total = list.reduce((n, t) => n + t.ranges.reduce((m, r) => m + r.end - r.begin, 0), 0);
  const hash = createHash("sha256");
  let done = 0;
  for (const { name, dtype, shape, ranges } of list) {
    hash.update(`${JSON.stringify([name, dtype, shape, ranges.map((r) => [r.begin, r.end])])}\n`);
    if (ranges.length === 0) continue;
    let at = 0;
    for await (const bytes of source.chunks(name)) {
      throwIfAborted(options.signal, "hashing the frozen weights");
      for (const r of ranges) {
        const piece = bytes.subarray(Math.max(0, r.begin - at), Math.max(0, Math.min(bytes.byteLength, r.end - at)));
        hash.update(piece);
        done += piece.byteLength;
      }
      at += bytes.byteLength;
      options.onProgress?.({ phase: "digest", done, total, unit: "bytes" });
    }
  }
  return hash.digest("hex");
}
