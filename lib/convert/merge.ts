// base + adapter → a checkpoint, and its verification, for adapters of every method: what is attached is folded into the weights first.

import type { Adapter } from "../adapter/adapter.ts";
import { mergeAdapter as mergeTensors } from "../adapter/merge.ts";
import type { MergeOptions } from "../adapter/merge.ts";
import { verifyMerge as verifyTensors } from "../adapter/verify_merge.ts";
import type { MergeReport } from "../adapter/verify_merge.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { checkpointArgument } from "../files/checkpoint.ts";
import type { LongTask } from "../task.ts";
import { foldAdapter } from "./fold.ts";

/**
 * Writes the merged model to `outDir` (absent or empty) and verifies it; on any mismatch nothing appears. LoRA is folded into the
 * weights (in f32, then rounded to the base's dtype).
 * @throws LayoutError adapter for another base, a method that cannot be merged, unsupported dtype, a base that is quantised on disk,
 * verification failed · NonFiniteError a value overflows the base's dtype · IoError
 */
export async function mergeAdapter(base: Checkpoint, adapter: Adapter, outDir: string, options: MergeOptions = {}): Promise<MergeReport> {
  checkpointArgument(base, "mergeAdapter: base");
  return mergeTensors(base, foldAdapter(base, adapter), outDir, options);
}

/**
 * Rereads a merged directory: outside the adapter's slices every tensor is bit-equal to the base, inside it is bit-equal to the
 * cast adapter, LoRA folded in; names, dtypes, shapes and shards are the base's. A mismatch is reported, not thrown.
 */
export async function verifyMerge(base: Checkpoint, adapter: Adapter, mergedDir: string, options: LongTask = {}): Promise<MergeReport> {
  checkpointArgument(base, "verifyMerge: base");
  return verifyTensors(base, foldAdapter(base, adapter), mergedDir, options);
}
