// Every error this package throws on purpose is an EsftError with a stable `code`.
// `where` carries the machine-readable place (file, line, tensor, key, op, argument …); the message says the same in words:
// what is wrong, where, what was expected, what was found, and the fix.

export type ErrorCode =
  | "ERR_CONFIG"
  | "ERR_DATA"
  | "ERR_LAYOUT"
  | "ERR_MEMORY"
  | "ERR_NON_FINITE"
  | "ERR_KERNEL"
  | "ERR_DISPOSED"
  | "ERR_IO"
  | "ERR_LOCKED"
  | "ERR_ABORTED";

export type ErrorPlace = Readonly<Record<string, string | number | boolean | undefined>>;

export interface EsftErrorOptions {
  readonly where?: ErrorPlace;
  readonly cause?: unknown;
}

/** Base class; `code` is stable across versions, `where` names the place. */
export abstract class EsftError extends Error {
  abstract readonly code: ErrorCode;
  readonly where: ErrorPlace;
  constructor(message: string, { where = {}, cause }: EsftErrorOptions = {}) {
    super(printable(message), cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    this.where = where;
  }
}

const LONGEST = 4000; // UTF-16 units: about a screen

/** What files and options say stands in messages: it steers no terminal, and does not push the rest off the screen. */
function printable(message: string): string {
  const text = message.length <= LONGEST ? message : `${message.slice(0, LONGEST - 1000)} … ${message.slice(-900)}`;
  // eslint-disable-next-line no-control-regex -- those are what it is about
  return text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g, escaped);
}
const escaped = (c: string): string => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;

/** An option, flag, YAML key or config.json field is missing, unknown or out of range. */
export class ConfigError extends EsftError {
  readonly code = "ERR_CONFIG";
}

/** A row, file or token of the user's data cannot be used; names file and line. */
export class DataError extends EsftError {
  readonly code = "ERR_DATA";
}

/** A checkpoint, adapter or tensor does not have the layout it must have. */
export class LayoutError extends EsftError {
  readonly code = "ERR_LAYOUT";
}

/** The plan does not fit; says needed, available and the cheapest fixes. */
export class MemoryError extends EsftError {
  readonly code = "ERR_MEMORY";
}

/** NaN or infinity in weights, loss or gradients; names the tensor and the step. */
export class NonFiniteError extends EsftError {
  readonly code = "ERR_NON_FINITE";
}

/** A native op refused its arguments or failed; names op and argument. */
export class KernelError extends EsftError {
  readonly code = "ERR_KERNEL";
}

/** An object that owns memory was used after dispose(). */
export class DisposedError extends EsftError {
  readonly code = "ERR_DISPOSED";
}

/** Reading or writing a file failed (disk full, permission, missing). Nothing half-written is left behind. */
export class IoError extends EsftError {
  readonly code = "ERR_IO";
}

/** Another process, or another run of this one, holds what is to be written; `where` has its pid, host, since and command. */
export class LockError extends EsftError {
  readonly code = "ERR_LOCKED";
}

/** The caller's AbortSignal fired; `cause` is signal.reason. */
export class AbortError extends EsftError {
  readonly code = "ERR_ABORTED";
}
