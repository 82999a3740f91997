// adapter_config.json of PEFT 0.21: what of it this package understands. What it does not know must be off; an adapter that asks for
// more cannot be honoured whole and is refused.

import { z } from "zod";
import { layoutFault } from "../files/fault.ts";
import { checkSchema, readJsonFile } from "../files/json.ts";
import { LayoutError } from "../errors.ts";

export const PEFT_CONFIG = "adapter_config.json";
export const PEFT_WEIGHTS = "adapter_model.safetensors";

const pattern = z.record(z.string(), z.number()).nullish();
const Config = z.looseObject({
  peft_type: z.literal("LORA"),
  r: z.int().min(1),
  lora_alpha: z.number(),
  rank_pattern: pattern,
  alpha_pattern: pattern,
  use_rslora: z.boolean().nullish(),
  target_modules: z.union([z.array(z.string()), z.string()]).nullish(),
  target_parameters: z.array(z.string()).nullish(),
  base_model_name_or_path: z.string().nullish(),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
});
export type PeftConfig = z.output<typeof Config>;

/** Keys that say nothing about what the adapter computes. */
const SILENT: ReadonlySet<string> = new Set([
  ...Object.keys(Config.shape),
  "auto_mapping",
  "inference_mode",
  "lora_dropout",
  "peft_version",
  "revision",
  "task_type",
  "megatron_core",
  "qalora_group_size",
  // How it was begun, and what was left out.
  "loftq_config",
  "ensure_weight_tying",
  "exclude_modules",
]);
const isOff = (value: unknown): boolean =>
  value === null || value === false || value === "none" || (typeof value === "object" && Object.keys(value as object).length === 0);

/** @throws LayoutError a file that is no configuration of LoRA, or one that asks for what is not served · IoError */
export async function readPeftConfig(path: string): Promise<PeftConfig> {
  const config = checkSchema(Config, await readJsonFile(path, LayoutError), path);
  const other = Object.entries(config).find(([key, value]) => !SILENT.has(key) && !isOff(value));
  if (other) throw layoutFault(path, `"${other[0]}" ${JSON.stringify(other[1])} is not served: expected it to be absent or off`);
  const { init_lora_weights: init } = config;
  if (typeof init === "string" && !["gaussian", "orthogonal"].includes(init))
    throw layoutFault(path, `"init_lora_weights" ${JSON.stringify(init)} changes the base's weights too: merge it into the base with PEFT`);
  return config;
}

/** A value by PEFT's patterns: the first key that matches the whole name or its end. */
function byPattern(patterns: Readonly<Record<string, number>> | null | undefined, name: string, otherwise: number, path: string): number {
  for (const [key, value] of Object.entries(patterns ?? {})) {
    let matches: boolean;
    try {
      matches = new RegExp(`^(.*\\.)?(${key})$`).test(name);
    } catch (error) {
      throw layoutFault(path, `"${key}" is no pattern: ${(error as Error).message}`);
    }
    if (matches) return value;
  }
  return otherwise;
}

/** Rank and factor of a module or parameter. */
export function termOf(
  config: PeftConfig,
  name: string,
  path: string,
): { readonly rank: number; readonly alpha: number; readonly scaling: number } {
  const rank = byPattern(config.rank_pattern, name, config.r, path);
  const alpha = byPattern(config.alpha_pattern, name, config.lora_alpha, path);
  return { rank, alpha, scaling: alpha / (config.use_rslora === true ? Math.sqrt(rank) : rank) };
}

/** Is this a folder that PEFT wrote? */
export const isPeftFolder = (names: readonly string[]): boolean => names.includes(PEFT_CONFIG);
