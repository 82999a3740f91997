// MoeModel: a checkpoint on a device, and what one does with it: profile, train, evaluate, adapt, generate.

import { instanceArgument, listArgument, optionsArgument, pathArgument, readSafely } from "./arguments.ts";
import { basename, resolve } from "node:path";
import { z } from "zod";
import { openDevice } from "./device.ts";
import type { DeviceChoice, OpenedDevice } from "./device.ts";
import { ConfigError, DataError, NonFiniteError } from "./errors.ts";
import { Adapter } from "./adapter/adapter.ts";
import { continuations } from "./generate/continuations.ts";
import { Engine } from "./generate/engine.ts";
import { Generation } from "./generate/generation.ts";
import type { Prepared } from "./generate/generation.ts";
import { answerOptions } from "./generate/options.ts";
import type { AnswerOptions, GenerateInput } from "./generate/options.ts";
import { promptOf } from "./generate/prompt.ts";
import type { ChatOptions } from "./generate/prompt.ts";
import { openAdapter } from "./convert/open.ts";
import { ResidentAdapters } from "./adapter/resident.ts";
import type { LoadedAdapter } from "./adapter/resident.ts";
import { requirePlaces } from "./adapter/tensors.ts";
import { profileExamples } from "./experts/profiler.ts";
import type { ProfileOptions } from "./experts/profiler.ts";
import type { Profile } from "./experts/profile.ts";
import type { LongTask } from "./task.ts";
import { OneAtATime, throwIfAborted } from "./task.ts";
import { decodeFloats } from "./files/floats.ts";
import { openCheckpoint } from "./files/checkpoint.ts";
import type { Checkpoint } from "./files/checkpoint.ts";
import { dataArgument, encodeSource, fileOf } from "./data/source.ts";
import type { DataSource, EncodedSource } from "./data/source.ts";
import { hashCheckpoint } from "./files/hash.ts";
import { modelFolder } from "./hub/folder.ts";
import { snapshotOf } from "./hub/layout.ts";
import type { BaseIdentity } from "./files/hash.ts";
import { BatchStream } from "./data/stream.ts";
import { assertVocabulary, loadTokenizer } from "./text/tokenizer.ts";
import type { Message } from "./text/template.ts";
import type { Tokenizer } from "./text/tokenizer.ts";
import { attachmentsOf } from "./methods/attachments.ts";
import { CHECK_WEIGHTS } from "./model/non_finite.ts";
import { checkpointSpec } from "./model/families/index.ts";
import { Parameters } from "./model/weights/parameters.ts";
import { decodedBytes } from "./model/weights/resident.ts";
import type { ModelSpec } from "./model/spec.ts";
import { defaultPrecision, requirePrecision, Transformer } from "./model/transformer.ts";
import type { Precision } from "./ops.ts";
import type { Device, Tensor } from "./tensor.ts";
import { requireRoomForExamples, requireRoomForGradients, requireRoomForWeights } from "./train/available_memory.ts";
import { evaluateRows } from "./train/evaluate.ts";
import type { Evaluation } from "./train/evaluate.ts";
import { dataSchema, machineSchema, parseOptions } from "./options.ts";
import type { DataInput, DataOptions, Dequantise } from "./options.ts";
import { CheckedRequest } from "./train/request.ts";
import type { RunControl, TrainRequest } from "./train/request.ts";
import { TrainingRun } from "./train/run.ts";
import type { TrainSession } from "./train/session.ts";

export interface LoadOptions extends LongTask {
  /**
   * "auto" (default): a GPU that can be used, else the CPU (`deviceReason` says why). "cuda", "cuda:N": the first GPU, or number N.
   * "ref": every op as plain loops, for tests.
   */
  readonly device?: DeviceChoice;
  /** Worker threads; default, and most: one per processor this process may use. Results do not depend on it. */
  readonly threads?: number | undefined;
  /** Operands of the matrix products: "f32" (exact; the default on the CPU) or "bf16" (on the CPU with AVX512-BF16; always on CUDA). */
  readonly precision?: Precision | undefined;
  /**
   * What weights that are quantised on disk are in memory: "exact" (default), what the format's own library makes of them, bit for bit: f32
   * where bf16 would round, as for FP8 with f32 scales; or "bf16", what merging writes: half of the memory of f32.
   */
  readonly dequantise?: Dequantise | undefined;
  /** Adapter to apply: a directory (ours or the official layout), or org/name[@revision] on the hub. */
  readonly adapter?: string | undefined;
  /** Read every weight once and refuse NaN and infinity. Default: checkpoints up to 2 GiB. */
  readonly checkWeights?: boolean;
}

