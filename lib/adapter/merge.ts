// base + adapter → a checkpoint in the base's own layout, verified before it appears.
//
// Shard by shard, tensor by tensor, in file order: same names, dtypes, shards and order; only the adapter's byte ranges are
// replaced (cast to the base's dtype, nearest even). A base that is quantised on disk is never quantised again: its dequantised
// checkpoint (quantised.ts) is written where that is asked for.
import { instanceArgument, optionsArgument, pathArgument } from "../arguments.ts";
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { requireApart } from "../files/apart.ts";
import { writeDirectoryAtomic, writeFileAtomic } from "../files/atomic.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkpointArgument, openCheckpoint } from "../files/checkpoint.ts";
import { layoutFault } from "../files/fault.ts";
import { formatJson } from "../files/json.ts";
import type { WeightInfo } from "../files/quantised/packed.ts";
import { withoutQuantization } from "../files/quantised/index.ts";
import { copyRegular } from "../files/regular.ts";
import { tensorBytes } from "../files/safetensors.ts";
import type { TensorEntry } from "../files/safetensors_writer.ts";
import { writeSafetensors } from "../files/safetensors_writer.ts";
import type { Placed } from "../files/slice.ts";
import { frozenRanges, placeSlices, sliceKey } from "../files/slice.ts";
import { DequantisedCheckpoint } from "../quantised.ts";
import type { LongTask } from "../task.ts";
import { Adapter } from "./adapter.ts";
import type { AdapterTensor } from "./tensors.ts";
import { readInto } from "./tensors.ts";
import type { MergeReport } from "./verify_merge.ts";
import { verifyMerge } from "./verify_merge.ts";

export interface MergeOptions extends LongTask {
  /** Replace an existing, non-empty output directory. Default false. */
  readonly overwrite?: boolean | undefined;
  /** Of a base that is quantised on disk, write the whole model as bf16; such a base is refused otherwise. Default false. */
  readonly dequantise?: boolean | undefined;
}

/**
 * Writes the merged model to `outDir` (absent or empty) and verifies it; on any mismatch nothing appears.
 * @throws LayoutError adapter for another base, unsupported dtype, a base that is quantised on disk, verification failed · NonFiniteError a value overflows the
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
  using source = new DequantisedCheckpoint(base);
  const isQuantised = [...source.tensors.values()].some((w) => w.packed);
  if (isQuantised && !options.dequantise) refuseQuantised(base, source.totalBytes);
  const placed = placeSlices(adapter.tensors.values(), source.tensors);
  const bytes = isQuantised ? source.totalBytes : base.shards.reduce((n, { size }) => n + size, 0);
  return await writeDirectoryAtomic(
    outDir,
    async (temp) => {
      let before = 0;
      for (const shard of base.shards) {
        const weights = [...source.tensors.values()].filter(({ stored }) => stored.path === shard.path);
        const entries = weights.map((w): TensorEntry => {
          const slices = placed.get(w.name);
          return { ...w, data: () => (slices ? overlay(source, w, slices) : source.chunks(w.name)) };
        });
        if (entries.length === 0) continue; // it held nothing but scales
        const from = before;
        const written = await writeSafetensors(join(temp, basename(shard.path)), entries, {
          metadata: shard.metadata,
          hash: false, // the verification compares bytes
          signal: options.signal,
          onProgress: (p) => options.onProgress?.({ phase: "merge", done: from + p.done, total: bytes, unit: "bytes" }),
        });
        before += written.bytes;
      }
      if (isQuantised) await writeDescriptions(base, source, temp);
      const written = isQuantised ? ["config.json"] : [];
      const index = base.indexFile === null || isQuantised ? [] : [base.indexFile];
      for (const file of [...base.sideFiles.filter((f) => !written.includes(f)), ...index])
        await copyRegular(join(base.dir, file), join(temp, file));
      const report = await verifyMerge(base, adapter, temp, options);
      if (!report.ok)
        throw layoutFault(outDir, `the merged model does not verify and was discarded: ${report.mismatches.slice(0, 3).join("; ")}`);
      return report;
    },
    { bytes, replace: options.overwrite ?? false },
  );
}

function refuseQuantised({ dir, totalBytes }: Checkpoint, dequantised: number): never {
  const gigabytes = (bytes: number): string => `${(bytes / 1e9).toPrecision(3)} GB`;
  throw layoutFault(
    dir,
    "this base is quantised on disk, and a merged model is never quantised again, which would lose most of what was trained. Two ways out: " +
      `1. dequantise (--dequantise), which writes the whole model as bf16, ${gigabytes(dequantised)} instead of ${gigabytes(totalBytes)}; ` +
      "2. keep the adapter beside the base, and load both (--adapter)",
  );
}

/** config.json without quantization_config, and the index of the shards. */
async function writeDescriptions(base: Checkpoint, source: DequantisedCheckpoint, dir: string): Promise<void> {
  await writeFileAtomic(join(dir, "config.json"), formatJson(withoutQuantization(base.config)));
  if (base.indexFile === null) return;
  const weights = [...source.tensors.values()].map(({ name, file }) => [name, file] as const);
  const index = { metadata: { total_size: source.totalBytes }, weight_map: Object.fromEntries(weights) };
  await writeFileAtomic(join(dir, base.indexFile), formatJson(index));
}

/** The tensor's bytes with the adapter's slices in place. */
async function* overlay(
  source: DequantisedCheckpoint,
  weight: WeightInfo,
  slices: readonly Placed<AdapterTensor>[],
): AsyncGenerator<Uint8Array> {
  const ranges = [...frozenRanges(tensorBytes(weight.dtype, weight.shape)!, slices), ...slices].sort((a, b) => a.begin - b.begin);
  for (const range of ranges) {
    if ("slice" in range) yield readInto(sliceKey(range.slice), range.slice, weight);
    else yield* source.chunks(weight.name, range.begin, range.end);
  }
}
