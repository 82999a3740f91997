// MoeModel: a checkpoint on a device, and what one does with it: profile, train, evaluate, adapt.

import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { ConfigError, DisposedError } from "./errors.ts";
import { Adapter } from "./esft/adapter.ts";
import { openAdapter } from "./esft/adapter_esft.ts";
import type { ExpertSet } from "./esft/expert_set.ts";
import { profileExamples } from "./esft/profiler.ts";
import type { ProfileOptions } from "./esft/profiler.ts";
import type { Profile } from "./esft/profile.ts";
import type { LongTask } from "./io/atomic_file.ts";
import { decodeFloats } from "./io/bf16.ts";
import { openCheckpoint } from "./io/checkpoint.ts";
import type { Checkpoint } from "./io/checkpoint.ts";
import { Dataset } from "./io/dataset.ts";
import type { DatasetReport } from "./io/dataset.ts";
import { Examples } from "./io/dataset_examples.ts";
import { hashCheckpoint } from "./io/hash.ts";
import type { BaseIdentity } from "./io/hash.ts";
import { BatchStream } from "./io/packing_batches.ts";
import { sliceKey } from "./io/tensor_slice.ts";
import { compileChatTemplate } from "./io/template.ts";
import { assertVocabulary, loadTokenizer } from "./io/tokenizer.ts";
import type { Tokenizer } from "./io/tokenizer.ts";
import { hostBatch } from "./model/batch.ts";
import { modelSpec } from "./model/families/index.ts";
import { Parameters } from "./model/parameters.ts";
import type { ModelSpec } from "./model/spec.ts";
import { Transformer } from "./model/transformer.ts";
import type { Precision } from "./ops.ts";
import { Device } from "./tensor.ts";
import type { Tensor } from "./tensor.ts";
import { evaluateRows } from "./train/evaluate.ts";
import type { Evaluation } from "./train/evaluate.ts";
import { dataSchema } from "./train/options.ts";
import type { DataInput } from "./train/options.ts";
import { parseOptions } from "./train/parse.ts";
import { TrainingRun } from "./train/run.ts";
import type { TrainRequest } from "./train/run.ts";

/** Rows to encode (a JSONL file, a Dataset), or examples that are encoded already. */
export type DataSource = Dataset | Examples | string;

export interface LoadOptions extends LongTask {
  /** "auto": the best device of this machine (today the CPU). "ref": every op as plain loops, for tests. */
  readonly device?: "auto" | "cpu" | "ref";
  readonly threads?: number;
  readonly precision?: Precision;
  /** Adapter directory (ours or the official layout) to apply. */
  readonly adapter?: string;
  /** Read every weight once and refuse NaN and infinity. Default: checkpoints up to 2 GiB. */
  readonly checkWeights?: boolean;
}

export class MoeModel {
  readonly dir: string;
  readonly spec: ModelSpec;
  readonly checkpoint: Checkpoint;
  readonly device: Device;
  readonly transformer: Transformer;
  readonly params: Parameters;
  private tokenizerCache: Tokenizer | null = null;
  private identityCache: BaseIdentity | null = null;
  private applied: Tensor[] = [];
  private disposed = false;
  private training = false;

  private constructor(dir: string, spec: ModelSpec, checkpoint: Checkpoint, device: Device, params: Parameters, transformer: Transformer) {
    this.dir = dir;
    this.spec = spec;
    this.checkpoint = checkpoint;
    this.device = device;
    this.params = params;
    this.transformer = transformer;
  }

  /**
   * Opens a Hugging Face checkpoint directory. Frozen weights stay in the mapped files.
   * @throws ConfigError · LayoutError · NonFiniteError · IoError
   */
  static async fromPretrained(dir: string, options: LoadOptions = {}): Promise<MoeModel> {
    const path = resolve(dir);
    const checkpoint = await openCheckpoint(path);
    const spec = modelSpec(checkpoint.config, join(path, "config.json"));
    const kind = options.device === "ref" ? "ref" : "cpu";
    const device = new Device({ kind, ...(options.threads === undefined ? {} : { threads: options.threads }) });
    try {
      const params = await Parameters.load(device, spec, checkpoint);
      if (options.checkWeights ?? checkpoint.totalBytes <= 2 ** 31) await params.checkFinite(options.signal);
      const transformer = new Transformer(spec, device, params, options.precision ?? "f32");
      const model = new MoeModel(path, spec, checkpoint, device, params, transformer);
      if (options.adapter !== undefined) await model.applyAdapter(options.adapter, options);
      return model;
    } catch (error) {
      device.dispose();
      throw error;
    }
  }

  get name(): string {
    return basename(this.dir);
  }

