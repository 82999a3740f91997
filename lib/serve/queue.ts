// What is asked at once, bounded: every answer that is on its way or waits has a place, and there are so many places.

import { ApiError, overloaded } from "./errors.ts";

export interface Cancellable {
  /** Places that it takes. */
  readonly size: number;
  /** Resolves when it has freed everything. */
  readonly done: Promise<void>;
  cancel(reason: ApiError): void;
}

export class Queue {
  readonly limit: number;
  private readonly jobs = new Set<Cancellable>();

  constructor(limit: number) {
    this.limit = limit;
  }

  /** Answers that are on their way or wait. */
  get size(): number {
    let sum = 0;
    for (const job of this.jobs) sum += job.size;
    return sum;
  }

  /** @throws ApiError 429, or 400 for what would never have a place */
  requirePlaces(count: number): void {
    if (count > this.limit)
      throw new ApiError(400, `a request may ask for ${this.limit} answers at once, found ${count} (prompts times n)`, { param: "n" });
    if (this.size + count > this.limit) throw overloaded(`${this.size} of ${this.limit} answers are on their way; ask again later`);
  }

  /** Holds the places until the job is done. */
  add(job: Cancellable): void {
    this.jobs.add(job);
    void job.done.finally(() => this.jobs.delete(job));
  }

  /** Waits for all, at most so long; what is left then is cancelled. */
  async drain(ms: number, reason: () => ApiError): Promise<void> {
    const all = Promise.all([...this.jobs].map((job) => job.done));
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)));
    await Promise.race([all, late]);
    clearTimeout(timer);
    for (const job of this.jobs) job.cancel(reason());
    await all;
  }
}
