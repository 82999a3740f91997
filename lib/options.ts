// The options of selecting, reading data, training and of the machine: one schema each, for TypeScript, YAML files and command-line
// flags (train/request.ts puts them together). The descriptions are the help texts of the flags. `parseOptions` checks a value by a
// schema; its errors name the key, what was expected, what was found and the nearest valid key.

import { z } from "zod";
import { ConfigError, EsftError } from "./errors.ts";
import { sameWord, withMethod } from "./options/elsewhere.ts";
import { keysAt, leavesOf } from "./options/leaves.ts";
import { meantBy } from "./options/suggest.ts";

/** Shapes of rows; data/rows.ts says which keys each has. */
export const SHAPES = ["messages", "sharegpt", "alpaca", "prompt_completion", "text"] as const;
export type Shape = (typeof SHAPES)[number];

/** Formats of data files; data/formats.ts says which ending names which. */
export const FORMATS = ["jsonl", "json", "csv", "parquet"] as const;
export type Format = (typeof FORMATS)[number];

/** How experts are chosen from a profile: exactly one of p, topKPerLayer, maxTrainableParams and fixed. */
export const selectSchema = z.strictObject({
  score: z
    .enum(["token", "gate", "gradient"])
    .default("token")
    .describe("score that ranks the experts: share of routed tokens, mean gate weight, or share of ‖W ⊙ dW‖ (of a profile with gradients)"),
  p: z.number().gt(0).max(1).optional().describe("per layer, take the best experts until their scores sum to p, in (0, 1]"),
  compat: z.enum(["esft-2024"]).optional().describe("select exactly as the released configurations did"),
  topKPerLayer: z.int().min(1).optional().describe("instead of p: this many experts per layer"),
  maxTrainableParams: z.number().gt(0).optional().describe("instead of p: the best experts within so many parameters"),
  fixed: z
    .string()
    .or(z.record(z.string(), z.array(z.int().min(0))))
    .optional()
    .describe("instead of p: these experts, layer=id+id between commas (1=3+0,2=5) or none; in a file also layer: [ids]"),
  groupSize: z
    .int()
    .min(1)
    .optional()
    .describe("tie so many neighbouring experts of a layer: selected together or not at all, by their sum"),
  gateNormalize: z.enum(["raw", "perLayer"]).default("raw").describe("gate scores as they are, or scaled to sum to 1 per layer"),
  average: z.enum(["tokens", "sequences"]).default("tokens").describe("mean over all tokens, or over the means of the sequences"),
  random: z.int().min(0).optional().describe("the paper's control: as many experts per layer, drawn with this seed"),
});

const optimizerSchema = z.strictObject({
  lr: z.number().min(0).default(1e-5).describe("learning rate of AdamW"),
  beta1: z.number().min(0).lt(1).default(0.9).describe("decay of the first moment"),
  beta2: z.number().min(0).lt(1).default(0.95).describe("decay of the second moment"),
  eps: z.number().gt(0).default(1e-8).describe("added to the root of the second moment"),
  weightDecay: z.number().min(0).default(0.1).describe("decoupled weight decay"),
  clipNorm: z.number().min(0).default(1).describe("global gradient norm to clip to; 0 = off"),
  schedule: z
    .enum(["constant", "linear", "cosine", "wsd"])
    .default("constant")
    .describe("learning rate over the steps; wsd = warm-up, stable, decay at the end"),
  warmupSteps: z.int().min(0).default(0).describe("steps of linear warm-up"),
  warmupRatio: z.number().min(0).max(1).optional().describe("instead of warmup-steps: the same as a share of the steps"),
  decaySteps: z.int().min(1).optional().describe("steps that wsd decays in, the last ones"),
  decayRatio: z.number().gt(0).max(1).optional().describe("instead of decay-steps: the same as a share of the steps (default: 0.1)"),
  decayShape: z.enum(["linear", "cosine", "sqrt"]).optional().describe("how wsd decays; sqrt falls as 1 - √t (default: linear)"),
  minLrRatio: z.number().min(0).max(1).default(0).describe("final learning rate as a share of lr (linear, cosine, wsd)"),
});

