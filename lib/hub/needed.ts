// Which files of a model, or of an adapter, are needed: what this package reads and what a copy of the model must have; never weights
// in other formats, which many models hold beside.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { LayoutError } from "../errors.ts";
import { INDEX_FILE, isSideFile, readShardNames, SINGLE } from "../files/checkpoint.ts";
import { isThere } from "./layout.ts";

/** What for: all of a model, all but its weights, an adapter, or a model or an adapter, as it is one. */
export type Need = "model" | "tokenizer" | "adapter" | "any";

/** Folders below the top that are looked into. */
export const FOLDERS = ["additional_chat_templates"] as const;

const ADAPTER = /^(?:adapter\.json|adapter_config\.json|expert_cfg\.json|[\w-]+\.safetensors(?:\.index\.json)?)$/;
const ADAPTER_MARK = ["adapter.json", "adapter_config.json", "expert_cfg.json"];

const isWeights = (name: string): boolean => name === SINGLE || name === INDEX_FILE;

/** What a set of names is wanted as. @throws LayoutError it is nothing that could be used; `what` names it */
export function needOf(need: Need, names: readonly string[], what: string): Exclude<Need, "any"> {
  const model = names.includes("config.json") && names.some(isWeights);
  const adapter = names.some((name) => ADAPTER_MARK.includes(name));
  const as = need !== "any" ? need : !model && adapter ? "adapter" : "model";
  if (as === "tokenizer" || (as === "adapter" ? adapter : model)) return as;
  const other = names.filter((name) => /\.(?:bin|pt|pth|gguf|onnx|h5|msgpack)$/.test(name)).slice(0, 3);
  throw new LayoutError(
    as === "adapter"
      ? `${what}: expected an adapter (adapter.json, adapter_config.json or expert_cfg.json), found none of these`
      : `${what}: expected config.json and weights in safetensors (${SINGLE} or ${INDEX_FILE}), found ${other.length === 0 ? "none" : `${other.join(", ")}; such files are not read: take a model in safetensors, or convert this one`}`,
    { where: { key: "model" } },
  );
}

/** Files to have first, of those that are there: with them it is known which are left. */
export function neededFirst(need: Exclude<Need, "any">, paths: readonly string[]): string[] {
  if (need === "adapter") return paths.filter((path) => ADAPTER.test(path));
  const template = (path: string): boolean => FOLDERS.some((folder) => path.startsWith(`${folder}/`)) && path.endsWith(".jinja");
  const index = need === "model" && !paths.includes(SINGLE) ? [INDEX_FILE] : [];
  return paths.filter((path) => isSideFile(path) || template(path) || index.includes(path));
}

/** Weight files of a model whose first files lie in `dir`. @throws LayoutError the index is broken */
export async function neededShards(dir: string, paths: readonly string[]): Promise<string[]> {
  return paths.includes(SINGLE) ? [SINGLE] : [...new Set((await readShardNames(dir, INDEX_FILE)).values())].sort();
}

/** What a snapshot lacks, as far as it says itself; none: it can be used. @throws LayoutError the index is broken */
export async function missingFiles(need: Need, dir: string): Promise<string[]> {
  const names = await readdir(dir).catch((): string[] => []);
  const lacking = async (wanted: readonly string[]): Promise<string[]> => {
    const found = await Promise.all(wanted.map((name) => isThere(join(dir, name))));
    return wanted.filter((_, i) => !found[i]);
  };
  if (need === "tokenizer") return lacking(["config.json", "tokenizer.json"]);
  const mark = names.find((name) => ADAPTER_MARK.includes(name));
  if (need === "adapter" || (need === "any" && mark !== undefined && !names.includes("config.json"))) {
    const index = names.find((name) => name.endsWith(".safetensors.index.json"));
    const weights = names.filter((name) => name.endsWith(".safetensors"));
    const shards = index === undefined ? weights : new Set((await readShardNames(dir, index)).values());
    if (mark === undefined) return [ADAPTER_MARK[0]!];
    return weights.length === 0 ? ["adapter.safetensors"] : lacking([mark, ...shards]);
  }
  const paths = (await isThere(join(dir, SINGLE))) || !names.includes(INDEX_FILE) ? [SINGLE] : [];
  return lacking(["config.json", ...(await neededShards(dir, paths))]);
}
