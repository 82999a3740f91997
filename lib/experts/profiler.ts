// Affinity profiling: runs the task through the model and accumulates, fused into routing, how often and how strongly every
// routed expert is used (counts i64, gate sums f64). Resumable: partial sums and the data position are saved together.

import { ConfigError, DataError, NonFiniteError } from "../errors.ts";
import { throwIfAborted } from "../task.ts";
import type { Examples } from "../data/examples.ts";
import { fit } from "../data/packing.ts";
import { shuffledIndices } from "../data/shuffle.ts";
import type { BatchRow } from "../model/batch.ts";
import { hostBatch } from "../model/batch.ts";
import { planActivations } from "../model/decoder.ts";
import { CHECK_WEIGHTS, explainNonFinite } from "../model/non_finite.ts";
import type { ModelSpec } from "../model/spec.ts";
import { moeOf } from "../model/spec.ts";
import type { Transformer } from "../model/transformer.ts";
import type { ExpertSums } from "./counting.ts";
import { ExpertCounts } from "./counting.ts";
import { expertLayout } from "./expert_set.ts";
import { Profile } from "./profile.ts";
import { ExpertSaliency } from "./saliency.ts";

export interface ProfileOptions {
  /** Tokens to score; profiling stops at the end of the example that reaches it, or when the data is used up. */
  readonly tokens: number;
  readonly seed: number;
  /** Longest example; longer ones are cut at the end. */
  readonly maxLength: number;
  /** Tokens per forward. */
  readonly batchTokens?: number;
  /** Gradient scores too (saliency.ts): a backward per batch, over the labels that training would have. */
  readonly gradient?: boolean;
  /** Told before memory is taken for gradients: bytes of activations, and of weight gradients of as many experts as are taken at a time. */
  readonly requireRoom?: (bytes: number) => Promise<void>;
  readonly onGradientMemory?: ((bytes: number) => void) | undefined;
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

/** Done so far: examples of the order, sequences and tokens. */
interface Place {
  next: number;
  sequences: number;
  tokens: number;
}

/** What was reached, and the gradients' part of it. */
interface Measured extends Place {
  readonly gradient: { readonly batchTokens: number; readonly supervised: number; sums(layer: number): readonly number[] } | null;
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
  const layout = expertLayout(model.spec);
  if (layout.size === 0)
    throw new ConfigError(`profiling needs a Mixture-of-Experts model; this ${model.spec.modelType} model has no sparse layer`);
  const { maxLength, resume, signal, onPartial, onProgress, partialEvery = 64 } = options;
  const batchTokens = Math.max(options.batchTokens ?? 4096, maxLength);
  const order = shuffledIndices(examples.length, options.seed, 0);
  const fingerprint = `${examples.fingerprint()}:${options.seed}:${maxLength}`;
  const done = resume ? placeOf(resume, fingerprint, options) : { next: 0, sequences: 0, tokens: 0 };
  /** Length of the example at a place of the order, as it is scored. */
  const lengthAt = (place: number): number => Math.min(examples.size(order[place]!), maxLength);
  /** The next examples that fit a batch, at least one; none after the one that reaches the wanted tokens. */
  const nextRows = (): BatchRow[] => {
    const rows: BatchRow[] = [];
    for (let size = 0; done.next < examples.length && done.tokens < options.tokens; done.next++) {
      const length = lengthAt(done.next);
      if (size > 0 && size + length > batchTokens) break;
      const { inputIds, labels } = fit(examples.get(order[done.next]!), maxLength, "truncateRight");
      const target = (_: number, t: number): number => (options.gradient ? (labels[t + 1] ?? -100) : -100);
      rows.push({ ids: inputIds, targets: Int32Array.from(inputIds, target) });
      size += length;
      done.tokens += length;
      done.sequences++;
    }
    return rows;
  };
  let total = 0;
  for (let i = 0; i < examples.length && total < options.tokens; i++) total += lengthAt(i);

