// Affinity profiling: runs the task through the model and accumulates, fused into routing, how often and how strongly every
// routed expert is used (counts i64, gate sums f64). Resumable: partial sums and the data position are saved together.

import { ConfigError, NonFiniteError } from "../errors.ts";
import { throwIfAborted } from "../task.ts";
import type { Examples } from "../data/examples.ts";
import { fit } from "../data/packing.ts";
import { shuffledIndices } from "../data/shuffle.ts";
import type { BatchRow } from "../model/batch.ts";
import { hostBatch } from "../model/batch.ts";
import { CHECK_WEIGHTS, explainNonFinite } from "../model/non_finite.ts";
import { moeOf } from "../model/spec.ts";
import type { Transformer } from "../model/transformer.ts";
import { ExpertCounts } from "./counting.ts";
import { expertLayout } from "./expert_set.ts";
import { Profile } from "./profile.ts";

export interface ProfileOptions {
  /** Tokens to score; profiling stops at the end of the example that reaches it, or when the data is used up. */
  readonly tokens: number;
  readonly seed: number;
  /** Longest example; longer ones are cut at the end. */
  readonly maxLength: number;
  /** Tokens per forward. */
  readonly batchTokens?: number;
  readonly model?: { readonly name?: string; readonly fingerprint?: string };
  readonly data?: { readonly name?: string; readonly sha256?: string };
  /** Where an earlier, interrupted profile stopped: its sums are kept and its place is taken up. */
  readonly resume?: Profile | null;
  /** Called with the state so far every `partialEvery` batches (default 64), and before an abort. */
  readonly onPartial?: (partial: Profile) => Promise<void>;
  readonly partialEvery?: number;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((p: ProfileProgress) => void) | undefined;
}

export interface ProfileProgress {
  readonly done: number;
  readonly total: number;
  readonly tokensPerSecond: number;
  readonly etaSeconds: number;
}

/** Kept in a partial profile: the next example in the order, and which examples and order that is. */
interface ResumeState {
  readonly next: number;
  readonly examples: string;
}

/**
 * Scores every token (prompt, response and special tokens, as the official profiling does) of examples in a seeded random order.
 * Examples are documents of their own: they never see each other. Interrupted and resumed, the sums are those of one uninterrupted
 * run, bit for bit: batches are a function of the place in the order, and f64 sums are saved exactly.
 * @throws ConfigError · DataError · NonFiniteError the routing gave NaN · AbortError
 */
export async function profileExamples(model: Transformer, examples: Examples, options: ProfileOptions): Promise<Profile> {
  for (const key of ["tokens", "maxLength", "batchTokens", "partialEvery"] as const) {
    const value = options[key];
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1))
      throw new ConfigError(`profile.${key} must be a whole number above 0, found ${value}`, { where: { key } });
  }
  using profiler = new Profiler(model, examples, options);
  return await profiler.run();
}

class Profiler {
  private readonly model: Transformer;
  private readonly examples: Examples;
  private readonly options: ProfileOptions;
  private readonly order: Uint32Array;
  private readonly fingerprint: string;
  private readonly batchTokens: number;
  private readonly sums: ExpertCounts;
  /** Done so far: examples of `order`, their tokens. */
  private next = 0;
  private tokens = 0;
  private sequences = 0;

  constructor(model: Transformer, examples: Examples, options: ProfileOptions) {
    this.model = model;
    this.examples = examples;
    this.options = options;
    this.order = shuffledIndices(examples.length, options.seed, 0);
    this.fingerprint = `${examples.fingerprint()}:${options.seed}:${options.maxLength}`;
    this.batchTokens = Math.max(options.batchTokens ?? 4096, options.maxLength);
    const layout = expertLayout(model.spec);
    if (layout.size === 0)
      throw new ConfigError(`profiling needs a Mixture-of-Experts model; this ${model.spec.modelType} model has no sparse layer`);
    if (options.resume) this.goOn(options.resume);
    this.sums = new ExpertCounts(model.device, layout);
    const { resume } = options;
    if (resume) this.sums.write((layer) => resume.layer(layer));
  }

