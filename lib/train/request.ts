// What a run is asked to do. TypeScript callers, YAML files, flags and request.json say it in one form, which is checked here, once:
// CheckedRequest is what the parser leaves, and what a run works from. request.json keeps a request in its run directory, with
// absolute paths, so that the directory alone is enough to go on.

import { optionsArgument } from "../arguments.ts";
import { join, resolve } from "node:path";
import { z } from "zod";
import { isList, type DataFile } from "../data/mixture.ts";
import { fileOf } from "../data/source.ts";
import type { DataSource } from "../data/source.ts";
import { ConfigError, LayoutError } from "../errors.ts";
import { finishGroup, makeFolder, writeFileAtomic, writeGroupAtomic } from "../files/atomic.ts";
import { sha256 } from "../files/hash.ts";
import { formatJson } from "../files/json.ts";
import { readTextFile } from "../files/regular.ts";
import { lastingName } from "../hub/layout.ts";
import { damaged, readSealedJson, sealedJson } from "../files/sealed.ts";
import { STANDARD_INPUT } from "../files/standard_input.ts";
import type { TrainableSpec } from "../methods/method.ts";
import { dataSchema, isPlain, machineSchema, parseOptions, shown, trainSchema } from "../options.ts";
import type { AskedOptions, MachineOptions, Plain } from "../options.ts";
import type { LongTask } from "../task.ts";
import { requireEvaluations } from "./early_stop.ts";
import { stepsAsked } from "./length.ts";
import { guardSchema, inMemory, isInMemory, longGuard, source } from "./guard_options.ts";
import type { GuardInput, GuardOptions } from "./guard_options.ts";
import { fault, methodSchema } from "./method_options.ts";
import type { MethodOptions } from "./method_options.ts";
import { requireRates } from "./schedule.ts";
import type { TrainSession } from "./session.ts";

// ── What a program writes ──

/** How a run is carried out, which is no part of what it computes. */
export interface RunControl {
  /** true: go on from outDir's checkpoint when there is one. */
  readonly resume?: boolean | undefined;
  /** true: a resumed run may have more steps of a schedule that depends on them; what is left of it then follows the longer one. */
  readonly extend?: boolean | undefined;
  /** Fires = checkpoint, then stop: the result says "interrupted". Before the first step, AbortError. */
  readonly signal?: AbortSignal | undefined;
  /** Hashing the base, before and after; the run itself tells its progress by events. */
  readonly onProgress?: LongTask["onProgress"];
}

/** As the schema has it, with short forms of data and method. */
export interface TrainRequest extends Omit<z.input<typeof requestSchema>, "data" | "method" | "guard">, RunControl {
  /**
   * Rows to train on: a file, a Dataset or Examples, or a list of files (`[{ file, weight }, { file, weight }]`); with data options:
   * `{ file, maxLength }`, `{ rows, template }`, `{ files: [{ file, rows: 1000 }, …], maxLength }`.
   */
  readonly data: DataSource | readonly (DataFile | string)[] | z.input<typeof requestSchema>["data"];
  readonly method: z.input<typeof methodSchema> | "full" | "lora" | "perft";
  /** Rows of what is not to be forgotten; `files` alone, or as text: "general=general.jsonl,code=code.jsonl". */
  readonly guard?: GuardInput | GuardInput["files"] | string | undefined;
}

// ── What the parser accepts ──

/** A file of several, with its share of the rows, or only so many of them. */
const dataFile = z.strictObject({ file: z.string().min(1), weight: z.number().gt(0).optional(), rows: z.int().min(1).optional() });
const requestSchema = trainSchema.extend({
  data: dataSchema
    .extend({
      file: z
        .string()
        .optional()
        .describe("training rows (JSONL, JSON, CSV or Parquet; - is standard input); FILE=WEIGHT, more than once, mixes files"),
      files: z
        .array(dataFile)
        .min(1, "expected at least one file")
        .readonly()
        .optional()
        .describe("training rows of several files: a list of {file, weight, rows}"),
      rows: inMemory.optional(),
    })
    .check((ctx) => {
      const { file, files, rows } = ctx.value;
      const found = Object.entries({ file, files, rows }).flatMap(([key, value]) => (value === undefined ? [] : key));
      if (found.length !== 1)
        fault(ctx, [], "expected rows to train on: file, files or rows (a Dataset or Examples)", found.join(" and ") || "none");
      const without = files?.findIndex((f) => f.weight === undefined) ?? -1;
      if (without >= 0 && files!.some((f) => f.weight !== undefined))
        fault(
          ctx,
          ["files", String(without), "weight"],
          "expected a weight for every file, or for none",
          `none for ${files![without]!.file}`,
        );
    }),
  evalData: source.optional().describe("held-out rows (a file as data's; default: eval-fraction of the data)"),
  guard: guardSchema.optional(),
  method: methodSchema,
  outDir: z.string().describe("run directory: adapter, checkpoints, events.jsonl"),
});

