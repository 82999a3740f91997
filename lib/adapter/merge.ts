// base + adapter → a checkpoint in the base's own layout, verified before it appears.
//
// Shard by shard, tensor by tensor, in file order: same names, dtypes, shards and order; only the adapter's byte ranges are
// replaced (cast to the base's dtype, nearest even).
import { instanceArgument, optionsArgument, pathArgument } from "../arguments.ts";
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { requireApart } from "../files/apart.ts";
import { writeDirectoryAtomic } from "../files/atomic.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkpointArgument, openCheckpoint } from "../files/checkpoint.ts";
import { layoutFault } from "../files/fault.ts";
import type { TensorInfo } from "../files/safetensors.ts";
import { copyRegular } from "../files/regular.ts";
import { readChunks } from "../files/safetensors.ts";
import type { TensorEntry } from "../files/safetensors_writer.ts";
import { writeSafetensors } from "../files/safetensors_writer.ts";
import type { Placed } from "../files/slice.ts";
import { frozenRanges, placeSlices, sliceKey } from "../files/slice.ts";
import type { LongTask } from "../task.ts";
import { Adapter } from "./adapter.ts";
import type { AdapterTensor } from "./tensors.ts";
import { readInto } from "./tensors.ts";
import type { MergeReport } from "./verify_merge.ts";
import { verifyMerge } from "./verify_merge.ts";

export interface MergeOptions extends LongTask {
  /** Replace an existing, non-empty output directory. Default false. */
  readonly overwrite?: boolean | undefined;
}

/**
 * Writes the merged model to `outDir` (absent or empty) and verifies it; on any mismatch nothing appears.
 * @throws LayoutError adapter for another base, unsupported dtype, verification failed · NonFiniteError a value overflows the
 * base's dtype · IoError
 */
export async function mergeAdapter(base: Checkpoint, adapter: Adapter, outDir: string, options: MergeOptions = {}): Promise<MergeReport> {
  checkpointArgument(base, "mergeAdapter: base");
  instanceArgument(adapter, Adapter, "mergeAdapter: adapter");
  pathArgument(outDir, "mergeAdapter: outDir");
  optionsArgument(options, "mergeAdapter: options");
  adapter.refuseAttached("merge");
  await requireApart(outDir, base.dir, "the base", "output");
  // Only a model may be replaced by a model: an existing folder of anything else fails here.
  if (options.overwrite && (await readdir(outDir).catch(() => [])).length > 0) await openCheckpoint(outDir);
  await adapter.checkBase(base, options);
  const placed = placeSlices(adapter.tensors.values(), base.tensors);
  const bytes = base.shards.reduce((n, { size }) => n + size, 0);
  return writeDirectoryAtomic(
    outDir,
    async (temp) => {
      let before = 0;
      for (const shard of base.shards) {
        const entries = [...shard.tensors.values()].map((t): TensorEntry => {
          const slices = placed.get(t.name);
          return { name: t.name, dtype: t.dtype, shape: t.shape, data: () => (slices ? overlay(t, slices) : base.chunks(t.name)) };
        });
        const from = before;
        const written = await writeSafetensors(join(temp, basename(shard.path)), entries, {
          metadata: shard.metadata,
          hash: false, // the verification compares bytes
          signal: options.signal,
          onProgress: (p) => options.onProgress?.({ phase: "merge", done: from + p.done, total: bytes, unit: "bytes" }),
        });
        before += written.bytes;
      }
      for (const file of [...base.sideFiles, ...(base.indexFile ? [base.indexFile] : [])])
        await copyRegular(join(base.dir, file), join(temp, file));
      const report = await verifyMerge(base, adapter, temp, options);
      if (!report.ok)
        throw layoutFault(outDir, `the merged model does not verify and was discarded: ${report.mismatches.slice(0, 3).join("; ")}`);
      return report;
    },
    { bytes, replace: options.overwrite ?? false },
  );
}

/** The tensor's bytes with the adapter's slices in place. */
async function* overlay(tensor: TensorInfo, slices: readonly Placed<AdapterTensor>[]): AsyncGenerator<Uint8Array> {
  const ranges = [...frozenRanges(tensor.end - tensor.begin, slices), ...slices].sort((a, b) => a.begin - b.begin);
  for (const range of ranges) {
    if ("slice" in range) yield readInto(sliceKey(range.slice), range.slice, tensor);
    else yield* readChunks({ path: tensor.path, begin: tensor.begin + range.begin, end: tensor.begin + range.end });
  }
}
