// The official ESFT adapter layout: safetensors under per-expert names and expert_cfg.json. It says neither which base it was made for
// nor what a tensor is to the model: it is opened together with its base, whose description of the model tells. Early adapters leave
// out the first part of each name.
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { LayoutError } from "../errors.ts";
import { ExpertSet } from "../experts/expert_set.ts";
import { writeFileAtomic, writeGroupAtomic } from "../files/atomic.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { readShardIndex } from "../files/checkpoint.ts";
import { openSafetensors } from "../files/safetensors.ts";
import type { ShardOptions } from "../files/shards.ts";
import { isShard, shardIndex, writeShards } from "../files/shards.ts";
import type { ParameterShape } from "../model/spec.ts";
import { ioError, throwIfAborted } from "../task.ts";
import type { LoadAdapterOptions } from "./adapter.ts";
import { Adapter } from "./adapter.ts";
import { isAdapterDir } from "./folder.ts";
import { noParameter, parametersOf } from "./places.ts";
import type { AdapterTensor } from "./tensors.ts";
import { parameterTensor } from "./tensors.ts";

const CONFIG = "expert_cfg.json";
const GROUP = "esft-adapter";
const STEM = "model";
const INDEX = shardIndex(STEM);

/** Opens an adapter directory in either layout; the official one needs its base. @throws LayoutError neither was found */
export async function openAdapter(dir: string, options: LoadAdapterOptions = {}): Promise<Adapter> {
  if (await isAdapterDir(dir)) return Adapter.load(dir, options);
  const names = await readdir(dir).catch((error: unknown) => {
    throw ioError(error, `cannot open the adapter ${dir}`, { file: dir });
  });
  if (!names.includes(CONFIG))
    throw new LayoutError(`${dir}: expected an adapter (adapter.json, or ${CONFIG} of the official layout), found neither`, {
      where: { file: dir },
    });
  const { base } = options;
  if (!base)
    throw new LayoutError(
      `${dir}: an adapter in the official ESFT layout does not say which layers and experts its tensors belong to: open it together ` +
        `with its base (--base DIR, or the option base)`,
      { where: { file: dir } },
    );
  return loadEsftAdapter(dir, { ...options, base });
}

/** Loads an adapter in the official layout. @throws LayoutError, NonFiniteError, ConfigError, IoError */
export async function loadEsftAdapter(dir: string, options: LoadAdapterOptions & { readonly base: Checkpoint }): Promise<Adapter> {
  const { base } = options;
  const experts = await ExpertSet.load(join(dir, CONFIG));
  const find = parameterFinder(base);
  const tensors: AdapterTensor[] = [];
  for (const file of await dataFiles(dir)) {
    const opened = await openSafetensors(join(dir, file));
    for (const { name, dtype, shape } of opened.tensors.values()) {
      const parameter = find(name);
      if (!parameter) throw noParameter(name, base);
      tensors.push(parameterTensor(parameter, { dtype, shape, read: () => opened.read(name) }));
    }
  }
  const adapter = new Adapter({ method: { type: "esft" }, base: { identity: null }, experts, tensors, createdBy: "official ESFT layout" });
  await adapter.checkBase(base, options);
  if (options.verify ?? true)
    for (const key of adapter.tensors.keys()) {
      throwIfAborted(options.signal, `loading ${dir}`);
      await adapter.read(key);
    }
  return adapter;
}

/** Finds a base's parameter by its name, with or without the first part. */
function parameterFinder(base: Checkpoint): (name: string) => ParameterShape | undefined {
  const byName = parametersOf(base);
  const byRest = new Map([...byName].map(([name, p]) => [name.slice(name.indexOf(".") + 1), p]));
  return (name) => byName.get(name) ?? byRest.get(name);
}

async function dataFiles(dir: string): Promise<string[]> {
  const names = await readdir(dir).catch((error: unknown) => {
    throw ioError(error, `cannot open the adapter ${dir}`, { file: dir });
  });
  if (names.includes(INDEX)) return [...new Set((await readShardIndex(dir, INDEX)).values())].sort();
  const files = names.filter((n) => n.endsWith(".safetensors") && !n.startsWith(".")).sort();
  if (files.length === 0) throw new LayoutError(`${dir}: expected *.safetensors beside ${CONFIG}, found none`, { where: { file: dir } });
  return files;
}

/**
 * Writes the official layout. @throws LayoutError the adapter holds slices of fused tensors or attached ones, which that layout cannot
 * name, or has no expert set
 */
export async function saveEsftAdapter(adapter: Adapter, dir: string, options: ShardOptions = {}): Promise<void> {
  adapter.refuseAttached("save in the official ESFT layout");
  const { experts } = adapter;
  if (!experts) throw new LayoutError("the official ESFT layout needs an expert set, found an adapter without one");
  const sliced = [...adapter.tensors].find(([, t]) => t.index !== undefined || t.rows);
  if (sliced)
    throw new LayoutError(
      `the official ESFT layout holds whole per-expert tensors, found "${sliced[0]}", a slice of a fused tensor; save in the native layout instead`,
      { where: { tensor: sliced[0] } },
    );
  const entries = [...adapter.tensors].map(([name, t]) => ({ name, dtype: t.dtype, shape: t.shape, data: () => adapter.read(name) }));
  await writeGroupAtomic(
    dir,
    GROUP,
    async (temp) => {
      await writeShards(temp, STEM, entries, { format: "pt" }, options);
      await writeFileAtomic(join(temp, CONFIG), experts.toEsftConfig());
    },
    { bytes: adapter.bytes, owned: (name) => isShard(STEM, name) || name === INDEX },
  );
}
