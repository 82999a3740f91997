// Continuous batching: sequences join and leave between passes of the model. A pass takes either a piece of one prompt or the newest
// token of every sequence whose prompt is in, up to `maxBatch`; prompts and tokens take turns, so that a long prompt does not hold up
// those that are answering. What a sequence gets does not depend on what runs beside it: a piece of a prompt is alone in its pass, and
// rows of a batch have the bits that they have alone.

import { NonFiniteError } from "../errors.ts";
import type { HostBatch } from "../model/batch.ts";
import type { Shares } from "../model/states.ts";
import type { Transformer } from "../model/transformer.ts";
import type { OneAtATime } from "../task.ts";
import { throwIfAborted } from "../task.ts";
import { Chooser } from "./chooser.ts";
import type { Choice } from "./chooser.ts";
import { Sequence } from "./sequence.ts";
import type { FinishReason, Listener, SequenceRequest } from "./sequence.ts";
import { BatchLists, SequenceCache } from "./sequence_cache.ts";

/** Which weights a pass computes with: adapters of one group may share it, others take turns. Null: the base. */
export interface Switch {
  groupOf(adapter: string | null): object | null;
  switchTo(group: object | null): void;
}

export interface EngineOptions {
  /** Most sequences of a pass, and that keep a cache at once. Products stream their weights once for up to 16 rows. */
  readonly maxBatch?: number;
  /** Most tokens of a prompt in one pass. */
  readonly piece?: number;
  readonly adapters?: Switch;
}

/** Passes that a group of adapters has in a row while others wait. */
const TURN = 8;

export class Engine {
  private readonly transformer: Transformer;
  private readonly use: OneAtATime;
  private readonly maxBatch: number;
  private readonly piece: number;
  private readonly waiting: Sequence[] = [];
  private active: Sequence[] = [];
  private serving: Promise<void> | null = null;
  /** Whether the last pass was a prompt's: then tokens come next. */
  private promptWasLast = false;
  private refusalTold = false;
  /** Ends of the last answers, told when the model is free again. */
  private late: (() => void)[] = [];
  private readonly adapters: Switch | null;
  /** Whose turn it is, and how many passes of it are left while others wait. */
  private group: object | null = null;
  private turn = 0;

  constructor(transformer: Transformer, use: OneAtATime, { maxBatch = 16, piece = 512, adapters }: EngineOptions = {}) {
    this.transformer = transformer;
    this.use = use;
    this.maxBatch = maxBatch;
    this.piece = piece;
    this.adapters = adapters ?? null;
  }

  /** Sequences that are being continued, and those that wait for a place. */
  get load(): { readonly active: number; readonly waiting: number } {
    return { active: this.active.length, waiting: this.waiting.length };
  }

  /** Continues a sequence as soon as the model is free and there is a place. */
  submit(request: SequenceRequest, listener: Listener): Sequence {
    const sequence = new Sequence(request, listener);
    this.waiting.push(sequence);
    this.serving ??= this.serve();
    return sequence;
  }

  /** Ends it before its next token. */
  cancel(sequence: Sequence): void {
    sequence.cancelled = true;
  }

  private async serve(): Promise<void> {
    try {
      await this.use.runWhenFree("generating", (signal) => this.loop(signal));
    } catch (error) {
      const left = [...this.active, ...this.waiting];
      this.active = [];
      this.waiting.length = 0;
      for (const s of left) this.drop(s, () => s.listener.fail(error));
    }
    this.serving = this.waiting.length > 0 ? this.serve() : null;
    this.tellLate();
  }

  private async loop(signal: AbortSignal): Promise<void> {
    using lists = new BatchLists();
    using chooser = new Chooser(this.transformer.device, this.transformer.spec.vocab, this.maxBatch);
    try {
      while (this.waiting.length + this.active.length > 0) {
        this.tellLate();
        throwIfAborted(signal, "generation");
        this.admit();
        const batch = this.nextBatch();
        if (batch.length > 0) await this.pass(batch, lists, chooser);
        else await new Promise((resolve) => setImmediate(resolve));
      }
    } finally {
      this.adapters?.switchTo(null);
      this.group = null;
    }
  }