export type GenerateOptions = GenerateInput & {
  /** Name of a resident adapter (`model.adapters`); default: the model as it is. */
  readonly adapter?: string | null | undefined;
  readonly signal?: AbortSignal | undefined;
};

const evaluateSchema = dataSchema.extend({ batchTokens: z.int().min(1).default(4096), rows: z.int().min(1).optional() });

/**
 * A model on a device. One thing runs at a time: while it trains, profiles, evaluates or answers, everything else is refused, but for
 * answers: they wait for the model, and any number of them are made together.
 */
export class MoeModel implements TrainSession {
  readonly dir: string;
  readonly spec: ModelSpec;
  readonly checkpoint: Checkpoint;
  readonly device: Device;
  /** Why device "auto" became the CPU; null otherwise. */
  readonly deviceReason: string | null;
  readonly transformer: Transformer;
  readonly params: Parameters;
  private tokenizerCache: Tokenizer | null = null;
  private identityCache: BaseIdentity | null = null;
  private engine: Engine | null = null;
  /** Adapters that answers can be made with, side by side. */
  readonly adapters: ResidentAdapters;
  private disposed = false;
  /** Activations, loss sums and the choice of what trains exist once. */
  private readonly use: OneAtATime;

  private constructor(
    dir: string,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    { device, reason }: OpenedDevice,
    params: Parameters,
    transformer: Transformer,
  ) {
    this.dir = dir;
    this.spec = spec;
    this.checkpoint = checkpoint;
    this.device = device;
    this.deviceReason = reason;
    this.params = params;
    this.transformer = transformer;
    this.use = new OneAtATime(`the model ${dir}`);
    this.adapters = new ResidentAdapters(transformer, (source) => this.loadAdapter(source, {}, "adapters.add: adapter"));
  }

  /**
   * Opens a Hugging Face checkpoint: a directory, or org/name[@revision] on the hub, which is fetched into the cache that Python's library
   * uses too where it is not there (lib/hub/folder.ts has the rule). On the CPU frozen weights stay in the mapped files, save those that have to be decoded
   * (quantised on disk, F16), whose memory is asked for first; a GPU gets copies; the files must not
   * be changed while the model is in use.
   * @throws ConfigError unknown architecture or options · LayoutError the weights are not what config.json says · NonFiniteError NaN or
   * infinity, naming the tensor · KernelError the device cannot be used · MemoryError the weights do not fit · IoError · AbortError · what
   * pullModel throws
   */
  static async fromPretrained(dir: string, asked: LoadOptions = {}): Promise<MoeModel> {
    const word = pathArgument(dir, "fromPretrained: dir");
    const options = optionsArgument(asked, "fromPretrained: options");
    const { device: where = "auto", precision, threads, dequantise = "exact" } = options;
    parseOptions(machineSchema.pick({ precision: true, dequantise: true }), { precision, dequantise }, "");
    const { signal, onProgress } = options;
    const path = resolve(await modelFolder(word, { signal, onProgress }));
    const checkpoint = await openCheckpoint(path);
    const spec = checkpointSpec(checkpoint);
    await checkpoint.files.hold(checkpoint.shards);
    let device: Device | null = null;
    let params: Parameters | null = null;
    try {
      const opened = openDevice(where, { threads, precision });
      ({ device } = opened);
      requirePrecision(device, precision ?? defaultPrecision(device)); // before weights travel
      if (device.info.hostMemory) await requireRoomForWeights(path, decodedBytes(spec, checkpoint, dequantise), dequantise);
      params = await Parameters.load(device, spec, checkpoint, options);
      if (options.checkWeights ?? checkpoint.totalBytes <= 2 ** 31) await params.checkFinite(options);
      const transformer = new Transformer(spec, device, params, precision);
      const model = new MoeModel(path, spec, checkpoint, opened, params, transformer);
      if (options.adapter !== undefined) await model.applyAdapter(options.adapter, options);
      return model;
    } catch (error) {
      params?.dispose();
      device?.dispose();
      await checkpoint.files.close();
      throw error;
    }
  }

  /** org/name of a model of the hub, else the checkpoint's directory name. */
  get name(): string {
    return snapshotOf(this.dir)?.id ?? basename(this.dir);
  }

