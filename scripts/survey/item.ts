// What a stage of the survey is made of: items, run one after another by a child process (child.ts) under a bound (supervise.ts).

export interface Outcome {
  /** One line for people. */
  readonly text: string;
  /** What survey.json keeps beside it. */
  readonly data?: unknown;
}

export interface Item {
  readonly name: string;
  /** As many as time allows: a stage is whole without it. */
  readonly optional?: boolean;
  /** Seconds left of the stage without which an optional item is not begun. */
  readonly needs?: number;
  /** Seconds without a sign of life after which it counts as hung. Not in a dry run: there the machine may be busy. */
  readonly patience?: number;
  /** @throws Absent the machine lacks what it needs · anything else: it failed */
  readonly run: (progress: (text: string) => void) => Outcome | Promise<Outcome>;
}

/** What a stage's module is told. */
export interface StageContext {
  /** Toy sizes on the emulation: every path, nothing measured. */
  readonly dry: boolean;
  /** When the stage ends, in milliseconds of Date.now(). */
  readonly until: number;
  /** A python with torch that sees the GPU; null: none. */
  readonly python: string | null;
  /** For what a stage leaves beside its record. */
  readonly dir: string;
}

export interface StageModule {
  readonly items: (context: StageContext) => readonly Item[] | Promise<readonly Item[]>;
}

/** An end that is no success, and what was found all the same. */
class Ending extends Error {
  readonly data: unknown;
  constructor(message: string, data?: unknown) {
    super(message);
    this.data = data;
  }
}

/** The machine lacks what an item needs: neither a success nor a failure. */
export class Absent extends Ending {
  override readonly name = "Absent";
}

/** A failure after which the device is not to be trusted: what is left runs in a new process. */
export class Broken extends Ending {
  override readonly name = "Broken";
}
