// Budget → plan: which methods, batches and lengths fit a memory, what each costs in bytes and seconds, from a checkpoint's headers and
// the rows. Memory is what a run states of itself (train/memory_plan.ts); time is the step's own ops at this machine's rates.

import { listArgument, optionsArgument, pathArgument } from "../arguments.ts";
import { ConfigError } from "../errors.ts";
import { dataArgument, encodeSource } from "../data/source.ts";
import type { DataSource } from "../data/source.ts";
import type { Examples } from "../data/examples.ts";
import { Profile } from "../experts/profile.ts";
import { openCheckpoint } from "../files/checkpoint.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { modelFolder } from "../hub/folder.ts";
import { residentBytes } from "../inspect.ts";
import { hostBatch } from "../model/batch.ts";
import type { HostBatch } from "../model/batch.ts";
import { checkpointSpec } from "../model/families/index.ts";
import type { ModelSpec } from "../model/spec.ts";
import { openDevice } from "../device.ts";
import type { DeviceChoice } from "../device.ts";
import { parseOptions, trainSchema } from "../options.ts";
import type { AskedOptions, DataInput } from "../options.ts";
import type { Precision } from "../ops.ts";
import { defaultPrecision, requirePrecision } from "../model/transformer.ts";
import type { Device } from "../tensor.ts";
import { assertVocabulary, loadTokenizer } from "../text/tokenizer.ts";
import { requireRoomForExamples } from "../train/available_memory.ts";
import { rowsOf, stepsAsked } from "../train/length.ts";
import { defaultMicroBatch, planMemory, size } from "../train/memory_plan.ts";
import type { DataSize, MemoryParts } from "../train/memory_plan.ts";
import { trainingStream } from "../train/streams.ts";
import { calibrate, secondsOf } from "./calibrate.ts";
import type { Pass, Rates } from "./calibrate.ts";
import { candidatesOf, loadsOf, PLAN_METHODS } from "./candidates.ts";
import type { Candidate, PlanMethod } from "./candidates.ts";
import { costOf } from "./cost.ts";
import type { Loads, Rows } from "./cost.ts";
import { loadRates, ratesFile, saveRates } from "./machine.ts";
import { traceStep } from "./trace.ts";

