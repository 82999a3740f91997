// The official ESFT adapter layout: safetensors under per-expert names and expert_cfg.json. It says neither which base it was made for
// nor what a tensor is to the model: it is opened together with its base, whose description of the model tells. Early adapters leave
// out the first part of each name.
import { instanceArgument, optionsArgument, pathArgument } from "../arguments.ts";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { LayoutError } from "../errors.ts";
import { ExpertSet } from "../experts/expert_set.ts";
import { writeFileAtomic, writeGroupAtomic } from "../files/atomic.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { readShardIndex } from "../files/checkpoint.ts";
import { layoutFault } from "../files/fault.ts";
import { openSafetensors } from "../files/safetensors.ts";
import type { ShardOptions } from "../files/shards.ts";
import { isShard, shardIndex, writeShards } from "../files/shards.ts";
import { sliceKey } from "../files/slice.ts";
import { checkpointSpec } from "../model/families/index.ts";
import { parameterShapes } from "../model/spec.ts";
import { ioError, throwIfAborted } from "../task.ts";
import type { LoadAdapterOptions } from "./adapter.ts";
import { Adapter, loadArgument } from "./adapter.ts";
import { isAdapterDir } from "./folder.ts";
import type { AdapterTensor } from "./tensors.ts";
import { parameterTensor } from "./tensors.ts";

const CONFIG = "expert_cfg.json";
const GROUP = "esft-adapter";
const STEM = "model";
const INDEX = shardIndex(STEM);

/** Opens an adapter directory in either layout; the official one needs its base. @throws LayoutError neither was found */
export async function openAdapter(dir: string, options: LoadAdapterOptions = {}): Promise<Adapter> {
  pathArgument(dir, "openAdapter: dir");
  loadArgument(options, "openAdapter: options");
  if (await isAdapterDir(dir)) return Adapter.load(dir, options);
  const names = await readdir(dir).catch((error: unknown) => {
    throw ioError(error, `cannot open the adapter ${dir}`, { file: dir });
  });
  if (!names.includes(CONFIG))
    throw layoutFault(dir, `expected an adapter (adapter.json, or ${CONFIG} of the official layout), found neither`);
  const { base } = options;
  if (!base)
    throw layoutFault(
      dir,
      "an adapter in the official ESFT layout does not say which layers and experts its tensors belong to: open it together " +
        "with its base (--base DIR, or the option base)",
    );
  const adapter = await readEsftAdapter(dir, names, base);
  await adapter.checkBase(base, options);
  if (options.verify ?? true)
    for (const key of adapter.tensors.keys()) {
      throwIfAborted(options.signal, `loading ${dir}`);
      await adapter.read(key);
    }
  return adapter;
}

async function readEsftAdapter(dir: string, names: readonly string[], base: Checkpoint): Promise<Adapter> {
  const experts = await ExpertSet.load(join(dir, CONFIG));
  const parameters = new Map(parameterShapes(checkpointSpec(base)).map((p) => [sliceKey(p.ref), p]));
  const byRest = new Map([...parameters].map(([name, p]) => [name.slice(name.indexOf(".") + 1), p]));
  const tensors: AdapterTensor[] = [];
  for (const file of await dataFiles(dir, names)) {
    const opened = await openSafetensors(join(dir, file));
    for (const { name, dtype, shape } of opened.tensors.values()) {
      const parameter = parameters.get(name) ?? byRest.get(name);
      if (!parameter)
        throw layoutFault(opened.path, `expected a parameter of the base model ${base.dir}; is the adapter for another base?`, name);
      tensors.push(parameterTensor(parameter, { dtype, shape, read: () => opened.read(name) }));
    }
  }
  return new Adapter({ method: { type: "esft" }, base: { identity: null }, experts, tensors, createdBy: "official ESFT layout" });
}

async function dataFiles(dir: string, names: readonly string[]): Promise<string[]> {
  if (names.includes(INDEX)) return [...new Set((await readShardIndex(dir, INDEX)).values())];
  const files = names.filter((n) => n.endsWith(".safetensors") && !n.startsWith(".")).sort();
  if (files.length === 0) throw layoutFault(dir, `expected *.safetensors beside ${CONFIG}, found none`);
  return files;
}

/**
 * Writes the official layout. @throws LayoutError the adapter holds slices of fused tensors or attached ones, which that layout cannot
 * name, or has no expert set
 */
export async function saveEsftAdapter(adapter: Adapter, dir: string, options: ShardOptions = {}): Promise<void> {
  instanceArgument(adapter, Adapter, "saveEsftAdapter: adapter");
  pathArgument(dir, "saveEsftAdapter: dir");
  optionsArgument(options, "saveEsftAdapter: options");
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
