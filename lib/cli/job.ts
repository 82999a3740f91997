// A training job from a YAML or JSON file, or from a run directory, with flags on top: merged here, checked by the library's parser.

import type { DataFile } from "../data/mixture.ts";
import { ConfigError } from "../errors.ts";
import { readYaml } from "../files/yaml.ts";
import { isPlain } from "../options.ts";
import type { Plain } from "../options.ts";
import { CheckedRequest, jobSchema, loadRequest, longForms } from "../train/request.ts";
import type { Job, RunControl } from "../train/request.ts";
import { jobNames } from "./job_options.ts";

/** @throws ConfigError the file is not YAML, a key is unknown or missing, a value is out of range · IoError */
export async function readJob(file: string | null, flags: Plain, control: RunControl): Promise<Job> {
  const given = file === null ? {} : fullNames((await readYaml(file)).value, file);
  const job = override(given, longForms(withFiles(flags)));
  try {
    return CheckedRequest.parseJob(job, file ?? "train", control);
  } catch (error) {
    // A misspelt key explains a missing one better than the other way round.
    if (error instanceof ConfigError && error.where["unknown"] !== true) required(job, file);
    throw error;
  }
}

/** The job that a run directory was started with. */
export async function readRunJob(outDir: string, flags: Plain, control: RunControl): Promise<Job> {
  const { job, file } = await loadRequest(outDir);
  return CheckedRequest.parseJob(override(job, longForms(withFiles(flags))), file, control);
}

/** Short and dotted names (lr, optimizer.lr, max-length) as the nested keys that they stand for. @throws ConfigError one option by two names */
function fullNames(given: Plain, file: string): Plain {
  // What is no other name stays: the parser says what an unknown key may have meant.
  const other = (key: string) => (Object.hasOwn(jobSchema.shape, key) ? undefined : jobNames.get(key));
  const job = longForms(Object.fromEntries(Object.entries(given).filter(([key]) => other(key) === undefined)));
  const by = new Map<string, string>();
  for (const [key, value] of Object.entries(given)) {
    const path = other(key);
    const at = path && objectAt(job, path.slice(0, -1));
    if (!at) continue;
    const [last, option] = [path.at(-1)!, path.join(".")];
    if (Object.hasOwn(at, last))
      throw new ConfigError(`${file}: ${by.get(option) ?? option} and ${key} are the same option; give one of them`, {
        where: { file, key },
      });
    at[last] = value;
    by.set(option, key);
  }
  return job;
}

/** The object at a path, made where it is absent; null where something else stands there, which the parser refuses. */
function objectAt(job: Plain, path: readonly string[]): Plain | null {
  let at = job;
  for (const key of path) {
    const below = at[key] ?? {};
    if (!isPlain(below)) return null;
    at = at[key] = { ...below };
  }
  return at;
}

const WEIGHTED = /^(.+)=(\d+\.?\d*|\.\d+)$/;

/** `--data FILE[=WEIGHT]`, once or more: a file alone, or files with their weights. */
function withFiles(flags: Plain): Plain {
  const { data } = flags;
  const given = isPlain(data) ? data["file"] : undefined;
  if (!isPlain(data) || !Array.isArray(given)) return flags;
  const { file: _, ...rest } = data;
  const files = given.map((text: string): DataFile => {
    const [, file = text, weight] = WEIGHTED.exec(text) ?? [];
    return weight === undefined ? { file } : { file, weight: Number(weight) };
  });
  const alone = files.length === 1 && files[0]!.weight === undefined;
  return { ...flags, data: { ...rest, ...(alone ? { file: files[0]!.file } : { files }) } };
}

/** Options of which a job has one at most: a flag takes the place of the other one in a file too. */
const ONE_OF = [
  ["steps", "epochs"],
  ["warmupSteps", "warmupRatio"],
  ["decaySteps", "decayRatio"],
  ["file", "files", "rows"],
] as const;

/** Flags over a file. */
function override(given: Plain, flags: Plain): Plain {
  const levels = ["optimizer", "data"].flatMap((key) => {
    const [below, above] = [given[key], flags[key]];
    return isPlain(below) && isPlain(above) ? [[key, withoutOthers(below, above)] as const] : [];
  });
  return merge({ ...withoutOthers(given, flags), ...Object.fromEntries(levels) }, flags);
}

function withoutOthers(given: Plain, flags: Plain): Plain {
  const replaced = ONE_OF.filter((names) => names.some((name) => flags[name] !== undefined)).flat() as string[];
  return Object.fromEntries(Object.entries(given).filter(([name]) => !replaced.includes(name)));
}

function merge(below: Plain, above: Plain): Plain {
  const out = { ...below };
  for (const [key, value] of Object.entries(above)) out[key] = isPlain(value) && isPlain(out[key]) ? merge(out[key], value) : value;
  return out;
}

/** What a job cannot do without, in the words of the command line. */
function required(job: Plain, file: string | null): void {
  for (const [key, flag, found] of [
    ["model", "--model DIR or org/name", job.model],
    ["data.file", "--data FILE", isPlain(job.data) ? (job.data.file ?? job.data.files ?? job.data.rows) : job.data],
    ["outDir", "--out DIR", job.outDir],
  ] as const)
    if (found === undefined)
      throw new ConfigError(`${file ?? "train"}: ${key} is required (${flag}, or "${key.split(".")[0]}:" in a YAML file), found none`, {
        where: { key },
      });
}
