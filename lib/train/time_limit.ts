// The time that a start of a run may take: a signal that fires when it is used up, whereupon the run saves what it has reached and stops.

export class TimeLimit implements Disposable {
  readonly signal: AbortSignal;
  private readonly timer: NodeJS.Timeout | null;

  /** The clock runs from here on. @param hours undefined: no limit; less than 596, which is what a timer can wait */
  constructor(hours: number | undefined) {
    const stop = new AbortController();
    this.signal = stop.signal;
    this.timer = hours === undefined ? null : setTimeout(() => stop.abort(new Error("the time of the run is used up")), hours * 3.6e6);
    this.timer?.unref();
  }

  [Symbol.dispose](): void {
    if (this.timer) clearTimeout(this.timer);
  }
}