  using sums = new ExpertCounts(model.device, layout);
  using saliency = options.gradient ? new ExpertSaliency(model.device, model.spec, layout) : null;
  let supervised = 0;
  if (resume) sums.write((layer) => resume.layer(layer));
  if (resume && saliency) {
    if (resume.data.gradient?.batchTokens !== batchTokens)
      throw new ConfigError(
        `the partial profile was measured ${resume.data.gradient ? `in batches of ${resume.data.gradient.batchTokens} tokens, not ${batchTokens}` : "without gradients"}; profile from the start, or use the same options`,
        { where: { key: "resume" } },
      );
    saliency.write((layer) => resume.layer(layer).gradientSums!);
    supervised = resume.data.gradient.supervised;
  }
  const measured = async (state?: ResumeState): Promise<Profile> => {
    const gradient = saliency && { batchTokens, supervised, sums: (layer: number) => saliency.read(layer) };
    return profileOf(await sums.read(), model.spec, { ...done, gradient }, options, state);
  };
  const partial = (): Promise<Profile> => measured({ next: done.next, examples: fingerprint });
  if (saliency) {
    if (model.params.overridden)
      throw new ConfigError("gradient scores are those of the base: remove the adapter, or merge it and profile the merged model", {
        where: { key: "gradient" },
      });
    const choice = { keys: [], attachments: saliency, lowestLayer: saliency.lowestLayer };
    const bytes = planActivations(model.spec, choice, model.device.info.activationDtype).bytes(batchTokens);
    model.release(); // what earlier passes hold counts as free
    await options.requireRoom?.(bytes);
    options.onGradientMemory?.(bytes);
    model.train(choice);
  }
  using _ = {
    [Symbol.dispose]: () => {
      if (!saliency) return;
      model.freeze();
      model.release();
    },
  };
  model.prepare(batchTokens, saliency !== null);
  const began = performance.now();
  const tokensBefore = done.tokens;
  for (let batches = 1; done.next < examples.length && done.tokens < options.tokens; batches++) {
    if (signal?.aborted) {
      await onPartial?.(await partial());
      throwIfAborted(signal, "profiling");
    }
    const batch = hostBatch(nextRows());
    if (saliency) model.forwardBackward(batch, 1, batchTokens, { onRoute: sums.observe }, false);
    else model.forward(batch, { onRoute: sums.observe });
    supervised += batch.supervised;
    await model.device.synchronize().catch((error: unknown) => {
      throw explainNonFinite(error, "profile", CHECK_WEIGHTS);
    });
    await saliency?.collect();
    const rate = (done.tokens - tokensBefore) / ((performance.now() - began) / 1000);
    onProgress?.({ done: done.tokens, total, tokensPerSecond: rate, etaSeconds: Math.max(0, total - done.tokens) / rate });
    if (batches % partialEvery === 0) await onPartial?.(await partial());
  }
  if (saliency && supervised === 0)
    throw new DataError("gradient scores need supervised tokens, found none in the profiled rows", { where: { key: "gradient" } });
  return measured();
}

/** Where a partial profile stopped. @throws ConfigError it is not one of this model, data and options */
function placeOf(partial: Profile, examples: string, options: ProfileOptions): Place {
  const state = partial.data.resume as ResumeState | undefined;
  if (state?.examples !== examples)
    throw new ConfigError("the partial profile belongs to other data or options; profile from the start, or use the same ones", {
      where: { key: "resume" },
    });
  const [expected, found] = [options.model?.fingerprint, partial.base];
  if (found !== expected)
    throw new ConfigError("the partial profile belongs to another model; profile from the start", {
      where: { key: "resume", expected, found },
    });
  return { next: state.next, sequences: partial.data.sequences, tokens: partial.tokens };
}

/** What was counted so far. @throws NonFiniteError naming the layer */
function profileOf(
  sums: ReadonlyMap<number, ExpertSums>,
  spec: ModelSpec,
  { tokens, sequences, gradient }: Measured,
  options: ProfileOptions,
  resume?: ResumeState,
): Profile {
  for (const [layer, { gateSums }] of sums)
    if (!gateSums.every(Number.isFinite))
      throw new NonFiniteError(`profile: the gate weights of layer ${layer} are not finite: ${CHECK_WEIGHTS}`, { where: { layer } });
  for (const layer of gradient ? sums.keys() : [])
    if (!gradient!.sums(layer).every(Number.isFinite))
      throw new NonFiniteError(`profile: the weight gradients of layer ${layer} are not finite: ${CHECK_WEIGHTS}`, { where: { layer } });
  const sparse = [...sums.keys()].map((layer) => moeOf(spec, layer)!);
  const [topK, experts] = [Math.max(...sparse.map((m) => m.topK)), Math.max(...sparse.map((m) => m.experts.length))];
  const unless = (most: number, own: number) => (own === most ? undefined : own);
  return new Profile({
    source: "model",
    model: options.model,
    data: options.data,
    seed: options.seed,
    normTopkProb: sparse[0]!.rule.renormalize,
    gradient: gradient ? { batchTokens: gradient.batchTokens, supervised: gradient.supervised } : undefined,
    topK,
    experts,
    sequences,
    layers: [...sums].map(([layer, { counts, gateSums }], i) => ({
      layer,
      topK: unless(topK, sparse[i]!.topK),
      experts: unless(experts, counts.length),
      tokens,
      counts: [...counts],
      gateSums: [...gateSums],
      gradientSums: gradient ? [...gradient.sums(layer)] : undefined,
    })),
    resume: resume && { ...resume },
  });
}
