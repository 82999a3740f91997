// A folder's tensors as one safetensors file, or as several below a size under an index, named as Hugging Face does:
//
//   STEM.safetensors        or STEM-00001-of-0000N.safetensors … and STEM.safetensors.index.json
import { join } from "node:path";
import type { LongTask } from "../task.ts";
import { writeFileAtomic } from "./atomic.ts";
import { formatJson } from "./json.ts";
import { tensorBytes } from "./safetensors.ts";
import type { TensorEntry } from "./safetensors_writer.ts";
import { writeSafetensors } from "./safetensors_writer.ts";

export interface ShardOptions extends LongTask {
  /** Largest file; default 4 GB. A larger tensor has a file of its own. */
  readonly maxShardBytes?: number | undefined;
}

/** Where a tensor was written, and the sha256 (hex) of its bytes. */
export interface WrittenTensor {
  readonly file: string;
  readonly sha256: string;
}

export const shardIndex = (stem: string): string => `${stem}.safetensors.index.json`;

/** True for the names that data files of `stem` can have. */
export function isShard(stem: string, name: string): boolean {
  return name.startsWith(stem) && /^(-\d{5}-of-\d{5})?\.safetensors$/.test(name.slice(stem.length));
}

/** Writes the tensors into `dir` in the given order. @returns where each one is, by name · @throws LayoutError, IoError, AbortError */
export async function writeShards(
  dir: string,
  stem: string,
  entries: readonly TensorEntry[],
  metadata: Readonly<Record<string, string>>,
  options: ShardOptions = {},
): Promise<Map<string, WrittenTensor>> {
  const shards = planShards(entries, options.maxShardBytes ?? 4_000_000_000);
  const total = entries.reduce((n, e) => n + bytesOf(e), 0);
  const where = new Map<string, WrittenTensor>();
  let before = 0;
  for (const [i, shard] of shards.entries()) {
    const file = shards.length === 1 ? `${stem}.safetensors` : `${stem}-${five(i + 1)}-of-${five(shards.length)}.safetensors`;
    const from = before;
    const written = await writeSafetensors(join(dir, file), shard, {
      metadata,
      signal: options.signal,
      onProgress: (p) => options.onProgress?.({ phase: "save", done: from + p.done, total, unit: "bytes" }),
    });
    before += written.bytes;
    for (const { name } of shard) where.set(name, { file, sha256: written.sha256.get(name)! });
  }
  if (shards.length > 1) {
    const weightMap = Object.fromEntries([...where].map(([name, { file }]) => [name, file]));
    await writeFileAtomic(join(dir, shardIndex(stem)), formatJson({ metadata: { total_size: total }, weight_map: weightMap }));
  }
  return where;
}

function planShards(entries: readonly TensorEntry[], maxBytes: number): TensorEntry[][] {
  const shards: TensorEntry[][] = [[]];
  let used = 0;
  for (const entry of entries) {
    const bytes = bytesOf(entry);
    if (used > 0 && used + bytes > maxBytes) {
      shards.push([]);
      used = 0;
    }
    shards.at(-1)!.push(entry);
    used += bytes;
  }
  return shards;
}

const five = (n: number): string => String(n).padStart(5, "0");
// An impossible shape is refused by the writer, with its name.
const bytesOf = (e: TensorEntry): number => tensorBytes(e.dtype, e.shape) ?? 0;