  /** The commit of a model of the hub. */
  get revision(): string | null {
    return snapshotOf(this.dir)?.commit ?? null;
  }

  /** The checkpoint's tokenizer. @throws ConfigError none there, or ids beyond the model's vocabulary */
  async tokenizer(): Promise<Tokenizer> {
    if (!this.tokenizerCache) {
      const tokenizer = await loadTokenizer(this.dir);
      assertVocabulary(tokenizer, this.spec.vocab);
      this.tokenizerCache = tokenizer;
    }
    return this.tokenizerCache;
  }

  /** Hash that tells this base from any other; computed once. Reads every byte up to 1 GiB, samples above. */
  async identity(task: LongTask = {}): Promise<BaseIdentity> {
    optionsArgument(task, "identity: task");
    this.identityCache ??= (await hashCheckpoint(this.checkpoint, task)).identity;
    return this.identityCache;
  }

  /**
   * Rows → token ids and labels, by the checkpoint's tokenizer and the chosen template. Examples pass as they are.
   * @throws DataError a row that cannot be used, with file and line · ConfigError · AbortError
   */
  async encode(data: DataSource, options: DataInput = {}, task: { signal?: AbortSignal | undefined } = {}): Promise<EncodedSource> {
    dataArgument(data, "encode: data");
    optionsArgument(task, "encode: task");
    return this.encodeBy(data, parseOptions(dataSchema, options, "data"), task);
  }
  private encodeBy(data: DataSource, options: DataOptions, task: { signal?: AbortSignal | undefined }): Promise<EncodedSource> {
    return encodeSource(data, options, () => this.tokenizer(), { ...task, room: requireRoomForExamples });
  }

  /**
   * Scores every routed expert on a task: how often and with what gate weight `tokens` tokens (default 131072) of it are routed there;
   * with `gradient` also by ‖W ⊙ dW‖, from a backward per batch over the supervised tokens, in which nothing trains.
   * @throws ConfigError no sparse layer, or a partial profile of other data · DataError · NonFiniteError · AbortError after `onPartial`
   */
  async profile(data: DataSource, options: Partial<Omit<ProfileOptions, "model" | "data">> & { data?: DataInput } = {}): Promise<Profile> {
    dataArgument(data, "profile: data");
    optionsArgument(options, "profile: options");
    return this.measuring("profiling", options.signal, async (signal) => {
      const { data: dataInput, ...rest } = options;
      const o = parseOptions(dataSchema, dataInput ?? {}, "data");
      const { examples } = await this.encodeBy(data, o, { signal });
      const file = fileOf(data);
      const measured = this.params.overridden
        ? { name: `${this.name} with an adapter` }
        : { name: this.name, fingerprint: (await this.identity({ signal })).fingerprint };
      return profileExamples(this.transformer, examples, {
        tokens: 131_072,
        seed: 1,
        maxLength: Math.min(o.maxLength, this.spec.maxPositions),
        requireRoom: (bytes) => requireRoomForGradients(this.device, bytes),
        ...rest,
        signal,
        model: measured,
        data: { ...(file ? { name: basename(file) } : {}), sha256: examples.fingerprint() },
      });
    });
  }

  /**
   * Loss (mean over supervised tokens, nats), perplexity and token accuracy. `batchTokens`: tokens per forward (default 4096), `rows`:
   * only the first so many.
   * @throws DataError a bad row, or nothing supervised · NonFiniteError · ConfigError · AbortError
   */
  async evaluate(
    data: DataSource,
    options: z.input<typeof evaluateSchema> = {},
    task: { signal?: AbortSignal; onProgress?: (p: { done: number; total: number }) => void } = {},
  ): Promise<Evaluation> {
    dataArgument(data, "evaluate: data");
    optionsArgument(task, "evaluate: task");
    return this.measuring("evaluating", task.signal, async (signal) => {
      const { batchTokens, rows: limit, ...o } = parseOptions(evaluateSchema, options, "evaluate");
      const { examples } = await this.encodeBy(data, o, { signal });
      const kept = limit !== undefined && limit < examples.length ? examples.subset(Array.from({ length: limit }, (_, i) => i)) : examples;
      const stream = new BatchStream(kept, {
        packing: o.packing === "esft" ? "document" : o.packing,
        maxLength: o.maxLength,
        onOverflow: o.onOverflow,
        seed: 0,
        shuffle: false,
        rowsPerBatch: 1,
      });
      const result = await evaluateRows(this.transformer, stream.rows(), Math.max(batchTokens, o.maxLength), { ...task, signal });
      if (result.supervised === 0) throw new DataError("evaluation: expected supervised tokens, found none in these rows");
      if (!Number.isFinite(result.loss)) throw new NonFiniteError(`evaluation: the loss is ${result.loss}: ${CHECK_WEIGHTS}`);
      return result;
    });
  }

