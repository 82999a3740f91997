// Affinity profiling: runs the task through the model and accumulates, fused into routing, how often and how strongly every
// routed expert is used (counts i64, gate sums f64). Resumable: partial sums and the data position are saved together.

import { ConfigError, NonFiniteError } from "../errors.ts";
import { throwIfAborted } from "../task.ts";
import type { Examples } from "../data/examples.ts";
import { fit } from "../data/packing.ts";
import { shuffledIndices } from "../data/shuffle.ts";
import { hostBatch } from "../model/batch.ts";
import { CHECK_WEIGHTS, explainNonFinite } from "../model/non_finite.ts";
import { moeLayers, moeOf } from "../model/spec.ts";
import type { Transformer } from "../model/transformer.ts";
import * as ops from "../ops.ts";
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
  const { spec, device } = model;
  const layers = moeLayers(spec);
  for (const key of ["tokens", "maxLength", "batchTokens", "partialEvery"] as const) {
    const value = options[key];
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1))
      throw new ConfigError(`profile.${key} must be a whole number above 0, found ${value}`, { where: { key } });
  }
  if (layers.length === 0)
    throw new ConfigError(`profiling needs a Mixture-of-Experts model; this ${spec.modelType} model has no sparse layer`);
  const first = moeOf(spec, layers[0]!)!;
  const E = first.experts.length;
  const K = first.topK;
  for (const l of layers) {
    const moe = moeOf(spec, l)!;
    if (moe.experts.length !== E || moe.topK !== K)
      throw new ConfigError(
        `profiling expects the same experts in every sparse layer; layer ${l} has ${moe.experts.length} (top-${moe.topK}), layer ${layers[0]} ${E} (top-${K})`,
      );
  }
  const rowOf = new Map(layers.map((l, i) => [l, i]));
  const order = shuffledIndices(examples.length, options.seed, 0);
  const fingerprint = `${examples.fingerprint()}:${options.seed}:${options.maxLength}`;
  const sums = new Sums(layers.length, E);
  let next = 0;
  let tokens = 0;
  let sequences = 0;
  if (options.resume) {
    const state = options.resume.data.resume as ResumeState | undefined;
    if (!state || state.examples !== fingerprint)
      throw new ConfigError("the partial profile belongs to other data or options; profile from the start, or use the same ones", {
        where: { key: "resume" },
      });
    const measured = options.resume.data.model?.fingerprint;
    if (measured !== options.model?.fingerprint)
      throw new ConfigError("the partial profile belongs to another model; profile from the start", {
        where: { key: "resume", expected: options.model?.fingerprint, found: measured },
      });
    next = state.next;
    tokens = options.resume.tokens;
    sequences = options.resume.data.sequences;
    sums.restore(options.resume);
  }
  const counts = device.tensor("i64", [layers.length, E], sums.counts);
  const gates = device.tensor("f64", [layers.length, E], sums.gates);
  const views = layers.map((_, i) => ({ counts: counts.view(i * E, [E]), gates: gates.view(i * E, [E]) }));
  const batchTokens = Math.max(options.batchTokens ?? 4096, options.maxLength);
  const snapshot = async (resume: boolean): Promise<Profile> => {
    const c = await counts.readI64();
    const g = await gates.readF64();
    const bad = g.findIndex((x) => !Number.isFinite(x));
    if (bad >= 0) {
      const layer = layers[Math.floor(bad / E)]!;
      throw new NonFiniteError(`profile: the gate weights of layer ${layer} are not finite: ${CHECK_WEIGHTS}`, { where: { layer } });
    }
    return new Profile({
      source: "model",
      ...(options.model ? { model: options.model } : {}),
      ...(options.data ? { data: options.data } : {}),
      seed: options.seed,
      normTopkProb: first.rule.renormalize,
      topK: K,
      experts: E,
      sequences,
      layers: layers.map((layer, i) => ({
        layer,
        tokens,
        counts: Array.from(c.subarray(i * E, (i + 1) * E), Number),
        gateSums: [...g.subarray(i * E, (i + 1) * E)],
      })),
      ...(resume ? { resume: { next, examples: fingerprint } satisfies ResumeState } : {}),
    });
  };
  try {
    model.prepare(batchTokens, false);
    const began = performance.now();
    const tokensBefore = tokens;
    let batches = 0;
    let total = 0;
    for (let i = 0; i < examples.length && total < options.tokens; i++) total += Math.min(examples.size(order[i]!), options.maxLength);
    while (next < examples.length && tokens < options.tokens) {
      if (options.signal?.aborted) {
        await options.onPartial?.(await snapshot(true));
        throwIfAborted(options.signal, "profiling");
      }
      const rows = [];
      let size = 0;
      while (next < examples.length && tokens + size < options.tokens) {
        const length = Math.min(examples.size(order[next]!), options.maxLength);
        if (rows.length > 0 && size + length > batchTokens) break;
        const example = fit(examples.get(order[next]!), options.maxLength, "truncateRight");
        rows.push({ ids: example.inputIds, targets: new Int32Array(example.inputIds.length).fill(-100) });
        size += length;
        next++;
      }
      const host = hostBatch(rows);
      model.forward(host, {
        onRoute: (layer, ids, weights) => {
          const view = views[rowOf.get(layer)!]!;
          ops.countExperts(device, { ids, weights, counts: view.counts, gateSums: view.gates });
        },
      });
      await device.synchronize().catch((error: unknown) => {
        throw explainNonFinite(error, "profile", CHECK_WEIGHTS);
      });
      tokens += size;
      sequences += rows.length;
      batches++;
      const seconds = (performance.now() - began) / 1000;
      const rate = (tokens - tokensBefore) / seconds;
      options.onProgress?.({ done: tokens, total, tokensPerSecond: rate, etaSeconds: Math.max(0, total - tokens) / rate });
      if (options.onPartial && batches % (options.partialEvery ?? 64) === 0) await options.onPartial(await snapshot(true));
    }
    return await snapshot(false);
  } finally {
    for (const v of views) {
      v.counts.dispose();
      v.gates.dispose();
    }
    counts.dispose();
    gates.dispose();
  }
}

class Sums {
  readonly counts: BigInt64Array;
  readonly gates: Float64Array;
  private readonly E: number;
  constructor(layers: number, E: number) {
    this.E = E;
    this.counts = new BigInt64Array(layers * E);
    this.gates = new Float64Array(layers * E);
  }
  restore(partial: Profile): void {
    partial.data.layers.forEach((l, i) => {
      l.counts.forEach((c, e) => (this.counts[i * this.E + e] = BigInt(c)));
      this.gates.set(l.gateSums, i * this.E);
    });
  }
}