/** A whole run as a file or as flags: what to train on what, where to, and on which machine. request.json has this form. */
export const jobSchema = requestSchema.extend({
  model: z.string().describe("checkpoint directory (Hugging Face layout), or org/name[@revision] on the hub"),
  ...machineSchema.shape,
});

// ── The parser ──

/** The short forms `data: rows` and `method: "full"` as the objects they stand for, so that parts of a request can be merged. */
export function longForms(request: Plain): Plain {
  const { data, method, guard } = request;
  const long = {
    ...(guard === undefined ? {} : { guard: longGuard(guard) }),
    ...(typeof data === "string"
      ? { data: { file: data } }
      : Array.isArray(data)
        ? { data: { files: data } }
        : isInMemory(data)
          ? { data: { rows: data } }
          : {}),
    ...(typeof method === "string" ? { method: { type: method } } : {}),
  };
  return { ...request, ...long };
}

/** Long forms, with ESFT as the method when none is named. @throws ConfigError rows that are neither files nor keys and values */
function complete(request: Plain, from: string): Plain {
  const { data = {}, method = {}, ...rest } = longForms(request);
  if (!isPlain(data)) {
    throw new ConfigError(`${from}.data: expected a file of rows, a list of files, or {file, …}, found ${shown(data)}`, {
      where: { key: "data" },
    });
  }
  const { files } = data;
  const named = Array.isArray(files) ? { files: files.map((f: unknown) => (typeof f === "string" ? { file: f } : f)) } : {};
  return {
    ...rest,
    ...stagesOf(rest, from),
    data: { ...data, ...named },
    method: isPlain(method) && method["type"] === undefined ? { type: "esft", ...method } : method,
  };
}

/** Stages as a list, where they came as the text of a flag. */
function stagesOf({ stages }: Plain, from: string): Plain {
  if (stages === undefined) return {};
  if (typeof stages !== "string") return { stages };
  try {
    return { stages: JSON.parse(stages) as unknown };
  } catch (cause) {
    throw new ConfigError(
      `${from}.stages: expected a list of stages, on the command line as JSON ('[{"targets": "attention,router", "steps": 100}, …]'), found ${shown(stages)}`,
      { where: { key: "stages" }, cause },
    );
  }
}

export class CheckedRequest {
  readonly data: DataSource | readonly DataFile[];
  readonly evalData: DataSource | null;
  readonly guard: GuardOptions | null;
  readonly method: MethodOptions;
  readonly outDir: string;
  /** What decides the result, beside data and method: goes into the run's fingerprint and the adapter's manifest. */
  readonly options: AskedOptions;
  readonly control: RunControl;

  private constructor(request: z.output<typeof requestSchema>, control: RunControl) {
    const {
      data: { file, files, rows, ...data },
      evalData = null,
      guard = null,
      method,
      outDir,
      ...rest
    } = request;
    this.data = file ?? files ?? rows!; // the schema's check: one of them is there
    this.evalData = evalData;
    this.guard = guard;
    this.method = method;
    this.outDir = outDir;
    const steps = stepsAsked(rest);
    this.options = { ...rest, ...(steps === undefined ? {} : { steps }), data };
    requireRates(this.options);
    requireEvaluations(this.options);
    this.control = control;
  }

  /** @throws ConfigError the first fault, with its key */
  static parse(asked: TrainRequest): CheckedRequest {
    const { resume, extend, signal, onProgress, ...request } = optionsArgument(asked, "train: request");
    return new CheckedRequest(parseOptions(requestSchema, complete({ ...request }, "train"), "train"), {
      resume,
      extend,
      signal,
      onProgress,
    });
  }

  /** @throws ConfigError the first fault, with its key; `from` names the file */
  static parseJob(job: Plain, from: string, control: RunControl): Job {
    const { model, device, threads, precision, dequantise, ...request } = parseOptions(jobSchema, complete(job, from), from);
    return { model, device, threads, precision, dequantise, request: new CheckedRequest(request, control) };
  }
}

/** A request, the checkpoint it is for, and where to compute. */
export interface Job extends MachineOptions {
  readonly model: string;
  readonly request: CheckedRequest;
}

