// One answer on its way: an async iterator of pieces while the engine makes it, and the whole when it is done.

import { AbortError } from "../errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Engine } from "./engine.ts";
import { AnswerText } from "./answer_text.ts";
import type { AnswerOptions } from "./options.ts";
import type { FinishReason, Likelihood, Sequence } from "./sequence.ts";

export interface GeneratedToken extends Likelihood {
  readonly id: number;
}

export interface GeneratedPiece {
  /** Text that is sure to belong to the answer; never ends inside a character. Empty without a tokenizer. */
  readonly text: string;
  /** The tokens since the last piece. */
  readonly tokens: readonly GeneratedToken[];
}

export interface GenerationResult {
  readonly text: string;
  /** Without the token that ended it. */
  readonly ids: readonly number[];
  readonly tokens: readonly GeneratedToken[];
  readonly finishReason: FinishReason;
  /** The stop string that ended it. */
  readonly stop: string | null;
  readonly promptTokens: number;
}

/** What an answer is made from, once the prompt is encoded. */
export interface Prepared {
  readonly engine: Engine;
  readonly prompt: readonly number[];
  readonly options: AnswerOptions;
  readonly stopIds: ReadonlySet<number>;
  /** Name of a resident adapter; null: the model as it is. */
  readonly adapter: string | null;
  /** When it is over, however. */
  readonly release: () => void;
  /** Null: ids alone, no text. */
  readonly tokenizer: Tokenizer | null;
  /** The text goes on from the prompt, as a completion does. */
  readonly continues: boolean;
}

export class Generation implements AsyncIterable<GeneratedPiece> {
  private readonly tokens: GeneratedToken[] = [];
  private pieces: GeneratedPiece[] = [];
  private loose: GeneratedToken[] = [];
  private text = "";
  private wake: (() => void) | null = null;
  private over: { readonly result: GenerationResult } | { readonly error: unknown } | null = null;
  private readonly finished: Promise<GenerationResult>;
  private settle!: { resolve: (r: GenerationResult) => void; reject: (error: unknown) => void };
  private sequence: { readonly engine: Engine; readonly sequence: Sequence } | null = null;
  private cancelled = false;

  /** @param prepare encodes the prompt; what it throws is what the answer rejects with */
  constructor(prepare: () => Promise<Prepared>, signal?: AbortSignal) {
    this.finished = new Promise((resolve, reject) => (this.settle = { resolve, reject }));
    this.finished.catch(() => undefined); // whoever iterates hears of it there
    void this.start(prepare, signal);
  }

  private async start(prepare: () => Promise<Prepared>, signal: AbortSignal | undefined): Promise<void> {
    const abort = (): void => {
      this.cancel();
      this.fail(new AbortError("generation was aborted", { cause: signal?.reason }));
    };
    try {
      if (signal?.aborted) return abort();
      const prepared = await prepare();
      if (signal?.aborted) return abort();
      signal?.addEventListener("abort", abort, { once: true });
      void this.finished.then(...twice(() => signal?.removeEventListener("abort", abort)));
      this.run(prepared);
    } catch (error) {
      this.fail(error);
    }
  }

  private run({ engine, prompt, options, stopIds, tokenizer, continues, adapter, release }: Prepared): void {
    void this.finished.then(...twice(release));
    const text = tokenizer ? new AnswerText(tokenizer, options.stops, continues ? { after: prompt } : {}) : null;
    const { maxTokens, sampling } = options;
    const end = (finishReason: FinishReason): void => {
      if (text) this.say(text.end());
      const { tokens } = this;
      if (this.loose.length > 0) this.put({ text: "", tokens: this.loose.splice(0) });
      const stop = text?.stopped ?? null;
      const ids = tokens.map((t) => t.id);
      this.end({ text: this.text, ids, tokens, finishReason: stop === null ? finishReason : "stop", stop, promptTokens: prompt.length });
    };
    if (this.cancelled) return end("cancelled");
    const sequence = engine.submit(
      { prompt, maxTokens, stop: stopIds, sampling, adapter },
      { token: (id, likelihood) => this.take({ id, ...likelihood }, text), end, fail: (error) => this.fail(error) },
    );
    this.sequence = { engine, sequence };
  }

  private take(token: GeneratedToken, text: AnswerText | null): boolean {
    this.tokens.push(token);
    this.loose.push(token);
    if (!text) {
      this.put({ text: "", tokens: this.loose.splice(0) });
      return false;
    }
    this.say(text.push(token.id));
    return text.stopped !== null;
  }

  private say(text: string): void {
    if (text === "") return;
    this.text += text;
    this.put({ text, tokens: this.loose.splice(0) });
  }
  private put(piece: GeneratedPiece): void {
    this.pieces.push(piece);
    this.wake?.();
  }
  private end(result: GenerationResult): void {
    if (this.over) return;
    this.over = { result };
    this.settle.resolve(result);
    this.wake?.();
  }
  private fail(error: unknown): void {
    if (this.over) return;
    this.over = { error };
    this.settle.reject(error);
    this.wake?.();
  }

  /** Ends the answer where it stands (finishReason "cancelled"), before its next token. */
  cancel(): void {
    this.cancelled = true;
    if (this.sequence) this.sequence.engine.cancel(this.sequence.sequence);
  }

  /** The whole answer. @throws what went wrong; AbortError by the signal */
  result(): Promise<GenerationResult> {
    return this.finished;
  }

  /** Pieces as they come. Leaving the loop early cancels the answer. One reader. */
  async *[Symbol.asyncIterator](): AsyncGenerator<GeneratedPiece, void, void> {
    try {
      for (;;) {
        const piece = this.pieces.shift();
        if (piece) {
          yield piece;
          continue;
        }
        if (this.over) {
          if ("error" in this.over) throw this.over.error;
          return;
        }
        await new Promise<void>((resolve) => (this.wake = resolve));
        this.wake = null;
      }
    } finally {
      this.cancel();
    }
  }
}

const twice = (f: () => void): [() => void, () => void] => [f, f];
