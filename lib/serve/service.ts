// What the routes share: models, the queue, the metrics, and how the answers of a request begin.

import { randomUUID } from "node:crypto";
import { ApiError, apiError, SHUTTING_DOWN } from "./errors.ts";
import { Job } from "./job.ts";
import type { Ask } from "./job.ts";
import { Metrics } from "./metrics.ts";
import type { Models } from "./models.ts";
import { Queue } from "./queue.ts";
import { eventStream } from "./stream.ts";
import { TokenText } from "./token_text.ts";

export interface ServiceOptions {
  /** Most answers on their way or waiting; more are refused with 429. */
  readonly maxQueue: number;
  /** Ms without a message after which a stream says that it lives. */
  readonly aliveEvery: number;
  /** Errors that are not the client's, which is not told the whole of them. */
  readonly onError: (error: unknown) => void;
}

/** What every object of an answer begins with. */
export interface Head {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

export const unixSeconds = (): number => Math.floor(Date.now() / 1000);

export class Service {
  readonly models: Models;
  readonly queue: Queue;
  readonly metrics: Metrics;
  readonly started = unixSeconds();
  private readonly options: ServiceOptions;
  private texts: TokenText | null = null;

  constructor(models: Models, options: ServiceOptions) {
    this.models = models;
    this.options = options;
    this.queue = new Queue(options.maxQueue);
    this.metrics = new Metrics(models, this.queue);
  }

  /** @throws ApiError 404 */
  requireModel(name: string): void {
    const { names } = this.models;
    if (names.includes(name)) return;
    throw new ApiError(404, `there is no model ${JSON.stringify(name.slice(0, 200))}; this server has ${names.join(", ")}`, {
      code: "model_not_found",
      param: "model",
    });
  }

  async tokenText(): Promise<TokenText> {
    return (this.texts ??= new TokenText(await this.models.tokenizer()));
  }

  head(kind: "chatcmpl" | "cmpl", model: string): Head {
    return {
      id: `${kind}-${randomUUID().replaceAll("-", "")}`,
      created: unixSeconds(),
      model,
      system_fingerprint: this.models.fingerprint,
    };
  }

  /** @param signal fires when the client has gone: its answers end, and their places are free @throws ApiError 429 */
  begin(name: string, asks: readonly Ask[], signal: AbortSignal): Job {
    const job = new Job(this.queue, name, asks, (report) => this.metrics.job(report));
    const gone = (): void => job.cancel(new ApiError(499, "the client has closed the connection"));
    if (signal.aborted) gone();
    else signal.addEventListener("abort", gone, { once: true });
    void job.done.finally(() => signal.removeEventListener("abort", gone));
    return job;
  }

  /** A request has failed: is that to be looked at here? */
  failed(error: unknown): void {
    const { status, code } = apiError(error);
    if (status >= 500 && code !== SHUTTING_DOWN) this.options.onError(error);
  }

  stream(job: Job, chunks: AsyncIterable<unknown>): Response {
    const { aliveEvery } = this.options;
    return eventStream(chunks, {
      aliveEvery,
      onError: (error) => this.failed(error),
      onCancel: () => job.cancel(new ApiError(499, "the client has closed the stream")),
    });
  }
}
