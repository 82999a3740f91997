// A training job from a YAML or JSON file, or from a run directory, with flags on top: merged here, checked by the library's parser.

import { parse as parseYaml } from "yaml";
import { ConfigError } from "../errors.ts";
import { readTextFile } from "../files/regular.ts";
import { isPlain } from "../options.ts";
import type { Plain } from "../options.ts";
import { CheckedRequest, loadRequest, longForms } from "../train/request.ts";
import type { Job, RunControl } from "../train/request.ts";

/** @throws ConfigError the file is not YAML, a key is unknown or missing, a value is out of range · IoError */
export async function readJob(file: string | null, flags: Plain, control: RunControl): Promise<Job> {
  const given = file === null ? {} : await readConfig(file);
  const job = merge(longForms(given), longForms(flags));
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
  return CheckedRequest.parseJob(merge(job, longForms(flags)), file, control);
}

async function readConfig(file: string): Promise<Plain> {
  const text = await readTextFile(file);
  let value: unknown;
  try {
    value = parseYaml(text, { prettyErrors: true });
  } catch (cause) {
    throw new ConfigError(`${file}: not YAML: ${(cause as Error).message.split("\n")[0]}`, { where: { file }, cause });
  }
  if (!isPlain(value))
    throw new ConfigError(`${file}: expected keys and values, found ${JSON.stringify(value)?.slice(0, 40) ?? "nothing"}`, {
      where: { file },
    });
  return value;
}

function merge(below: Plain, above: Plain): Plain {
  const out = { ...below };
  for (const [key, value] of Object.entries(above)) out[key] = isPlain(value) && isPlain(out[key]) ? merge(out[key], value) : value;
  return out;
}

/** What a job cannot do without, in the words of the command line. */
function required(job: Plain, file: string | null): void {
  for (const [key, flag, found] of [
    ["model", "--model DIR", job.model],
    ["data.file", "--data FILE", isPlain(job.data) ? job.data.file : undefined],
    ["outDir", "--out DIR", job.outDir],
  ] as const)
    if (found === undefined)
      throw new ConfigError(`${file ?? "train"}: ${key} is required (${flag}, or "${key.split(".")[0]}:" in a YAML file), found none`, {
        where: { key },
      });
}