export interface PlanRequest {
  readonly data: DataSource;
  /** Bytes that the run may take in all: weights, state, activations, rows, and the process. */
  readonly memory: number;
  /** Absent: all. */
  readonly method?: PlanMethod | undefined;
  /** Or its file: which experts the task uses. Without one a share of the experts of each layer is assumed, and even use. */
  readonly profile?: Profile | string | undefined;
  readonly steps?: number | undefined;
  readonly epochs?: number | undefined;
  readonly rowsPerStep?: number | undefined;
  /** Fixed where it is given. */
  readonly microBatch?: number | undefined;
  /** `maxLength` is turned down only where it is not given. */
  readonly dataOptions?: DataInput | undefined;
  readonly device?: DeviceChoice | undefined;
  readonly threads?: number | undefined;
  readonly precision?: Precision | undefined;
  /** false: memory alone, nothing is measured. */
  readonly time?: boolean | undefined;
  /** false: measured anew, whatever earlier plans kept. */
  readonly cached?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface PlanBytes extends MemoryParts {
  /** Frozen weights: mapped files, or copies. */
  readonly weights: number;
  /** Node and the addon. */
  readonly process: number;
  readonly total: number;
}

export interface PlanTime {
  readonly secondsPerStep: number;
  /** Updates and evaluations; saving is not in it. */
  readonly seconds: number;
  readonly steps: number;
  /** Of a step. */
  readonly flops: number;
}

export interface PlanChoice {
  readonly label: string;
  readonly method: PlanMethod;
  readonly p: number | null;
  /** Of all routed experts; null: the method selects none. */
  readonly expertShare: number | null;
  readonly experts: number | null;
  readonly trainedParameters: number;
  readonly microBatch: number;
  readonly rowsPerStep: number;
  readonly maxLength: number;
  readonly bytes: PlanBytes;
  readonly time: PlanTime | null;
  readonly reason: string;
  /** As a job has them: what `esft train` reads, the data's file and the model aside. */
  readonly options: Readonly<Record<string, unknown>>;
}

export interface PlanResult {
  readonly memory: number;
  readonly best: readonly PlanChoice[];
  readonly unfit: readonly { readonly label: string; readonly bytes: number; readonly reason: string }[];
  readonly assumptions: readonly string[];
  /** Seconds that measuring this machine took; 0: kept from before. */
  readonly calibrationSeconds: number;
}

const SHORTEST = 128;
const MOST = 3;

/**
 * The three best plans that fit, from headers and rows; no weight is read.
 * @throws ConfigError · DataError · MemoryError not even the rows fit · IoError · AbortError
 */
export async function plan(model: string, asked: PlanRequest): Promise<PlanResult> {
  const named = pathArgument(model, "plan: model");
  const request = optionsArgument(asked, "plan: request");
  const { data, memory, signal, time = true } = request;
  dataArgument(data, "plan: data");
  if (!(typeof memory === "number" && Number.isFinite(memory) && memory > 0))
    throw new ConfigError(`plan: expected memory in bytes, above 0, found ${String(memory)}`, { where: { key: "memory" } });
  if (request.method !== undefined && !PLAN_METHODS.includes(request.method))
    throw new ConfigError(`plan: expected method to be ${PLAN_METHODS.join(", ")}, found ${String(request.method)}`, {
      where: { key: "method" },
    });
  const dir = await modelFolder(named, { signal });
  const checkpoint = await openCheckpoint(dir);
  const spec = checkpointSpec(checkpoint);
  const profile = await profileOf(request.profile);
  const length = request.dataOptions?.maxLength;
  const { steps, epochs, rowsPerStep, microBatch } = request;
  const given = {
    steps,
    epochs,
    rowsPerStep,
    microBatch,
    data: { ...request.dataOptions, maxLength: length ?? Math.min(1024, spec.maxPositions) },
  };
  const options = parseOptions(trainSchema, given, "plan") as AskedOptions;
  const tokenizer = async () => {
    const loaded = await loadTokenizer(dir);
    assertVocabulary(loaded, spec.vocab);
    return loaded;
  };
  const { examples } = await encodeSource(data, options.data, tokenizer, { signal, room: requireRoomForExamples });
  const { device } = openDevice(request.device ?? "auto", { threads: request.threads, precision: request.precision });
  using _ = device;
  const precision = request.precision ?? defaultPrecision(device);
  requirePrecision(device, precision);
  const planner = new Planner(checkpoint, spec, device, precision, examples, options, loadsOf(profile?.profile ?? null), memory);
  const assumptions: string[] = [];
  const methods = request.method === undefined ? PLAN_METHODS : [request.method];
  if (!profile && methods.includes("esft") && spec.layers.length > 0)
    assumptions.push(
      "no profile: ESFT is planned for a share of the experts of each layer, all met equally often; esft profile tells p and which",
    );
  const fitting: PlanChoice[] = [];
  const unfit: PlanResult["unfit"][number][] = [];
  for (const c of await candidatesOf(spec, methods, profile, options.seed)) {
    const fit = planner.fit(c, length === undefined, microBatch);
    if ("bytes" in fit && "microBatch" in fit) fitting.push(fit);
    else unfit.push(fit);
  }
  const best = leading(fitting, request.method);
  if (!time) return { memory, best, unfit, assumptions, calibrationSeconds: 0 };
  const file = await ratesFile(device);
  const rates = request.cached === false ? {} : await loadRates(file);
  let calibrationSeconds = 0;
  const timed: PlanChoice[] = [];
  for (const choice of best) {
    const found = await planner.time(choice, rates, signal);
    calibrationSeconds += found.calibration;
    timed.push({ ...choice, time: found.time });
  }
  if (calibrationSeconds > 0) await saveRates(file, rates);
  return { memory, best: timed, unfit, assumptions, calibrationSeconds };
}

/** The best plan as options of a job; null: nothing fits. */
export function bestOptions(found: Pick<PlanResult, "best">): Readonly<Record<string, unknown>> | null {
  const { best } = optionsArgument(found, "bestOptions: plan");
  const [first] = listArgument(best, "bestOptions: plan.best");
  return first === undefined ? null : optionsArgument(first, "bestOptions: plan.best").options;
}

async function profileOf(given: Profile | string | undefined) {
  if (given === undefined) return null;
  return given instanceof Profile ? { profile: given, file: null } : { profile: await Profile.load(given), file: given };
}

/** The first of each method, then the others, as they are preferred. */
function leading(fitting: readonly PlanChoice[], method: PlanMethod | undefined): PlanChoice[] {
  if (method !== undefined) return fitting.slice(0, MOST);
  const first = fitting.filter((c, i) => fitting.findIndex((d) => d.method === c.method) === i);
  return [...first, ...fitting.filter((c) => !first.includes(c))].slice(0, MOST);
}

/** What depends on a run's rows: some of its micro-batches, and how many tokens there are. */
interface Sample {
  readonly batch: HostBatch;
  readonly tokensPerStep: number;
  readonly steps: number;
  readonly evalTokens: number;
}

class Planner {
  private readonly trainables = new Map<PlanChoice, Candidate>();
  private readonly checkpoint: Checkpoint;
  private readonly spec: ModelSpec;
  private readonly device: Device;
  private readonly precision: Precision;
  private readonly examples: Examples;
  private readonly options: AskedOptions;
  private readonly loads: Loads;
  private readonly memory: number;
  private readonly weights: number;
  /** Of the process as it is now, with the addon and the rows' tools loaded. */
  private readonly base: number;

