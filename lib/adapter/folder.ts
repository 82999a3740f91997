// An adapter as a folder: written completely or not at all, read with every claim of the manifest checked.
//
//   adapter.safetensors                     or adapter-00001-of-0000N.safetensors + adapter.safetensors.index.json
//   adapter.json                            the manifest (manifest.ts)
//   README.md                               model card
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { LayoutError } from "../errors.ts";
import { finishGroup, writeFileAtomic, writeGroupAtomic } from "../files/atomic.ts";
import { layoutFault, shownType } from "../files/fault.ts";
import { sha256 } from "../files/hash.ts";
import { formatJson, readJsonFile } from "../files/json.ts";
import type { SafetensorsFile } from "../files/safetensors.ts";
import { openSafetensors, tensorBytes } from "../files/safetensors.ts";
import type { ShardOptions } from "../files/shards.ts";
import { isShard, shardIndex, writeShards } from "../files/shards.ts";
import { sliceKey } from "../files/slice.ts";
import type { LongTask } from "../task.ts";
import { throwIfAborted } from "../task.ts";
import type { AdapterFacts, AdapterManifest, StoredTensor } from "./manifest.ts";
import { MANIFEST, newManifest, parseManifest } from "./manifest.ts";
import type { AdapterTensor, AttachedTensor } from "./tensors.ts";
import { readFinite } from "./tensors.ts";

const STEM = "adapter";
const GROUP = "adapter";

export interface AdapterContents {
  readonly facts: AdapterFacts;
  /** By key, sorted. */
  readonly tensors: ReadonlyMap<string, AdapterTensor>;
  readonly attached: ReadonlyMap<string, AttachedTensor>;
  readonly card: string;
}

/** Writes the folder; other files in it stay. @throws NonFiniteError, IoError, AbortError */
export async function writeFolder(dir: string, contents: AdapterContents, options: ShardOptions): Promise<AdapterManifest> {
  const { facts, tensors, attached, card } = contents;
  // A README.md that is not an adapter's card belongs to the user.
  const writesCard = (await isAdapterDir(dir)) || !(await isFile(join(dir, "README.md")));
  const entries = [...tensors, ...attached]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, t]) => ({ name, dtype: t.dtype, shape: t.shape, data: () => readFinite(name, t) }));
  const fill = async (temp: string): Promise<AdapterManifest> => {
    const written = await writeShards(temp, STEM, entries, { format: "pt", esft: "adapter" }, options);
    const list = <T>(of: ReadonlyMap<string, T>) => [...of].map(([key, t]) => ({ ...t, ...written.get(key)! }));
    const manifest = newManifest(facts, list(tensors), list(attached));
    if (writesCard) await writeFileAtomic(join(temp, "README.md"), card);
    await writeFileAtomic(join(temp, MANIFEST), formatJson(manifest));
    return manifest;
  };
  const bytes = entries.reduce((n, e) => n + tensorBytes(e.dtype, e.shape)!, 0);
  return writeGroupAtomic(dir, GROUP, fill, { bytes, owned: (name) => isShard(STEM, name) || name === shardIndex(STEM) });
}

/**
 * Reads the manifest, at `path`, and the headers of the data files; tensors stay on disk until read. `verify` reads them all and throws
 * a LayoutError for one that was damaged, a NonFiniteError for one that is not finite.
 * @throws LayoutError the files are not what the manifest says · IoError
 */
export async function readFolder(dir: string) {
  await finishGroup(dir, GROUP);
  const path = join(dir, MANIFEST);
  const manifest = parseManifest(await readJsonFile(path, LayoutError, { maxBytes: 100_000_000 }), path);
  const attached = manifest.attached ?? [];
  const stored: Stored = [...manifest.tensors.map((t) => [sliceKey(t), t] as const), ...attached.map((t) => [t.name, t] as const)];
  const files = await openFiles(dir, stored);
  const read = <T extends StoredTensor>({ file, sha256: _, ...t }: T, key: string) => ({ ...t, read: () => files.get(file)!.read(key) });
  return {
    path,
    manifest,
    tensors: manifest.tensors.map((t): AdapterTensor => read(t, sliceKey(t))),
    attached: attached.map((t): AttachedTensor => read(t, t.name)),
    verify: (options: LongTask) => verify(dir, stored, files, options),
  };
}

/** Of the manifest, with the key in the data file. */
type Stored = readonly (readonly [key: string, StoredTensor])[];

/** Opens the data files and checks that they hold exactly what the manifest lists. */
async function openFiles(dir: string, stored: Stored): Promise<Map<string, SafetensorsFile>> {
  for (const [key, { file }] of stored)
    if (!isShard(STEM, file))
      throw layoutFault(
        join(dir, MANIFEST),
        `expected the name of an adapter file in the same directory, found ${JSON.stringify(file)}`,
        key,
      );
  const files = new Map<string, SafetensorsFile>();
  for (const file of new Set(stored.map(([, t]) => t.file))) files.set(file, await openSafetensors(join(dir, file)));
  const listed = new Map(stored);
  for (const [name, file] of files)
    for (const key of file.tensors.keys())
      if (listed.get(key)?.file !== name)
        throw layoutFault(file.path, `expected only tensors that ${MANIFEST} lists, found one that it does not`, key);
  for (const [key, t] of stored) {
    const file = files.get(t.file)!;
    const found = file.tensors.get(key);
    if (!found) throw layoutFault(file.path, `expected ${shownType(t)}, found no such tensor`, key);
    if (shownType(found) !== shownType(t)) throw layoutFault(file.path, `expected ${shownType(t)}, found ${shownType(found)}`, key);
  }
  return files;
}

async function verify(dir: string, stored: Stored, files: ReadonlyMap<string, SafetensorsFile>, options: LongTask): Promise<void> {
  const total = stored.reduce((n, [, t]) => n + tensorBytes(t.dtype, t.shape)!, 0);
  let done = 0;
  for (const [key, t] of stored) {
    throwIfAborted(options.signal, `loading ${dir}`);
    const file = files.get(t.file)!;
    const bytes = await readFinite(key, { ...t, read: () => file.read(key) });
    const found = sha256(bytes);
    if (found !== t.sha256)
      throw layoutFault(file.path, `expected sha256 ${t.sha256}, found ${found}; the file was damaged or changed after saving`, key);
    done += bytes.byteLength;
    options.onProgress?.({ phase: "verify adapter", done, total, unit: "bytes" });
  }
}

/** True when `dir` holds an adapter in our layout (also one whose save was interrupted after its commit point). */
export async function isAdapterDir(dir: string): Promise<boolean> {
  for (const name of [MANIFEST, join(`.${GROUP}.next`, MANIFEST)]) if (await isFile(join(dir, name))) return true;
  return false;
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (s) => s.isFile(),
    () => false,
  );
}