  /** Takes sequences that wait into free places, and lets those go that nobody wants any more. */
  private admit(): void {
    for (const s of [...this.active, ...this.waiting]) if (s.cancelled) this.finish(s, "cancelled");
    while (this.active.length < this.maxBatch) {
      const s = this.waiting.shift();
      if (!s) return;
      if (s.request.maxTokens === 0) this.drop(s, () => s.listener.end("length"));
      else this.active.push(s);
    }
  }

  /** Gives it a cache as the model keeps them that its adapter makes, which is in its place. False: no memory, and it has failed. */
  private hasCache(s: Sequence): boolean {
    if (s.cache) return true;
    const { transformer, piece } = this;
    const { prompt, maxTokens } = s.request;
    try {
      const specs = transformer.states(Math.max(piece, this.maxBatch));
      const positions = Math.min(prompt.length + Math.min(maxTokens, piece), transformer.spec.maxPositions);
      const { activationDtype } = transformer.device.info;
      const dtype = transformer.precision === "bf16" ? "bf16" : activationDtype;
      s.cache = new SequenceCache(transformer.device, specs, dtype, positions, piece);
      return true;
    } catch (error) {
      this.fail(s, error);
      return false;
    }
  }

  /** A piece of the oldest prompt, or the newest token of all others, in turns where there is both. */
  private nextBatch(): readonly Sequence[] {
    this.takeTurns();
    const mine = this.active.filter((s) => this.groupOf(s) === this.group && this.hasCache(s));
    const prompt = mine.find((s) => s.pending > 1);
    const tokens = byAdapter(mine.filter((s) => s.pending === 1));
    const takePrompt = prompt !== undefined && (tokens.length === 0 || !this.promptWasLast);
    this.promptWasLast = takePrompt;
    return takePrompt ? [prompt] : tokens;
  }

  private groupOf({ request: { adapter } }: Sequence): object | null {
    return this.adapters?.groupOf(adapter) ?? null;
  }

  /** Sequences of one group of adapters run together; groups take turns, the one that has waited longest next. */
  private takeTurns(): void {
    const groups = [...new Set(this.active.map((s) => this.groupOf(s)))];
    const stays = groups.includes(this.group);
    if (groups.length === 0 || (stays && (groups.length === 1 || this.turn-- > 0))) return;
    const at = groups.indexOf(this.group);
    this.group = groups[(at + 1) % groups.length]!;
    this.turn = TURN - 1;
    this.adapters?.switchTo(this.group);
  }

  private async pass(batch: readonly Sequence[], lists: BatchLists, chooser: Chooser): Promise<void> {
    const { transformer } = this;
    if (this.outgrown(batch)) return;
    const counts = batch.map((s) => Math.min(s.pending, this.piece));
    const host = hostOf(batch, counts);
    // One that grows too large for the memory ends alone.
    for (const [i, s] of batch.entries())
      try {
        if (s.cache!.reserve(s.cache!.kept + counts[i]!)) transformer.decoding.clear();
      } catch (error) {
        return this.fail(s, error);
      }
    const fresh = batch.length === 1 && batch[0]!.cache!.kept === 0 && counts[0]! > 1;
    const continued = { lists: lists.lists(batch.map((s) => s.cache!)), fresh, shares: sharesOf(batch, counts) };
    const logits = chooser.logits(batch.length);
    const choosing = batch.every((s, i) => s.pending === counts[i]) ? chooser.choosing(batch) : null;
    if (choosing && host.ids.length === batch.length) {
      await transformer.advanceAgain(host, continued, logits, choosing);
      this.tellRefusal();
    } else {
      transformer.advance(host, continued, logits);
      choosing?.submit();
    }
    batch.forEach((s, i) => (s.cache!.kept += counts[i]!));
    if (!choosing) return; // more of the prompt is to come
    const chosen = await choosing.read();
    batch.forEach((s, i) => this.take(s, chosen[i]!));
  }

