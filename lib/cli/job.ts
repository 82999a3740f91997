// A training job from a YAML or JSON file, with flags on top, checked by the one schema.

import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { parse as parseYaml } from "yaml";
import { ConfigError } from "../errors.ts";
import { ioError } from "../task.ts";
import { jobSchema } from "../options.ts";
import type { Job } from "../options.ts";
import { parseOptions } from "../options.ts";
import { EXPERTS, REQUEST } from "../train/run.ts";

type Plain = Record<string, unknown>;

const isPlain = (x: unknown): x is Plain => typeof x === "object" && x !== null && !Array.isArray(x);

/** @throws ConfigError the file is not YAML, a key is unknown or missing, a value is out of range · IoError */
export async function readJob(file: string | null, flags: Plain): Promise<Job> {
  const given = file === null ? {} : await readConfig(file);
  const job = merge(normalise(given), normalise(flags));
  const misspelt = jobSchema.safeParse(job).error?.issues.some((i) => i.code === "unrecognized_keys") ?? false;
  if (!misspelt) required(job, file);
  return parseOptions(jobSchema, job, file ?? "train");
}

/** The job that a run directory was started with. */
export async function readRunJob(outDir: string, flags: Plain): Promise<Job> {
  const file = join(outDir, REQUEST);
  const request = await readConfig(file).catch((error: unknown) => {
    if ((error as { where?: Plain }).where?.["errno"] === "ENOENT")
      throw new ConfigError(`${outDir}: expected a run directory with ${REQUEST}, found none; start a run with esft train`, {
        where: { file },
      });
    throw error;
  });
  const data = request["data"] as Plain | undefined;
  if (data?.["file"] === null || request["evalData"] === null)
    throw new ConfigError(`${file}: the rows of this run came from memory, not from a file; resume it from the program that started it`, {
      where: { file },
    });
  const method = request["method"] as Plain | undefined;
  const experts = method?.["experts"] === EXPERTS ? { method: { ...method, experts: join(outDir, EXPERTS) } } : {};
  return parseOptions(jobSchema, merge({ ...request, ...experts, outDir: resolve(outDir) }, normalise(flags)), file);
}

async function readConfig(file: string): Promise<Plain> {
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw ioError(error, `cannot read ${file}`, { file });
  });
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

/** The short forms: `data: rows.jsonl` and `method: full`; ESFT is the method when none is named. */
function normalise(job: Plain): Plain {
  const { data, method } = job;
  return {
    ...job,
    ...(typeof data === "string" ? { data: { file: data } } : {}),
    ...(typeof method === "string" ? { method: { type: method } } : {}),
  };
}

function merge(below: Plain, above: Plain): Plain {
  const out = { ...below };
  for (const [key, value] of Object.entries(above)) out[key] = isPlain(value) && isPlain(out[key]) ? merge(out[key], value) : value;
  return out;
}

function required(job: Plain, file: string | null): void {
  if (job["method"] === undefined) job["method"] = { type: "esft" };
  const method = job["method"];
  if (isPlain(method) && method["type"] === undefined) job["method"] = { type: "esft", ...method };
  for (const [key, flag, found] of [
    ["model", "--model DIR", job["model"]],
    ["data.file", "--data FILE", isPlain(job["data"]) ? job["data"]["file"] : undefined],
    ["outDir", "--out DIR", job["outDir"]],
  ] as const)
    if (found === undefined)
      throw new ConfigError(`${file ?? "train"}: ${key} is required (${flag}, or "${key.split(".")[0]}:" in a YAML file), found none`, {
        where: { key },
      });
}
