// The answers of one request: begun and cancelled together, heard as one stream of events, over when the last sequence has been freed.
// Whether anybody listens holds up nothing: what was not heard waits here, bounded by the answers' length.

import { apiError } from "./errors.ts";
import type { ApiError } from "./errors.ts";
import type { GeneratedPiece, GenerationResult } from "../generate/generation.ts";
import type { Answer } from "./models.ts";
import type { Cancellable, Queue } from "./queue.ts";

/** Of the answer `index`: a piece, or its end. */
export type JobEvent = { readonly index: number } & ({ readonly piece: GeneratedPiece } | { readonly result: GenerationResult });

/** Begins an answer. */
export type Ask = () => Answer;

/** What became of a job, for the metrics. */
export interface JobReport {
  readonly name: string;
  /** Seconds until the first piece of text; null when there was none. */
  readonly first: number | null;
  readonly seconds: number;
  /** Null: it was cancelled, or has failed. */
  readonly results: readonly GenerationResult[] | null;
  readonly cancelled: boolean;
}

export class Job implements Cancellable {
  readonly size: number;
  readonly done: Promise<void>;
  private readonly name: string;
  private readonly stop = new AbortController();
  private readonly heard: JobEvent[] = [];
  private over: { readonly error?: ApiError } | null = null;
  private wake: (() => void) | null = null;
  private readonly answers: readonly Answer[];
  private readonly started = performance.now();
  private first: number | null = null;

  /** @throws ApiError no place in the queue */
  constructor(queue: Queue, name: string, asks: readonly Ask[], report: (r: JobReport) => void = () => undefined) {
    queue.requirePlaces(asks.length);
    this.name = name;
    this.size = asks.length;
    this.answers = asks.map((ask) => ask());
    this.done = this.run().then(
      (results) => {
        this.over = {};
        report(this.report(results));
      },
      (error: unknown) => {
        this.over = { error: this.stop.signal.aborted ? (this.stop.signal.reason as ApiError) : apiError(error) };
        report(this.report(null));
      },
    );
    void this.done.finally(() => this.wake?.());
    queue.add(this);
  }

  private report(results: readonly GenerationResult[] | null): JobReport {
    const { name, first } = this;
    return { name, first, seconds: (performance.now() - this.started) / 1000, results, cancelled: this.stop.signal.aborted };
  }

  /** Ends all answers where they stand; whoever listens gets the reason. */
  cancel(reason: ApiError): void {
    if (this.stop.signal.aborted) return;
    this.stop.abort(reason);
    for (const answer of this.answers) answer.cancel();
  }

  /** Waits for all, whatever becomes of them. @throws what went wrong first */
  private async run(): Promise<GenerationResult[]> {
    const failures: unknown[] = [];
    const results: GenerationResult[] = [];
    const follow = async (answer: Answer, index: number): Promise<void> => {
      try {
        results[index] = await this.follow(answer, index);
      } catch (error) {
        failures.push(error);
        for (const other of this.answers) other.cancel(); // the request has failed as a whole
      }
    };
    await Promise.all(this.answers.map(follow));
    if (failures.length > 0) throw failures[0];
    return results;
  }

  private async follow(answer: Answer, index: number): Promise<GenerationResult> {
    for await (const piece of answer) {
      this.first ??= (performance.now() - this.started) / 1000;
      this.tell({ index, piece });
    }
    const result = await answer.result();
    if (result.finishReason === "cancelled") throw this.stop.signal.reason ?? new Error("an answer was cancelled");
    this.tell({ index, result });
    return result;
  }

  private tell(event: JobEvent): void {
    this.heard.push(event);
    this.wake?.();
  }

  /** For one listener. Leaving it early does not cancel. @throws ApiError */
  async *events(): AsyncGenerator<JobEvent, void, void> {
    for (;;) {
      const event = this.heard.shift();
      if (event) yield event;
      else if (this.over?.error) throw this.over.error;
      else if (this.over) return;
      else {
        await new Promise<void>((resolve) => (this.wake = resolve));
        this.wake = null;
      }
    }
  }

  /** All answers, in order. @throws ApiError */
  async results(): Promise<GenerationResult[]> {
    const results: GenerationResult[] = [];
    for await (const event of this.events()) if ("result" in event) results[event.index] = event.result;
    return results;
  }
}
