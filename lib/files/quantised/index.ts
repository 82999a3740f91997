// Which weights the tensors of a checkpoint stand for. quantization_config of config.json names the quantiser; which tensors it made, and
// how, the tensors that are there tell, not its lists of modules.
import { ConfigError } from "../../errors.ts";
import { shown } from "../fault.ts";
import { HeldFiles } from "../held.ts";
import type { StampedFile } from "../held.ts";
import type { TensorInfo } from "../safetensors.ts";
import { readFileRange } from "../safetensors.ts";
import { bitsandbytesNotes, findBitsandbytes } from "./bitsandbytes.ts";
import { compressedNotes, findCompressed } from "./compressed_tensors.ts";
import { findFp8 } from "./fp8.ts";
import { findMxfp4 } from "./mxfp4.ts";
import type { WeightInfo } from "./packed.ts";
import { plainWeight, WeightFinder } from "./packed.ts";

type Config = Readonly<Record<string, unknown>>;
/** Values of small tensors that say how others are to be read. */
type Notes = ReadonlyMap<string, Uint8Array>;

interface Method {
  readonly notes?: (find: WeightFinder) => TensorInfo[];
  readonly find: (find: WeightFinder, config: Config, notes: Notes) => void;
}

const methods: Readonly<Record<string, Method>> = {
  bitsandbytes: { notes: bitsandbytesNotes, find: (find, _, notes) => findBitsandbytes(find, notes) },
  "compressed-tensors": { notes: compressedNotes, find: findCompressed },
  fp8: { find: findFp8 },
  mxfp4: { find: findMxfp4 },
};

const isObject = (v: unknown): v is Config => typeof v === "object" && v !== null && !Array.isArray(v);

/** quantization_config, of the whole or of the text model inside it; null: none. @throws ConfigError it is no object */
export function quantizationConfig(config: Config, source: string): Config | null {
  const { quantization_config: own, text_config: text } = config;
  const found = own ?? (isObject(text) ? text["quantization_config"] : null) ?? null;
  if (found !== null && !isObject(found))
    throw new ConfigError(`${source}: "quantization_config": expected an object, found ${shown(found)}`, {
      where: { file: source, key: "quantization_config" },
    });
  return found;
}

/** config.json of the dequantised checkpoint. */
export function withoutQuantization(config: Config): Config {
  const { quantization_config: _, text_config: text, ...rest } = config;
  return isObject(text)
    ? { ...rest, text_config: withoutQuantization(text) }
    : { ...rest, ...(text === undefined ? {} : { text_config: text }) };
}

/**
 * The weights by name, in the order of the tensors that hold them.
 * @param files that hold the tensors
 * @throws ConfigError a quantiser that is not read, or its fields · LayoutError a tensor of a weight is missing or has another shape
 */
export async function findWeights(
  config: Config,
  source: string,
  tensors: ReadonlyMap<string, TensorInfo>,
  files: readonly StampedFile[],
): Promise<Map<string, WeightInfo>> {
  const quantised = quantizationConfig(config, source);
  if (quantised === null) return new Map([...tensors].map(([name, t]) => [name, plainWeight(t)]));
  const name = quantised["quant_method"];
  const method = typeof name === "string" && Object.hasOwn(methods, name) ? methods[name] : undefined;
  if (!method)
    throw new ConfigError(
      `${source}: "quantization_config.quant_method": expected one of ${Object.keys(methods).join(", ")}, found ${shown(name ?? null)}; ` +
        "nothing else is read: dequantise the checkpoint first",
      { where: { file: source, key: "quantization_config.quant_method" } },
    );
  const find = new WeightFinder(source, tensors);
  method.find(find, quantised, await readNotes(method.notes?.(find) ?? [], files));
  return find.weights();
}

const AT_ONCE = 64;

async function readNotes(list: readonly TensorInfo[], files: readonly StampedFile[]): Promise<Notes> {
  const notes = new Map<string, Uint8Array>();
  if (list.length === 0) return notes;
  await using open = new HeldFiles();
  await open.hold(files);
  for (let at = 0; at < list.length; at += AT_ONCE) {
    const some = list.slice(at, at + AT_ONCE);
    const bytes = await Promise.all(some.map((t) => readFileRange(t.path, t.begin, t.end, open)));
    some.forEach((t, i) => notes.set(t.name, bytes[i]!));
  }
  return notes;
}
