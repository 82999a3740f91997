// The official ESFT adapter layout: safetensors under per-expert names and expert_cfg.json. It knows no base identity, so a
// loaded one is checked against a base by names and shapes alone. Early adapters lack the "model." prefix.
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { LayoutError } from "../errors.ts";
import type { LongTask } from "../task.ts";
import { writeFileAtomic, writeGroupAtomic } from "../files/atomic.ts";
import { ioError, throwIfAborted } from "../task.ts";
import { INDEX_FILE, readShardIndex } from "../files/checkpoint.ts";
import { formatJson } from "../files/json.ts";
import { openSafetensors, tensorBytes } from "../files/safetensors.ts";
import { writeSafetensors } from "../files/safetensors_writer.ts";
import type { AdapterTensor, LoadAdapterOptions } from "./adapter.ts";
import { Adapter, isAdapterDir } from "./adapter.ts";
import { ExpertSet } from "../experts/expert_set.ts";

const CONFIG = "expert_cfg.json";
const GROUP = "esft-adapter";

/** Opens an adapter directory in either layout. @throws LayoutError neither was found */
export async function openAdapter(dir: string, options: LoadAdapterOptions = {}): Promise<Adapter> {
  if (await isAdapterDir(dir)) return Adapter.load(dir, options);
  const names = await readdir(dir).catch((error: unknown) => {
    throw ioError(error, `cannot open the adapter ${dir}`, { file: dir });
  });
  if (names.includes(CONFIG)) return loadEsftAdapter(dir, options);
  throw new LayoutError(`${dir}: expected an adapter (adapter.json, or ${CONFIG} of the official layout), found neither`, {
    where: { file: dir },
  });
}

/** Loads an adapter in the official layout. @throws LayoutError, NonFiniteError, ConfigError, IoError */
export async function loadEsftAdapter(dir: string, options: LoadAdapterOptions = {}): Promise<Adapter> {
  const experts = await ExpertSet.load(join(dir, CONFIG));
  const tensors = new Map<string, AdapterTensor>();
  for (const file of await dataFiles(dir)) {
    const opened = await openSafetensors(join(dir, file));
    for (const t of opened.tensors.values()) {
      const name = /^layers\.\d+\./.test(t.name) && !options.base?.tensors.has(t.name) ? `model.${t.name}` : t.name;
      if (tensors.has(name))
        throw new LayoutError(`${opened.path}: expected each tensor once, found "${name}" twice`, {
          where: { file: opened.path, tensor: name },
        });
      tensors.set(name, { name, dtype: t.dtype, shape: t.shape, read: () => opened.read(t.name) });
    }
  }
  const adapter = new Adapter({
    method: { type: "esft" },
    base: { identity: null },
    experts,
    tensors: tensors.values(),
    createdBy: "official ESFT layout",
  });
  if (options.base) await adapter.checkBase(options.base, options);
  if (options.verify ?? true)
    for (const key of adapter.tensors.keys()) {
      throwIfAborted(options.signal, `loading ${dir}`);
      await adapter.read(key);
    }
  return adapter;
}

async function dataFiles(dir: string): Promise<string[]> {
  const names = await readdir(dir).catch((error: unknown) => {
    throw ioError(error, `cannot open the adapter ${dir}`, { file: dir });
  });
  if (names.includes(INDEX_FILE)) return [...new Set((await readShardIndex(dir, INDEX_FILE)).values())].sort();
  const files = names.filter((n) => n.endsWith(".safetensors") && !n.startsWith(".")).sort();
  if (files.length === 0) throw new LayoutError(`${dir}: expected *.safetensors beside ${CONFIG}, found none`, { where: { file: dir } });
  return files;
}

export interface SaveEsftOptions extends LongTask {
  readonly maxShardBytes?: number;
}

/**
 * Writes the official layout. @throws LayoutError the adapter holds slices of fused tensors, which that layout cannot name,
 * or has no expert set
 */
export async function saveEsftAdapter(adapter: Adapter, dir: string, options: SaveEsftOptions = {}): Promise<void> {
  const { experts } = adapter;
  if (!experts) throw new LayoutError("the official ESFT layout needs an expert set, found an adapter without one");
  const sliced = [...adapter.tensors].find(([, t]) => t.index !== undefined || t.rows);
  if (sliced)
    throw new LayoutError(
      `the official ESFT layout holds whole per-expert tensors, found "${sliced[0]}", a slice of a fused tensor; save in the native layout instead`,
      { where: { tensor: sliced[0] } },
    );

  const max = options.maxShardBytes ?? 4_000_000_000;
  const shards: string[][] = [[]];
  let used = 0;
  for (const [key, t] of adapter.tensors) {
    const bytes = tensorBytes(t.dtype, t.shape)!;
    if (used > 0 && used + bytes > max) {
      shards.push([]);
      used = 0;
    }
    shards.at(-1)!.push(key);
    used += bytes;
  }
  const pad5 = (n: number) => String(n).padStart(5, "0");
  await writeGroupAtomic(
    dir,
    GROUP,
    async (temp) => {
      const weightMap: Record<string, string> = {};
      for (const [i, keys] of shards.entries()) {
        const file = shards.length === 1 ? "model.safetensors" : `model-${pad5(i + 1)}-of-${pad5(shards.length)}.safetensors`;
        for (const key of keys) weightMap[key] = file;
        const entries = keys.map((key) => {
          const t = adapter.tensors.get(key)!;
          return { name: key, dtype: t.dtype, shape: t.shape, data: () => adapter.read(key) };
        });
        await writeSafetensors(join(temp, file), entries, { ...options, metadata: { format: "pt" } });
      }
      if (shards.length > 1)
        await writeFileAtomic(join(temp, INDEX_FILE), formatJson({ metadata: { total_size: adapter.bytes }, weight_map: weightMap }));
      await writeFileAtomic(join(temp, CONFIG), experts.toEsftConfig());
    },
    { bytes: adapter.bytes, owned: (name) => /^model(-\d{5}-of-\d{5})?\.safetensors$/.test(name) || name === INDEX_FILE },
  );
}
