// What everything that takes a while has in common: progress, an abort signal, and errors of the operating system as ours.

import type { ErrorPlace } from "./errors.ts";
import { AbortError, ConfigError, DisposedError, EsftError, IoError } from "./errors.ts";

export interface Progress {
  readonly phase: string;
  readonly done: number;
  readonly total: number;
  readonly unit: "bytes";
}

export interface LongTask {
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** @throws AbortError when the signal has fired */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw new AbortError(`${what} was aborted`, { cause: signal.reason });
}

/** Turns an operating-system error into an IoError; errors that are already ours pass unchanged. */
export function ioError(error: unknown, what: string, where: ErrorPlace = {}): EsftError {
  if (error instanceof EsftError) return error;
  const code = (error as NodeJS.ErrnoException | null)?.code;
  const reason: Record<string, string> = {
    ENOENT: "no such file or directory",
    EACCES: "permission denied",
    EPERM: "operation not permitted",
    EISDIR: "is a directory",
    ENOTDIR: "a part of the path is not a directory",
    EROFS: "the file system is read-only",
    EMFILE: "too many open files",
    ENAMETOOLONG: "the name is too long",
  };
  const text = (code && reason[code]) ?? (error instanceof Error ? error.message : String(error));
  return new IoError(`${what}: ${text}`, { where: { ...where, errno: code }, cause: error });
}

/** Work in progress: `ended` resolves when it is over, however. */
interface Work {
  readonly what: string;
  readonly stop: AbortController;
  readonly ended: Promise<unknown>;
}

/** Lets one thing at a time use something, and can stop it for good before its memory is freed. */
export class OneAtATime {
  private readonly name: string;
  private work: Work | null = null;
  private closed = false;

  /** @param name what is used, for messages: "the model DIR" */
  constructor(name: string) {
    this.name = name;
  }

  /** @throws DisposedError closed · ConfigError something is in progress */
  requireFree(): void {
    if (this.closed) throw new DisposedError(`${this.name} was disposed`);
    if (this.work)
      throw new ConfigError(`${this.name} is busy (${this.work.what}); wait for the end, or open the checkpoint a second time`);
  }

  /** Runs `task` alone. Its signal fires when `signal` does or this is closed; what it then throws becomes a DisposedError. */
  async run<T>(what: string, signal: AbortSignal | undefined, task: (signal: AbortSignal) => Promise<T>): Promise<T> {
    this.requireFree();
    const stop = new AbortController();
    const abort = (): void => stop.abort(signal?.reason);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
    let end!: (value: void) => void;
    this.work = { what, stop, ended: new Promise<void>((resolve) => (end = resolve)) };
    try {
      return await task(stop.signal);
    } catch (error) {
      if (!this.closed || error instanceof DisposedError) throw error;
      throw new DisposedError(`${this.name} was disposed (${what} was in progress)`, { cause: error });
    } finally {
      signal?.removeEventListener("abort", abort);
      this.work = null;
      end();
    }
  }

  /** The same, as soon as nothing is in progress. @throws DisposedError closed meanwhile */
  async runWhenFree<T>(what: string, task: (signal: AbortSignal) => Promise<T>): Promise<T> {
    while (this.work && !this.closed) await this.work.ended;
    return this.run(what, undefined, task);
  }

  /** Refuses everything from now on and tells what is in progress to stop. Resolves when it has ended. */
  async close(): Promise<void> {
    this.closed = true;
    const { work } = this;
    work?.stop.abort(new DisposedError(`${this.name} was disposed (${work.what} was in progress)`));
    await work?.ended;
  }
}