export const dataSchema = z.strictObject({
  format: z
    .enum(FORMATS)
    .optional()
    .describe("format of files whose name does not tell it (.jsonl .json .csv .parquet, .gz or not; default: jsonl)"),
  shape: z.enum(SHAPES).optional().describe("shape of the rows (default: each row's keys decide)"),
  template: z
    .string()
    .default("tokenizer")
    .describe('"tokenizer" (the checkpoint\'s chat template), "esft" (the official format), or a Jinja file'),
  packing: z
    .enum(["document", "esft", "none"])
    .default("document")
    .describe("rows of several documents that do not see each other, the paper's concatenation, or none"),
  maxLength: z.int().min(2).default(1024).describe("tokens per row"),
  onOverflow: z.enum(["error", "drop", "truncateLeft", "truncateRight"]).default("truncateRight").describe("examples longer than a row"),
  onBadRow: z.enum(["error", "skip"]).default("error").describe("rows that cannot be used"),
  onDropped: z
    .enum(["error", "allow"])
    .default("error")
    .describe("rows with messages, tool calls or tools that the chat template leaves out: not usable, or trained without them and counted"),
});

/** What a run trains for a while, of what its method trains; rates that it does not say are the optimizer's. */
const stageSchema = z.strictObject({
  targets: z.union([z.string(), z.array(z.string()).readonly()], "expected what trains: names between commas, or a list of them"),
  steps: z.int().min(1),
  lr: z.number().min(0).optional(),
  schedule: optimizerSchema.shape.schedule.unwrap().optional(),
  warmupSteps: z.int().min(0).optional(),
  warmupRatio: optimizerSchema.shape.warmupRatio,
  decaySteps: optimizerSchema.shape.decaySteps,
  decayRatio: optimizerSchema.shape.decayRatio,
  decayShape: optimizerSchema.shape.decayShape,
  minLrRatio: z.number().min(0).max(1).optional(),
});
export type StageOptions = z.output<typeof stageSchema>;

/** Updates of a run that says neither steps, nor epochs, nor stages. */
export const DEFAULT_STEPS = 500;

export const trainSchema = z.strictObject({
  steps: z.int().min(1).optional().describe(`updates to do (default: ${DEFAULT_STEPS})`),
  epochs: z.number().gt(0).optional().describe("instead of steps: passes over the packed rows, also parts of one (0.5, 2.5)"),
  rowsPerStep: z.int().min(1).default(32).describe("rows (of at most max-length tokens) per update"),
  microBatch: z
    .int()
    .min(1)
    .optional()
    .describe("rows per forward and backward; gradients accumulate (default: as many as make 4096 tokens)"),
  seed: z.int().min(0).default(1).describe("order of the data, held-out split"),
  evalFraction: z.number().min(0).lt(1).default(0.02).describe("held-out share of the data when no eval data is given; 0 = none"),
  evalEvery: z.int().min(0).default(100).describe("held-out loss every so many steps, and at the end; 0 = only at start and end"),
  earlyStop: z
    .strictObject({
      patience: z.int().min(1).describe("end the run after so many evaluations in a row without a lower held-out loss (default: never)"),
      minDelta: z.number().min(0).default(0).describe("what the held-out loss has to fall by to count as lower, in nats"),
    })
    .optional(),
  maxHours: z
    .number()
    .gt(0)
    .max(500)
    .optional()
    .describe("hours that the run may take from its start: then it saves a checkpoint and stops; a resumed one has as many again"),
  driftEvery: z
    .int()
    .min(0)
    .default(100)
    .describe(
      "compare the routing with the profile that experts were selected from (or the first updates) every so many steps, and at the end; 0 = never",
    ),
  maxDrift: z.number().min(0).max(1).default(0.2).describe("share of routed slots that may have gone to other experts, before a warning"),
  evalRows: z.int().min(0).default(0).describe("most held-out rows to use; 0 = all"),
  sampleEvery: z
    .int()
    .min(0)
    .default(0)
    .describe("answers to held-out questions every so many steps, and at start and end, to read along; 0 = none"),
  sampleRows: z.int().min(1).default(3).describe("held-out questions that are answered (sample-every)"),
  sampleTokens: z.int().min(1).default(64).describe("most tokens of such an answer"),
  saveEvery: z.int().min(1).default(100).describe("checkpoint every so many steps, at the end and on interrupt"),
  keep: z.enum(["best", "last"]).default("best").describe("deliver the adapter with the lowest held-out loss, or the last one"),
  adapterDtype: z.enum(["base", "f32"]).default("base").describe("storage of trained tensors: as the base stores them, or f32"),
  auxLoss: z
    .number()
    .min(0)
    .default(0)
    .describe(
      "weight of the routers' load-balancing loss; only for runs that train routers (full, non-expert modules, --router, LoRA on router)",
    ),
  stages: z
    .array(stageSchema)
    .min(1, "expected at least one stage")
    .readonly()
    .optional()
    .describe(
      "what trains when, of what the method trains: a list of {targets, steps, lr, schedule, …}, the rates as optimizer has them, as JSON " +
        "on the command line; targets as LoRA's, with embedding and norms",
    ),
  optimizer: optimizerSchema.prefault({}),
  data: dataSchema.prefault({}),
});

