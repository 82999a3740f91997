// A Hugging Face checkpoint directory: config.json, one model.safetensors or shards under model.safetensors.index.json.
// Opening reads headers only and believes nothing the files do not show.
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { ConfigError, LayoutError } from "../errors.ts";
import { ioError } from "../task.ts";
import { readJsonFile } from "./json.ts";
import type { TensorInfo } from "./safetensors.ts";
import { openSafetensors, readChunks, readTensor } from "./safetensors.ts";

export interface CheckpointTensor extends TensorInfo {
  /** File name inside the directory, and its full path. */
  readonly file: string;
  readonly path: string;
}

export interface CheckpointShard {
  readonly file: string;
  readonly path: string;
  readonly bytes: number;
  readonly metadata: Readonly<Record<string, string>>;
  /** In file order. */
  readonly tensors: readonly CheckpointTensor[];
}

export interface Checkpoint {
  readonly dir: string;
  /** config.json as parsed. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
  readonly shards: readonly CheckpointShard[];
  /** The index file, or null for a single-file checkpoint. */
  readonly indexFile: string | null;
  /** Bytes of all tensors. */
  readonly totalBytes: number;
  /** Files a copy of this model needs besides weights: config, tokenizer, templates, code, licence. */
  readonly sideFiles: readonly string[];
  read(name: string): Promise<Uint8Array>;
  chunks(name: string, chunkBytes?: number): AsyncGenerator<Uint8Array>;
}

const SINGLE = "model.safetensors";
const INDEX_FILE = "model.safetensors.index.json";
const SIDE_FILE =
  /^(config\.json|generation_config\.json|tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template.*|(configuration|modeling|tokenization)_\w+\.py|LICENSE.*)$/;

/**
 * Opens a checkpoint directory from its headers.
 * @throws ConfigError config.json is missing or broken · LayoutError the weights are not what they claim · IoError
 */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const names = await listFiles(dir);
  const config = await readConfig(dir, names);
  const { files, indexFile, weightMap } = await findShards(dir, names);

  const shards: CheckpointShard[] = [];
  const tensors = new Map<string, CheckpointTensor>();
  let totalBytes = 0;
  for (const file of files) {
    const path = join(dir, file);
    const opened = await openSafetensors(path);
    const own: CheckpointTensor[] = [];
    for (const info of opened.tensors.values()) {
      const other = tensors.get(info.name);
      if (other)
        throw new LayoutError(`${path}: tensor "${info.name}": expected each tensor in one shard, found it in ${other.file} too`, {
          where: { file: path, tensor: info.name },
        });
      const tensor = { ...info, file, path };
      tensors.set(info.name, tensor);
      own.push(tensor);
      totalBytes += info.end - info.begin;
    }
    shards.push({ file, path, bytes: opened.size, metadata: opened.metadata, tensors: own });
  }
  for (const [name, file] of weightMap) {
    const found = tensors.get(name);
    if (found?.file === file) continue;
    throw new LayoutError(
      `${join(dir, INDEX_FILE)}: tensor "${name}": expected in ${file}, found ${found ? `in ${found.file}` : "in no shard"}`,
      {
        where: { file: join(dir, INDEX_FILE), tensor: name },
      },
    );
  }
  if (tensors.size === 0) throw new LayoutError(`${dir}: expected model weights, found no tensor`, { where: { file: dir } });

  const find = (name: string): CheckpointTensor => {
    const tensor = tensors.get(name);
    if (!tensor)
      throw new LayoutError(`${dir}: expected tensor "${name}", found ${tensors.size} tensors without it`, {
        where: { file: dir, tensor: name },
      });
    return tensor;
  };
  return {
    dir,
    config,
    tensors,
    shards,
    indexFile,
    totalBytes,
    sideFiles: names.filter((n) => SIDE_FILE.test(n)),
    read: async (name) => {
      const t = find(name);
      return readTensor(t.path, t);
    },
    chunks: (name, chunkBytes) => {
      const t = find(name);
      return readChunks(t.path, t, chunkBytes);
    },
  };
}

async function listFiles(dir: string): Promise<string[]> {
  try {
    if (!(await stat(dir)).isDirectory())
      throw new LayoutError(`${dir}: expected a checkpoint directory, found a file`, { where: { file: dir } });
    const entries = await readdir(dir, { withFileTypes: true });
    return entries.filter((e) => !e.isDirectory()).map((e) => e.name).sort(); // prettier-ignore
  } catch (error) {
    throw ioError(error, `cannot open the checkpoint ${dir}`, { file: dir });
  }
}

async function readConfig(dir: string, names: readonly string[]): Promise<Record<string, unknown>> {
  const path = join(dir, "config.json");
  if (!names.includes("config.json"))
    throw new ConfigError(`${dir}: expected a config.json beside the weights, found none; is this a Hugging Face model directory?`, {
      where: { file: path },
    });
  const config = await readJsonFile(path, ConfigError);
  if (typeof config !== "object" || config === null || Array.isArray(config))
    throw new ConfigError(`${path}: expected a JSON object, found ${JSON.stringify(config)?.slice(0, 40)}`, { where: { file: path } });
  return config as Record<string, unknown>;
}

async function findShards(
  dir: string,
  names: readonly string[],
): Promise<{ files: string[]; indexFile: string | null; weightMap: Map<string, string> }> {
  if (names.includes(SINGLE)) return { files: [SINGLE], indexFile: null, weightMap: new Map() };
  if (!names.includes(INDEX_FILE)) {
    const pickled = names.some((n) => /\.(bin|pt|pth)$/.test(n));
    throw new LayoutError(
      `${dir}: expected ${SINGLE} or ${INDEX_FILE}, found neither` +
        (pickled ? "; pickled PyTorch weights are not read: convert them to safetensors first" : ""),
      { where: { file: dir } },
    );
  }
  const weightMap = await readShardIndex(dir, INDEX_FILE);
  return { files: [...new Set(weightMap.values())].sort(), indexFile: INDEX_FILE, weightMap };
}

/** Reads an index file: tensor name → shard file name. Names that leave the directory and missing shards are refused. */
export async function readShardIndex(dir: string, indexFile: string): Promise<Map<string, string>> {
  const path = join(dir, indexFile);
  const index = await readJsonFile(path, LayoutError, { maxBytes: 100_000_000 });
  const map = typeof index === "object" && index !== null ? (index as { weight_map?: unknown }).weight_map : undefined;
  if (typeof map !== "object" || map === null || Array.isArray(map))
    throw new LayoutError(`${path}: expected an object "weight_map", found none`, { where: { file: path } });
  const weightMap = new Map<string, string>();
  const files = new Set<string>();
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== "string" || !isPlainShardName(file))
      throw new LayoutError(
        `${path}: tensor "${name}": expected the name of a .safetensors file in the same directory, found ${JSON.stringify(file)}`,
        { where: { file: path, tensor: name } },
      );
    weightMap.set(name, file);
    files.add(file);
  }
  if (files.size === 0) throw new LayoutError(`${path}: expected tensors in "weight_map", found none`, { where: { file: path } });
  const present = new Set(await listFiles(dir));
  for (const file of files)
    if (!present.has(file))
      throw new LayoutError(`${path}: expected the shard ${file} in ${dir}, found no such file; is the download complete?`, {
        where: { file: join(dir, file) },
      });
  return weightMap;
}

// No separators of any platform, no hidden or parent names: the file must be a direct child of the directory.
function isPlainShardName(file: string): boolean {
  return file === basename(file) && !/[\\/:\0]/.test(file) && !file.startsWith(".") && file.endsWith(".safetensors");
}
