// Where a command writes: results on stdout, everything else on stderr; one live line on a terminal, plain lines otherwise.

export interface Streams {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** stderr is a terminal. */
  readonly interactive: boolean;
  readonly columns?: number;
  /** What is typed or piped in; taken only by commands that ask for it. */
  readonly input?: () => Input;
  /** Fires on the first interrupt: finish what must be finished, then stop. */
  readonly signal: AbortSignal;
}

export interface Input {
  readonly stream: NodeJS.ReadableStream;
  /** People type here, and read stdout on the same terminal. */
  readonly interactive: boolean;
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
  /** A piece of the result, as it is. */
  write(text: string): void {
    this.clear();
    this.streams.out(text);
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
  /** @throws Error the process gives none */
  input(): Input {
    if (!this.streams.input) throw new Error("this command reads what is typed, and there is no input");
    return this.streams.input();
  }
  get columns(): number {
    return this.streams.columns ?? 80;
  }
  clear(): void {
    if (this.live) this.streams.err("\r\u001b[K");
    this.live = false;
  }
}