  constructor(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    device: Device,
    precision: Precision,
    examples: Examples,
    options: AskedOptions,
    loads: Loads,
    memory: number,
  ) {
    this.checkpoint = checkpoint;
    this.spec = spec;
    this.device = device;
    this.precision = precision;
    this.examples = examples;
    this.options = options;
    this.loads = loads;
    this.memory = memory;
    this.weights = residentBytes(checkpoint, spec);
    this.base = device.info.hostMemory ? Math.max(0, process.memoryUsage.rss() - examples.bytes) : 0;
  }

  private bytes({ trainable }: Candidate, microBatch: number, maxLength: number): PlanBytes {
    const { examples, options } = this;
    const data: DataSize = {
      held: examples.bytes + 4 * examples.length,
      examples: examples.length,
      repacked: options.data.packing === "esft",
    };
    const { parts } = planMemory(this.spec, trainable, microBatch * maxLength, this.device.info, data);
    const there = this.device.info.hostMemory ? parts : { ...parts, host: 0, data: 0 };
    const total = this.weights + this.base + Object.values(there).reduce((a, b) => a + b, 0);
    return { ...there, weights: this.weights, process: this.base, total };
  }

  /** The largest micro-batch that fits, with shorter rows where that is allowed; or why none does. */
  fit(c: Candidate, mayShorten: boolean, fixed: number | undefined): PlanChoice | PlanResult["unfit"][number] {
    const { options, memory } = this;
    const { rowsPerStep } = options;
    const asked = options.data.maxLength;
    for (let maxLength = asked; maxLength === asked || (mayShorten && maxLength >= SHORTEST); maxLength = Math.floor(maxLength / 2)) {
      const most = Math.min(rowsPerStep, fixed ?? defaultMicroBatch(maxLength));
      for (let rows = most; rows >= 1; rows = fixed === undefined ? Math.floor(rows / 2) : 0) {
        const bytes = this.bytes(c, rows, maxLength);
        if (bytes.total > memory) continue;
        const turned = [
          ...(rows < most ? [`micro-batches of ${rows} rows in place of ${most}, gradients add up`] : []),
          ...(maxLength < asked ? [`rows of ${maxLength} tokens in place of ${asked}: longer ones are cut`] : []),
        ];
        const choice: PlanChoice = {
          label: c.label,
          method: c.method,
          p: c.p,
          expertShare: c.expertShare,
          experts: c.trainable.experts?.count ?? null,
          trainedParameters: c.trainable.parameters,
          microBatch: rows,
          rowsPerStep,
          maxLength,
          bytes,
          time: null,
          reason: [c.why, ...turned].join("; "),
          options: { method: c.options, rowsPerStep, microBatch: rows, data: { maxLength } },
        };
        this.trainables.set(choice, c);
        return choice;
      }
    }
    const least = this.bytes(c, fixed ?? 1, mayShorten ? Math.min(asked, SHORTEST) : asked);
    return { label: c.label, bytes: least.total, reason: largest(least, memory) };
  }