  private tellRefusal(): void {
    const { refusal } = this.transformer.decoding;
    if (refusal === null || this.refusalTold) return;
    this.refusalTold = true;
    process.emitWarning(`generation: a pass could not be recorded and is submitted op by op: same results, slower (${refusal})`, {
      type: "EsftWarning",
      code: "ESFT_NOT_RECORDED",
    });
  }

  /** Sequences whose rotary tables are others from this length on: nothing that was kept serves, they are prompts once more. */
  private outgrown(batch: readonly Sequence[]): boolean {
    const limit = this.transformer.lengthLimit;
    if (limit === null) return false;
    let any = false;
    for (const { ids, cache } of batch) {
      const long = ids.length > limit;
      if (cache!.kept > 0 && cache!.longTables !== long) {
        cache!.clear();
        any = true;
      }
      cache!.longTables = long;
    }
    return any;
  }

  private take(s: Sequence, { id, ...likelihood }: Choice): void {
    if (s.cancelled) return this.finish(s, "cancelled");
    if (id < 0) return this.fail(s, new NonFiniteError(`generation: the logits after ${s.ids.length} tokens are not finite`));
    const { stop, maxTokens } = s.request;
    if (stop.has(id)) return this.finish(s, "stop");
    s.ids.push(id);
    if (s.listener.token(id, likelihood)) return this.finish(s, "stop");
    if (s.generated >= maxTokens || s.ids.length > this.transformer.spec.maxPositions) this.finish(s, "length");
  }

  private finish(s: Sequence, reason: FinishReason): void {
    const at = this.waiting.indexOf(s);
    if (at >= 0) this.waiting.splice(at, 1);
    this.leave(s, () => s.listener.end(reason));
  }
  private fail(s: Sequence, error: unknown): void {
    this.leave(s, () => s.listener.fail(error));
  }
  private leave(s: Sequence, tell: () => void): void {
    this.active = this.active.filter((x) => x !== s);
    this.drop(s, tell);
  }
  private drop(s: Sequence, tell: () => void): void {
    if (s.cache) this.transformer.decoding.clear(); // graphs would keep its memory
    s.dispose();
    this.late.push(tell);
    if (this.active.length + this.waiting.length > 0) this.tellLate();
  }
  private tellLate(): void {
    for (const tell of this.late.splice(0)) tell();
  }
}

/** Sequences of one adapter side by side, in the order in which the adapters came. */
function byAdapter(batch: readonly Sequence[]): Sequence[] {
  const names = [...new Set(batch.map((s) => s.request.adapter))];
  return names.length < 2 ? [...batch] : names.flatMap((name) => batch.filter((s) => s.request.adapter === name));
}

/** Whose rows are whose in a pass of sequences that stand `byAdapter`. */
function sharesOf(batch: readonly Sequence[], counts: readonly number[]): Shares {
  const shares = new Map<string, [number, number]>();
  let at = 0;
  batch.forEach(({ request: { adapter } }, i) => {
    const from = at;
    at += counts[i]!;
    if (adapter !== null) shares.set(adapter, [shares.get(adapter)?.[0] ?? from, at]);
  });
  return shares;
}

/** The next `counts` tokens of each sequence as documents of one batch. */
function hostOf(batch: readonly Sequence[], counts: readonly number[]): HostBatch {
  const T = counts.reduce((a, b) => a + b, 0);
  const host = {
    ids: new Int32Array(T),
    positions: new Int32Array(T),
    docStart: new Int32Array(T),
    lastPositions: new Int32Array(T),
    targets: new Int32Array(T).fill(-100),
    supervised: 0,
  };
  let at = 0;
  batch.forEach((s, i) => {
    const { kept } = s.cache!;
    for (let j = 0; j < counts[i]!; j++) {
      host.ids[at + j] = s.ids[kept + j]!;
      host.positions[at + j] = kept + j;
      host.docStart[at + j] = at;
      host.lastPositions[at + j] = s.ids.length - 1;
    }
    at += counts[i]!;
  });
  return host;
}
