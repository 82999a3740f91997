// Where a command writes: results on stdout, everything else on stderr; one live line on a terminal, plain lines otherwise.

export interface Streams {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** stderr is a terminal. */
  readonly interactive: boolean;
  readonly columns?: number;
  /** Fires on the first interrupt: finish what must be finished, then stop. */
  readonly signal: AbortSignal;
}

const LIVE_EVERY = 80; // ms between redraws
const PLAIN_EVERY = 5000; // ms between plain lines

export class Terminal {
  readonly signal: AbortSignal;
  private readonly streams: Streams;
  private live = false;
  private lastAt = -Infinity;

  constructor(streams: Streams) {
    this.streams = streams;
    this.signal = streams.signal;
  }

  /** A line of the result. */
  print(text: string): void {
    this.clear();
    this.streams.out(`${text}\n`);
  }
  json(value: unknown): void {
    this.print(JSON.stringify(value, null, 2));
  }
  jsonLine(value: unknown): void {
    this.streams.out(`${JSON.stringify(value)}\n`);
  }
  /** A line about the work. */
  note(text: string): void {
    this.clear();
    this.streams.err(`${text}\n`);
  }
  /** The state of long work: replaces itself on a terminal, is printed now and then elsewhere. `force` prints it always. */
  progress(text: string, force = false): void {
    const now = performance.now();
    if (this.streams.interactive) {
      if (!force && now - this.lastAt < LIVE_EVERY) return;
      this.streams.err(`\r\u001b[K${text.slice(0, (this.streams.columns ?? 120) - 1)}`);
      this.live = true;
    } else {
      if (!force && now - this.lastAt < PLAIN_EVERY) return;
      this.streams.err(`${text}\n`);
    }
    this.lastAt = now;
  }
  clear(): void {
    if (this.live) this.streams.err("\r\u001b[K");
    this.live = false;
  }
}