// ── request.json ──

export const REQUEST = "request.json";
const EXPERTS = "experts.json";
const GROUP = "request"; // the two change together

/**
 * Writes request.json (a job with absolute paths; null for rows that came from memory) and the experts it names. Both are under a hash
 * in it, so that a run does not go on by a damaged one.
 */
export async function keepRequest(session: TrainSession, request: CheckedRequest, trainable: TrainableSpec): Promise<void> {
  const { data, evalData, guard, options, outDir } = request;
  const absolute = (file: string): string => (file === STANDARD_INPUT ? file : resolve(file));
  const path = (rows: DataSource): string | null => {
    const file = fileOf(rows);
    return file === null ? null : absolute(file);
  };
  const { template } = options.data;
  const { backend } = session.device.info;
  const kept = {
    model: lastingName(session.dir),
    ...options,
    data: {
      ...options.data,
      template: template === "tokenizer" || template === "esft" ? template : resolve(template),
      ...(isList(data) ? { files: data.map((of) => ({ ...of, file: absolute(of.file) })) } : { file: path(data) }),
    },
    ...(evalData === null ? {} : { evalData: path(evalData) }),
    ...(guard === null ? {} : { guard: { ...guard, files: guard.files.map(({ name, file }) => ({ name, file: path(file) })) } }),
    method: { type: trainable.type, ...trainable.options, ...(trainable.experts ? { experts: EXPERTS } : {}) },
    outDir: ".",
    ...(backend === "ref" ? {} : { device: backend }), // a resumed run computes where it began
    precision: session.transformer.precision,
    ...(session.params.roundedBase ? { dequantise: "bf16" } : {}),
  };
  const experts = trainable.experts && formatJson(trainable.experts.toJSON());
  const text = sealedJson({ ...kept, ...(experts === null ? {} : { expertsSha256: sha256(experts) }) });
  await makeFolder(outDir);
  await writeGroupAtomic(
    outDir,
    GROUP,
    async (temp) => {
      if (experts !== null) await writeFileAtomic(join(temp, EXPERTS), experts);
      await writeFileAtomic(join(temp, REQUEST), text);
    },
    { owned: (name) => name === EXPERTS },
  );
}

async function requireExperts(file: string, expected: string): Promise<void> {
  const found = sha256(await readTextFile(file));
  if (found !== expected) throw damaged(file, expected, found);
}

/** Are request.json and the experts it names as they were written? Also of rows that came from memory. @throws LayoutError · IoError */
export async function verifyRequest(outDir: string): Promise<void> {
  const { value } = await readSealedJson(join(outDir, REQUEST));
  if (isPlain(value) && typeof value["expertsSha256"] === "string") await requireExperts(join(outDir, EXPERTS), value["expertsSha256"]);
}

/** The job that a run directory was started with, not yet parsed, and the file it came from. @throws ConfigError · LayoutError · IoError */
export async function loadRequest(outDir: string): Promise<{ readonly job: Plain; readonly file: string }> {
  const file = join(outDir, REQUEST);
  const experts = join(outDir, EXPERTS);
  await finishGroup(outDir, GROUP);
  const { value: job, sealed } = await readSealedJson(file, ConfigError).catch((error: unknown) => {
    if (error instanceof LayoutError)
      throw new LayoutError(`${error.message}. Give changes as flags; if it was edited on purpose, remove the line "sha256" from it`, {
        where: error.where,
      });
    if ((error as { where?: Plain }).where?.["errno"] === "ENOENT")
      throw new ConfigError(`${outDir}: expected a run directory with ${REQUEST}, found none; start a run with esft train`, {
        where: { file },
      });
    throw error;
  });
  if (!isPlain(job)) throw new ConfigError(`${file}: expected keys and values, found ${typeof job}`, { where: { file } });
  const { expertsSha256: expected, ...rest } = job;
  const { data, evalData, guard, method } = rest;
  const guarded = isPlain(guard) && Array.isArray(guard["files"]) ? guard["files"] : [];
  if ((isPlain(data) && data["file"] === null) || evalData === null || guarded.some((f) => isPlain(f) && f["file"] === null))
    throw new ConfigError(`${file}: the rows of this run came from memory, not from a file; resume it from the program that started it`, {
      where: { file },
    });
  if (sealed && typeof expected === "string") await requireExperts(experts, expected); // of a file edited on purpose it says nothing
  const own = isPlain(method) && method["experts"] === EXPERTS ? { method: { ...method, experts } } : {};
  return { job: { ...rest, ...own, outDir: resolve(outDir) }, file };
}
