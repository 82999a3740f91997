// What everything that takes a while has in common: progress, an abort signal, and errors of the operating system as ours.

import type { ErrorPlace } from "./errors.ts";
import { AbortError, EsftError, IoError } from "./errors.ts";

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