  private open(): void {
    if (this.disposed) throw new DisposedError(`the model ${this.dir} was disposed`);
    if (this.training) throw new ConfigError(`the model ${this.dir} is training; wait for the run, or open the checkpoint a second time`);
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

  /** Hash that tells this base from any other. */
  async identity(task: LongTask = {}): Promise<BaseIdentity> {
    this.identityCache ??= (await hashCheckpoint(this.checkpoint, task)).identity;
    return this.identityCache;
  }

  /** Rows → token ids and labels, by the checkpoint's tokenizer and the chosen template. */
  async encode(data: DataSource, options: DataInput = {}, task: { signal?: AbortSignal | undefined } = {}): Promise<{ examples: Examples; report: DatasetReport | null }> {
    if (data instanceof Examples) return { examples: data, report: null };
    const o = parseOptions(dataSchema, options, "data");
    const dataset = typeof data === "string" ? Dataset.fromFile(data, { onBadRow: o.onBadRow, ...(o.shape ? { shape: o.shape } : {}) }) : data;
    const template =
      o.template === "tokenizer" || o.template === "esft" ? o.template : compileChatTemplate(await readFile(o.template, "utf8"));
    return dataset.encode({ tokenizer: await this.tokenizer(), template }, task.signal ? { signal: task.signal } : {});
  }

  /** Scores every routed expert on a task. */
  async profile(
    data: DataSource,
    options: Partial<Omit<ProfileOptions, "model" | "data">> & { data?: DataInput } = {},
  ): Promise<Profile> {
    this.open();
    const { data: dataInput, ...rest } = options;
    const o = parseOptions(dataSchema, dataInput ?? {}, "data");
    const { examples } = await this.encode(data, dataInput, { signal: options.signal });
    const file = typeof data === "string" ? data : data.file;
    return profileExamples(this.transformer, examples, {
      tokens: 131_072,
      seed: 1,
      maxLength: Math.min(o.maxLength, this.spec.maxPositions),
      ...rest,
      model: { name: this.name, fingerprint: (await this.identity()).fingerprint },
      data: { ...(file ? { name: basename(file) } : {}), sha256: examples.fingerprint() },
    });
  }

  /** Held-out loss, perplexity and token accuracy. */
  async evaluate(
    data: DataSource,
    options: DataInput & { batchTokens?: number; rows?: number } = {},
    task: { signal?: AbortSignal; onProgress?: (p: { done: number; total: number }) => void } = {},
  ): Promise<Evaluation> {
    this.open();
    const { batchTokens = 4096, rows: limit, ...dataOptions } = options;
    const o = parseOptions(dataSchema, dataOptions, "data");
    const { examples } = await this.encode(data, dataOptions, task);
    const kept = limit && limit < examples.length ? examples.subset(Array.from({ length: limit }, (_, i) => i)) : examples;
    const stream = new BatchStream(kept, { packing: o.packing === "esft" ? "document" : o.packing, maxLength: o.maxLength, onOverflow: o.onOverflow, seed: 0, shuffle: false, rowsPerBatch: 1 });
    return evaluateRows(this.transformer, [...stream.rows()], Math.max(batchTokens, o.maxLength), task);
  }

  /** Starts a training run; it progresses whether or not its events are read. */
  train(request: TrainRequest): TrainingRun {
    this.open();
    this.training = true;
    return new TrainingRun(this, request, () => {
      this.training = false;
    });
  }

  /** Replaces weights by an adapter's; undo with removeAdapter. @throws LayoutError another base, unknown tensors */
  async applyAdapter(adapter: Adapter | string, task: LongTask = {}): Promise<Adapter> {
    this.open();
    const loaded = typeof adapter === "string" ? await openAdapter(adapter, { base: this.checkpoint, ...task }) : adapter;
    if (typeof adapter !== "string") await loaded.checkBase(this.checkpoint, task);
    const values = new Map<string, Tensor>();
    try {
      for (const [key, t] of loaded.tensors) {
        const bytes = await loaded.read(key);
        const tensor =
          t.dtype === "BF16"
            ? this.device.tensor("bf16", t.shape, new Uint16Array(bytes.slice().buffer))
            : this.device.tensor("f32", t.shape, Float32Array.from(decodeFloats(bytes, t.dtype)));
        values.set(sliceKey(t), tensor);
      }
      this.params.override(values);
    } catch (error) {
      for (const t of values.values()) t.dispose();
      throw error;
    }
    this.applied.push(...values.values());
    return loaded;
  }

  /** The base model again. */
  removeAdapter(): void {
    this.params.restore();
    for (const t of this.applied) t.dispose();
    this.applied = [];
  }

  /** Greedy continuation of token ids (whole forward per token: for checks and samples, not for serving). */
  async generate(ids: readonly number[], options: { maxTokens: number; stop?: readonly number[]; signal?: AbortSignal }): Promise<number[]> {
    this.open();
    const all = [...ids];
    const stop = new Set(options.stop ?? this.spec.eosIds);
    while (all.length < ids.length + options.maxTokens) {
      options.signal?.throwIfAborted();
      const logits = await this.transformer.lastLogits(hostBatch([{ ids: all, targets: all.map(() => -100) }]));
      const best = logits.reduce((b, x, i) => (x > logits[b]! ? i : b), 0);
      if (stop.has(best)) break;
      all.push(best);
    }
    return all.slice(ids.length);
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    for (const t of this.applied) t.dispose();
    this.transformer.dispose();
    this.params.dispose();
    this.device.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.device.synchronize().catch(() => undefined);
    this.dispose();
  }
}

export type { ExpertSet };