  /** Takes up the place of a partial profile. @throws ConfigError it is not one of this model, data and options */
  private goOn(partial: Profile): void {
    const state = partial.data.resume as ResumeState | undefined;
    if (!state || state.examples !== this.fingerprint)
      throw new ConfigError("the partial profile belongs to other data or options; profile from the start, or use the same ones", {
        where: { key: "resume" },
      });
    const [expected, found] = [this.options.model?.fingerprint, partial.base];
    if (found !== expected)
      throw new ConfigError("the partial profile belongs to another model; profile from the start", {
        where: { key: "resume", expected, found },
      });
    this.next = state.next;
    this.tokens = partial.tokens;
    this.sequences = partial.data.sequences;
  }

  async run(): Promise<Profile> {
    const { examples, options } = this;
    this.model.prepare(this.batchTokens, false);
    const began = performance.now();
    const tokensBefore = this.tokens;
    const total = this.tokensToScore();
    for (let batches = 1; this.next < examples.length && this.tokens < options.tokens; batches++) {
      if (options.signal?.aborted) {
        await options.onPartial?.(await this.profile(true));
        throwIfAborted(options.signal, "profiling");
      }
      await this.score(this.nextRows());
      const rate = (this.tokens - tokensBefore) / ((performance.now() - began) / 1000);
      options.onProgress?.({ done: this.tokens, total, tokensPerSecond: rate, etaSeconds: Math.max(0, total - this.tokens) / rate });
      if (options.onPartial && batches % (options.partialEvery ?? 64) === 0) await options.onPartial(await this.profile(true));
    }
    return this.profile(false);
  }

  /** Length of the example at a place of the order, as it is scored. */
  private lengthAt(place: number): number {
    return Math.min(this.examples.size(this.order[place]!), this.options.maxLength);
  }

  private tokensToScore(): number {
    let total = 0;
    for (let i = 0; i < this.examples.length && total < this.options.tokens; i++) total += this.lengthAt(i);
    return total;
  }

  /** The next examples that fit a batch, at least one; none after the one that reaches the wanted tokens. */
  private nextRows(): BatchRow[] {
    const { examples, options } = this;
    const rows: BatchRow[] = [];
    let size = 0;
    while (this.next < examples.length && this.tokens + size < options.tokens) {
      const length = this.lengthAt(this.next);
      if (rows.length > 0 && size + length > this.batchTokens) break;
      const { inputIds } = fit(examples.get(this.order[this.next]!), options.maxLength, "truncateRight");
      rows.push({ ids: inputIds, targets: new Int32Array(inputIds.length).fill(-100) });
      size += length;
      this.next++;
    }
    return rows;
  }

  private async score(rows: readonly BatchRow[]): Promise<void> {
    this.model.forward(hostBatch(rows), { onRoute: this.sums.observe });
    await this.model.device.synchronize().catch((error: unknown) => {
      throw explainNonFinite(error, "profile", CHECK_WEIGHTS);
    });
    this.tokens += rows.reduce((n, r) => n + r.ids.length, 0);
    this.sequences += rows.length;
  }

  /** What was counted so far. @throws NonFiniteError naming the layer */
  private async profile(resumable: boolean): Promise<Profile> {
    const { options, model, tokens, sequences } = this;
    const sums = await this.sums.read();
    for (const [layer, { gateSums }] of sums)
      if (!gateSums.every(Number.isFinite))
        throw new NonFiniteError(`profile: the gate weights of layer ${layer} are not finite: ${CHECK_WEIGHTS}`, { where: { layer } });
    const sparse = [...sums.keys()].map((layer) => moeOf(model.spec, layer)!);
    const [topK, experts] = [Math.max(...sparse.map((m) => m.topK)), Math.max(...sparse.map((m) => m.experts.length))];
    return new Profile({
      source: "model",
      ...(options.model ? { model: options.model } : {}),
      ...(options.data ? { data: options.data } : {}),
      seed: options.seed,
      normTopkProb: sparse[0]!.rule.renormalize,
      topK,
      experts,
      sequences,
      layers: [...sums].map(([layer, { counts, gateSums }], i) => ({
        layer,
        ...(sparse[i]!.topK === topK ? {} : { topK: sparse[i]!.topK }),
        ...(counts.length === experts ? {} : { experts: counts.length }),
        tokens,
        counts: [...counts],
        gateSums: [...gateSums],
      })),
      ...(resumable ? { resume: { next: this.next, examples: this.fingerprint } satisfies ResumeState } : {}),
    });
  }

  [Symbol.dispose](): void {
    this.sums.dispose();
  }
}