  private async sample({ microBatch, maxLength }: PlanChoice): Promise<Sample> {
    const options = { ...this.options, data: { ...this.options.data, maxLength } };
    const { evalFraction, seed, rowsPerStep, evalEvery } = options;
    const { train, heldOut } = evalFraction > 0 ? this.examples.split(evalFraction, seed) : { train: this.examples, heldOut: null };
    const stream = trainingStream(train, options, 0);
    const steps = stepsAsked(options) ?? Math.ceil((await rowsOf(stream, options.epochs!)) / rowsPerStep);
    let tokens = 0;
    let first: HostBatch | null = null;
    const looks = Math.min(8, steps);
    for (let i = 0; i < looks; i++) {
      const batch = await stream.next();
      tokens += batch.tokens;
      if (first) continue;
      const rows = [];
      for (const row of batch.rows) if (rows.push(row) >= microBatch) break;
      first = hostBatch(rows);
    }
    let held = 0;
    if (heldOut) for (let i = 0; i < heldOut.length; i++) held += Math.min(heldOut.size(i), maxLength);
    const evals = heldOut && heldOut.length > 0 ? 1 + Math.ceil(steps / (evalEvery || steps)) : 0;
    return { batch: first!, tokensPerStep: tokens / looks, steps, evalTokens: held * evals };
  }

  async time(
    choice: PlanChoice,
    rates: Rates,
    signal: AbortSignal | undefined,
  ): Promise<{ readonly time: PlanTime; readonly calibration: number }> {
    const { checkpoint, spec, precision, device, loads } = this;
    const { trainable } = this.trainables.get(choice)!;
    const { batch, tokensPerStep, steps, evalTokens } = await this.sample(choice);
    const traced = (of: HostBatch) => traceStep({ checkpoint, spec, trainable, info: device.info, precision, batch: of });
    const [full, small] = [batch, shortened(batch)];
    const [trace, short] = [traced(full), traced(small)];
    const rows = rowsIn(full, loads);
    const pass: Pass = { calls: [...trace.forward, ...trace.backward, ...trace.update], batch: full, rows };
    const other: Pass = { calls: [...short.forward, ...short.backward, ...short.update], batch: small, rows: rowsIn(small, loads) };
    const calibration = await calibrate(device, pass, other, rates, signal);
    const forward = secondsOf(trace.forward, rows, rates) / full.ids.length;
    const perToken = forward + secondsOf(trace.backward, rows, rates) / full.ids.length;
    const secondsPerStep = perToken * tokensPerStep + secondsOf(trace.update, rows, rates);
    const flops = flopsOf(pass, tokensPerStep / full.ids.length);
    return { time: { secondsPerStep, seconds: secondsPerStep * steps + forward * evalTokens, steps, flops }, calibration };
  }
}

function flopsOf({ calls, rows }: Pass, times: number): number {
  return times * calls.reduce((n, call) => n + costOf(call, rows).flops, 0);
}

/** What stands for a batch where the whole would take long: its first tokens. */
function shortened(batch: HostBatch, most = 1024): HostBatch {
  if (batch.ids.length <= 2 * most) return batch;
  const cut = (x: Int32Array): Int32Array => x.slice(0, most);
  const targets = cut(batch.targets);
  if (!targets.some((t) => t >= 0)) targets[0] = batch.ids[1]!;
  return {
    ids: cut(batch.ids),
    positions: cut(batch.positions),
    docStart: cut(batch.docStart),
    targets,
    supervised: targets.reduce((n, t) => n + (t >= 0 ? 1 : 0), 0),
  };
}

function rowsIn({ docStart, supervised }: HostBatch, loads: Loads): Rows {
  let pairs = 0;
  for (let t = 0; t < docStart.length; t++) pairs += t - docStart[t]! + 1;
  return { pairs, supervised, loads };
}

/** The parts that are too much, largest first. */
function largest(bytes: PlanBytes, memory: number): string {
  const { total, ...parts } = bytes;
  const order = Object.entries(parts).sort((a, b) => b[1] - a[1]).slice(0, 2); // prettier-ignore
  return `${size(total)} at the least, ${size(total - memory)} too much; most of it ${order.map(([name, n]) => `${WORDS[name] ?? name} ${size(n)}`).join(", ")}`;
}

const WORDS: Readonly<Record<string, string>> = { trained: "masters of what trains", optimizer: "moments", process: "the process" };
