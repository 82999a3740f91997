// A Hugging Face checkpoint directory: config.json, one model.safetensors or shards under model.safetensors.index.json.
// Opening reads headers only and believes nothing the files do not show.
import { pathArgument, shapeArgument } from "../arguments.ts";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { debug } from "../debug.ts";
import { ConfigError, LayoutError } from "../errors.ts";
import { ioError } from "../task.ts";
import { finishDirectory } from "./atomic.ts";
import { layoutFault } from "./fault.ts";
import { HeldFiles } from "./held.ts";
import { checkSchema, readJsonFile } from "./json.ts";
import { findWeights } from "./quantised/index.ts";
import type { WeightInfo } from "./quantised/packed.ts";
import type { SafetensorsFile, TensorInfo, TensorReader } from "./safetensors.ts";
import { openSafetensors, tensorReader } from "./safetensors.ts";

export interface Checkpoint extends TensorReader {
  readonly dir: string;
  /** config.json as parsed. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly shards: readonly SafetensorsFile[];
  /** What the tensors stand for: each is a weight by itself, save where config.json says that they are quantised. */
  readonly weights: ReadonlyMap<string, WeightInfo>;
  /** The index file, or null for a single-file checkpoint. */
  readonly indexFile: string | null;
  /** Bytes of all tensors. */
  readonly totalBytes: number;
  /** Weight files that are kept open: none until someone holds them. */
  readonly files: HeldFiles;
  /** Files a copy of this model needs besides weights: config, tokenizer, templates, code, licence. */
  readonly sideFiles: readonly string[];
}

export const SINGLE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";
const SIDE_FILE =
  /^(config\.json|generation_config\.json|tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template.*|(configuration|modeling|tokenization)_\w+\.py|LICENSE.*)$/;

/** Does a copy of a model need this file, beside the weights? */
export const isSideFile = (name: string): boolean => SIDE_FILE.test(name);

/**
 * Opens a checkpoint directory from its headers.
 * @throws ConfigError config.json is missing or broken · LayoutError the weights are not what they claim · IoError
 */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  pathArgument(dir, "openCheckpoint: dir");
  if ((await stat(dir).catch(() => null)) === null) await finishDirectory(dir);
  const names = await listFiles(dir);
  const config = await readConfig(dir, names);
  const { files, indexFile, weightMap } = await findShards(dir, names);

  debug("files", () => `${dir}: ${files.length} weight files (${files.join(", ")}), ${indexFile ?? "no index"}`);
  const shards: SafetensorsFile[] = [];
  const tensors = new Map<string, TensorInfo>();
  let totalBytes = 0;
  for (const file of files) {
    const shard = await openSafetensors(join(dir, file));
    for (const tensor of shard.tensors.values()) {
      const other = tensors.get(tensor.name);
      if (other) throw layoutFault(shard.path, `expected each tensor in one shard, found it in ${other.file} too`, tensor.name);
      tensors.set(tensor.name, tensor);
      totalBytes += tensor.end - tensor.begin;
    }
    shards.push(shard);
  }
  for (const [name, file] of weightMap) {
    const found = tensors.get(name);
    if (found?.file !== file)
      throw layoutFault(join(dir, INDEX_FILE), `expected in ${file}, found ${found ? `in ${found.file}` : "in no shard"}`, name);
  }
  if (tensors.size === 0) throw layoutFault(dir, "expected model weights, found no tensor");
  const weights = await findWeights(config, join(dir, "config.json"), tensors, shards);
  const sideFiles = names.filter(isSideFile);
  const held = new HeldFiles();
  return { dir, config, shards, weights, indexFile, totalBytes, sideFiles, files: held, ...tensorReader(dir, tensors, held) };
}

/** For functions that take an opened checkpoint. */
export function checkpointArgument(value: Checkpoint, key: string): void {
  shapeArgument(
    value,
    ["dir", "config", "shards", "tensors", "weights", "chunks"],
    "an opened checkpoint (openCheckpoint, model.checkpoint)",
    key,
  );
}

async function listFiles(dir: string): Promise<string[]> {
  try {
    if (!(await stat(dir)).isDirectory()) throw layoutFault(dir, "expected a checkpoint directory, found a file");
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
    const fix = pickled ? "; pickled PyTorch weights are not read: convert them to safetensors first" : "";
    throw layoutFault(dir, `expected ${SINGLE} or ${INDEX_FILE}, found neither${fix}`);
  }
  const weightMap = await readShardIndex(dir, INDEX_FILE);
  return { files: [...new Set(weightMap.values())].sort(), indexFile: INDEX_FILE, weightMap };
}

const ShardIndex = z.looseObject({ weight_map: z.record(z.string(), z.unknown()) });

/** Reads an index file: tensor name → shard file name. Names that leave the directory and missing shards are refused. */
export async function readShardIndex(dir: string, indexFile: string): Promise<Map<string, string>> {
  const weightMap = await readShardNames(dir, indexFile);
  const present = new Set(await listFiles(dir));
  for (const file of weightMap.values())
    if (!present.has(file))
      throw layoutFault(join(dir, indexFile), `expected the shard ${file} in ${dir}, found no such file; is the download complete?`);
  return weightMap;
}

/** The same of an index whose shards need not be there. */
export async function readShardNames(dir: string, indexFile: string): Promise<Map<string, string>> {
  const path = join(dir, indexFile);
  const { weight_map: map } = checkSchema(ShardIndex, await readJsonFile(path, LayoutError, { maxBytes: 100_000_000 }), path);
  const weightMap = new Map<string, string>();
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== "string" || !isPlainShardName(file))
      throw layoutFault(path, `expected the name of a .safetensors file in the same directory, found ${JSON.stringify(file)}`, name);
    weightMap.set(name, file);
  }
  if (weightMap.size === 0) throw layoutFault(path, 'expected tensors in "weight_map", found none');
  return weightMap;
}

// No separators of any platform, no hidden or parent names: the file must be a direct child of the directory.
function isPlainShardName(file: string): boolean {
  return !/[\\/:\0]/.test(file) && !file.startsWith(".") && file.endsWith(".safetensors");
}