  /**
   * Uses the model for a measurement. On a device that reads the mapped files, what was measured while they changed is worth nothing, and
   * neither is why it failed: looked at before the model is free again, or closed.
   */
  private measuring<T>(what: string, given: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { hostMemory } = this.device.info;
    return this.use.run(what, given, async (signal) => {
      try {
        return await work(signal);
      } finally {
        if (hostMemory) await this.checkpoint.files.requireUnchanged();
      }
    });
  }

  /**
   * Starts a training run; it progresses whether or not its events are read. The base weights are never changed, the result is an
   * adapter in request.outDir.
   * @throws ConfigError an adapter is applied (training starts from the base), or another run is in progress; the run itself rejects
   * with ConfigError, DataError, MemoryError before anything is allocated, NonFiniteError or IoError
   */
  train(request: TrainRequest | CheckedRequest): TrainingRun {
    this.use.requireFree();
    if (this.params.overridden)
      throw new ConfigError(
        "an adapter is applied, training starts from the base weights: removeAdapter() first, or merge the adapter and train the merged model",
        { where: { key: "adapter" } },
      );
    const control: RunControl = readSafely("train: request", () => request instanceof CheckedRequest)
      ? (request as CheckedRequest).control
      : optionsArgument(request as TrainRequest, "train: request");
    const { signal } = control;
    return new TrainingRun(this, request, (work) => this.use.run("training", signal, work));
  }

  /**
   * Replaces weights by an adapter's (instead of those of one applied before); undo with removeAdapter. All tensors or none.
   * @throws LayoutError another base, unknown tensors, damaged files · NonFiniteError · AbortError
   */
  async applyAdapter(adapter: Adapter | string, task: LongTask = {}): Promise<Adapter> {
    optionsArgument(task, "applyAdapter: task");
    return this.use.run("applying an adapter", task.signal, (signal) => this.replaceWeights(adapter, { ...task, signal }));
  }

  private async replaceWeights(adapter: Adapter | string, task: LongTask): Promise<Adapter> {
    const { adapter: loaded, values, attachments } = await this.loadAdapter(adapter, task, "applyAdapter: adapter");
    try {
      this.transformer.override(values, attachments);
    } catch (error) {
      for (const t of values.values()) t.dispose();
      throw error;
    }
    return loaded;
  }

  /** An adapter for this base, its tensors on the device. */
  private async loadAdapter(adapter: Adapter | string, task: LongTask, what: string): Promise<LoadedAdapter> {
    const loaded =
      typeof adapter === "string"
        ? await openAdapter(adapter, { base: this.checkpoint, ...task })
        : instanceArgument(adapter, Adapter, what);
    if (typeof adapter !== "string") await loaded.checkBase(this.checkpoint, task);
    requirePlaces(this.spec, loaded.tensors);
    const attachments = attachmentsOf(this.spec, loaded.method, loaded.attached, loaded.experts);
    const values = new Map<string, Tensor>();
    try {
      for (const [key, t] of [...loaded.tensors, ...loaded.attached]) {
        throwIfAborted(task.signal, "applying the adapter");
        const bytes = await loaded.read(key);
        const tensor =
          t.dtype === "BF16"
            ? this.device.tensor("bf16", t.shape, new Uint16Array(bytes.slice().buffer))
            : this.device.tensor("f32", t.shape, Float32Array.from(decodeFloats(bytes, t.dtype)));
        values.set(key, this.params.fromFileOrder(key, tensor));
      }
    } catch (error) {
      for (const t of values.values()) t.dispose();
      throw error;
    }
    return { adapter: loaded, values, attachments };
  }

  /** The base model again; does nothing when no adapter is applied. */
  removeAdapter(): void {
    this.use.requireFree();
    this.transformer.restore();
  }