export const deviceSchema = z.enum(["auto", "cpu", "cuda"]).or(z.templateLiteral(["cuda:", z.int().min(0)]));

/** Where and how to compute. */
const dequantiseSchema = z.enum(["exact", "bf16"]);
/**
 * What weights that are quantised on disk are in memory: "exact", what the format's library makes of them, bit for bit (f32 where bf16
 * would round), or "bf16", what merging writes.
 */
export type Dequantise = z.output<typeof dequantiseSchema>;

export const machineSchema = z.strictObject({
  device: deviceSchema.default("auto").describe("where to compute: auto is a GPU that can be used, else the CPU; cuda:N is GPU N"),
  threads: z.int().min(1).optional().describe("worker threads (default, and most: all processors); results do not depend on it"),
  precision: z
    .enum(["f32", "bf16"])
    .optional()
    .describe("operands of the matrix products (default: f32 on the CPU, bf16 on CUDA; bf16 on the CPU needs AVX512-BF16)"),
  dequantise: dequantiseSchema
    .optional()
    .describe("weights that are quantised on disk, in memory: exact (default; f32 where bf16 would round) or bf16, as merge writes them"),
});

/** As they were asked for: with steps or with epochs, whose steps are known once the rows are packed. */
export type AskedOptions = z.output<typeof trainSchema>;
export type TrainOptions = AskedOptions & { readonly steps: number };
export type OptimizerOptions = z.output<typeof optimizerSchema>;
export type MachineOptions = z.output<typeof machineSchema>;
export type DeviceName = z.output<typeof deviceSchema>;
export type DataOptions = z.output<typeof dataSchema>;
export type DataInput = z.input<typeof dataSchema>;