  /**
   * Continues a text or token ids. An async iterator of pieces, and `result()`: greedy unless `temperature` is given, at most `maxTokens`
   * (default 512), ending before the model's end-of-sequence ids (`stopIds`) or a text of `stop`. Several at once are decoded together, and
   * each is what it would be alone. Begins when the model is free. Ids without `text` give ids alone.
   * @throws (result and iterator) ConfigError options, no tokenizer · DataError an empty prompt, or ids outside the vocabulary ·
   * NonFiniteError · MemoryError · AbortError
   */
  generate(prompt: string | readonly number[], options: GenerateOptions & { readonly text?: boolean } = {}): Generation {
    const { signal, adapter = null, text: asText = typeof prompt === "string", ...rest } = optionsArgument(options, "generate: options");
    return new Generation(async () => {
      const answer = answerOptions(rest, "generate");
      const tokenizer = asText || answer.stops.strings.length > 0 ? await this.tokenizer() : null;
      const ids = typeof prompt === "string" ? await (await this.tokenizer()).encodeRaw(prompt) : listArgument(prompt, "generate: prompt");
      return this.answer(ids, answer, tokenizer, adapter, true);
    }, signal);
  }

  /** The next message of a conversation, by the chat template. @throws see generate; DataError what the template refuses */
  chat(messages: readonly Message[], options: GenerateOptions & ChatOptions = {}): Generation {
    const { signal, adapter = null, template, tools, variables, now, ...rest } = optionsArgument(options, "chat: options");
    return new Generation(async () => {
      const answer = answerOptions(rest, "chat");
      const tokenizer = await this.tokenizer();
      const ids = await promptOf(listArgument(messages, "chat: messages"), tokenizer, { template, tools, variables, now });
      return this.answer(ids, answer, tokenizer, adapter, false);
    }, signal);
  }

  /** Greedy answers to prompts, for whoever has the model to himself: a training run (train/session.ts). */
  async continuations(
    prompts: readonly (readonly number[])[],
    { maxTokens, capacity, signal }: { readonly maxTokens: number; readonly capacity: number; readonly signal?: AbortSignal | undefined },
  ): Promise<number[][]> {
    const stopIds = this.stopIds(await this.tokenizer());
    return continuations(this.transformer, prompts, { maxTokens, capacity, signal, stopIds });
  }

  /** Ids that end an answer of a conversation. */
  private stopIds(tokenizer: Tokenizer | null): Set<number> {
    const turn = tokenizer ? tokenizer.stopTokens.flatMap((t) => tokenizer.tokenToId(t) ?? []) : [];
    return new Set([...this.spec.eosIds, ...turn]);
  }

  /** Sequences that are being continued, and those that wait for a place among them. */
  get load(): { readonly active: number; readonly waiting: number } {
    return this.engine?.load ?? { active: 0, waiting: 0 };
  }

  private answer(
    prompt: readonly number[],
    options: AnswerOptions,
    tokenizer: Tokenizer | null,
    adapter: string | null,
    continues: boolean,
  ): Prepared {
    this.engine ??= new Engine(this.transformer, this.use, { adapters: this.adapters });
    const { vocab, maxPositions } = this.spec;
    if (prompt.length === 0) throw new DataError("a prompt must have at least one token, found none", { where: { key: "prompt" } });
    const wrong = prompt.find((id) => !Number.isInteger(id) || id < 0 || id >= vocab);
    if (wrong !== undefined)
      throw new DataError(`a prompt's token id must be in 0..${vocab - 1}, found ${wrong}`, {
        where: { key: "prompt", token: wrong, vocab },
      });
    if (prompt.length > maxPositions)
      throw new ConfigError(`a prompt of ${prompt.length} tokens exceeds the model's ${maxPositions} positions`, {
        where: { key: "prompt" },
      });
    const stopIds = options.stopIds ? new Set(options.stopIds) : this.stopIds(continues ? null : tokenizer);
    if (adapter !== null) this.adapters.hold(adapter);
    const release = (): void => {
      if (adapter !== null) this.adapters.release(adapter);
    };
    return { engine: this.engine, prompt, options, stopIds, tokenizer, continues, adapter, release };
  }

  /**
   * Frees everything at once; what is in progress rejects with DisposedError. `await using` stops it first, as its signal would, and
   * waits for its end: a run that had begun has then saved its checkpoint.
   */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    void this.use.close();
    this.transformer.dispose();
    this.params.dispose();
    this.adapters.dispose();
    this.device.dispose();
    void this.checkpoint.files.close();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.use.close();
    if (!this.disposed) await this.device.synchronize().catch(() => undefined);
    this.dispose();
    await this.checkpoint.files.close();
  }
}