/** A number as people write it, digits grouped by _ if they like; undefined for any other text, "NaN", "Infinity", "1e999" and "0x10" too. */
export function decimal(text: string): number | undefined {
  if (!/^[+-]?(\d+(_\d+)*(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i.test(text.trim())) return undefined;
  const value = Number(text.replaceAll("_", ""));
  return Number.isFinite(value) ? value : undefined;
}

/** An object of keys and values, as JSON and YAML have them. */
export type Plain = Record<string, unknown>;
export const isPlain = (x: unknown): x is Plain => typeof x === "object" && x !== null && !Array.isArray(x);

/** What was expected, numbers with their bounds; undefined = zod's own words. */
function expectedWords(issue: z.core.$ZodRawIssue): string | undefined {
  if ((issue.code === "too_small" || issue.code === "too_big") && (issue.origin === "number" || issue.origin === "int")) {
    const [sign, bound] = issue.code === "too_small" ? [">", issue.minimum] : ["<", issue.maximum];
    return `expected a ${issue.origin === "int" ? "whole " : ""}number ${sign}${issue.inclusive ? "=" : ""} ${bound}`;
  }
  if (issue.code === "invalid_value") return `expected ${issue.values.map((v) => JSON.stringify(v)).join(" or ")}`;
  if (issue.code !== "invalid_type") return undefined;
  if (issue.expected === "object") return "expected keys and values";
  if (!(issue.inst instanceof z.ZodNumber)) return `expected a ${issue.expected}`;
  const { type, minimum, exclusiveMinimum, maximum, exclusiveMaximum } = z.toJSONSchema(issue.inst);
  const bounds = Object.entries({ ">=": minimum, ">": exclusiveMinimum, "<=": maximum, "<": exclusiveMaximum });
  const said = bounds.filter(([, n]) => typeof n === "number" && Math.abs(n) < Number.MAX_SAFE_INTEGER).map(([sign, n]) => `${sign} ${n}`);
  return [`expected a ${type === "integer" ? "whole " : ""}number`, said.join(" and ")].join(" ").trimEnd();
}

/** What an unknown key must have meant, or the keys that there are. */
function explainKey(schema: unknown, key: string, path: readonly PropertyKey[], value: unknown): string {
  const valid = keysAt(schema, path, value);
  const level = valueAt(value, path);
  const other = isPlain(level) ? withMethod(level["type"], key, level[key]) : null;
  if (other !== null) return `; ${other}`;
  const paths = leavesOf(schema).map((leaf) => leaf.path.join("."));
  // The schema of data alone knows data.maxLength as maxLength.
  const own = (option: string): string | null => [option, option.replace(/^\w+\./, "")].find((p) => paths.includes(p)) ?? null;
  const here = [...path, key].map(String).join(".");
  const deeper = valid.some((name) => sameWord(name, key))
    ? undefined
    : paths.find((p) => p !== here && sameWord(p.replace(/^.*\./, ""), key));
  const meant = deeper === undefined ? meantBy(key, valid, own) : { name: deeper };
  if (meant !== null && "answer" in meant) return `; in esft: ${meant.answer}`;
  return `${meant === null ? "" : `; did you mean "${meant.name}"?`} (valid: ${valid.join(", ")})`;
}

/** @throws ConfigError the first problem, with its key path */
export function parseOptions<S extends z.ZodType>(schema: S, value: unknown, source: string): z.output<S> {
  const result = readSafely(source, () => schema.safeParse(value, { error: expectedWords }));
  if (result.success) return result.data;
  // A misspelt key explains the missing one better than the other way round.
  const issue = result.error.issues.find((i) => i.code === "unrecognized_keys") ?? result.error.issues[0]!;
  const at = [source, ...issue.path.map(String)].filter((s) => s !== "").join(".");
  if (issue.code === "unrecognized_keys") {
    const key = issue.keys[0]!;
    const explained = readSafely(source, () => explainKey(schema, key, issue.path, value));
    throw new ConfigError(`${at}: unknown key "${key}"${explained}`, {
      where: { key: [...issue.path.map(String), key].join("."), unknown: true },
    });
  }
  const found =
    (issue.code === "custom" ? (issue.params?.["found"] as string | undefined) : undefined) ?? shown(valueAt(value, issue.path));
  throw new ConfigError(`${at}: ${issue.message}, found ${found}`, { where: { key: issue.path.map(String).join(".") } });
}

/** Reads what a program gave: a getter or a proxy of it may throw. */
function readSafely<T>(source: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (cause instanceof EsftError) throw cause;
    throw new ConfigError(`${source || "options"}: a value cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  let at = value;
  for (const key of path) at = (at as Record<PropertyKey, unknown> | undefined)?.[key];
  return at;
}

/** A value as an error shows it: what YAML or flags can hold as JSON, an object of a program by its class. */
export function shown(value: unknown): string {
  if (value === undefined) return "nothing";
  if (typeof value === "number" || typeof value === "bigint") return String(value); // JSON has no NaN
  if (typeof value === "function" || typeof value === "symbol") return `a ${typeof value}`;
  try {
    const kind = typeof value === "object" && value !== null ? (value.constructor as { name?: string } | undefined)?.name : undefined;
    if (kind !== undefined && kind !== "Object" && kind !== "Array") return `a value of class ${kind}`;
    const text = JSON.stringify(value) ?? typeof value;
    return text.length <= LONGEST ? text : `${text.slice(0, LONGEST)}…`;
  } catch {
    return Array.isArray(value) ? "an array" : "an object"; // a circle, or a getter that throws
  }
}
const LONGEST = 200;
