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
  | "ERR_ABORTED";

export type ErrorPlace = Readonly<Record<string, string | number | boolean | undefined>>;

export interface EsftErrorOptions {
  readonly where?: ErrorPlace;
  readonly cause?: unknown;
}

/** Base class; `code` is stable across versions, `where` names the place. */
export class EsftError extends Error {
  readonly code: ErrorCode;
  readonly where: ErrorPlace;
  constructor(code: ErrorCode, message: string, options: EsftErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.where = options.where ?? {};
  }
}

/** An option, flag, YAML key or config.json field is missing, unknown or out of range. */
export class ConfigError extends EsftError {
  constructor(message: string, options?: EsftErrorOptions) {
    super("ERR_CONFIG", message, options);
  }
}

/** A row, file or token of the user's data cannot be used; names file and line. */
export class DataError extends EsftError {
  constructor(message: string, options?: EsftErrorOptions) {
    super("ERR_DATA", message, options);
  }
}

/** A checkpoint, adapter or tensor does not have the layout it must have. */
export class LayoutError extends EsftError {
  constructor(message: string, options?: EsftErrorOptions) {
    super("ERR_LAYOUT", message, options);
  }
}

/** The plan does not fit; says needed, available and the cheapest fixes. */
export class MemoryError extends EsftError {
  constructor(message: string, options?: EsftErrorOptions) {
    super("ERR_MEMORY", message, options);
  }
}

/** NaN or infinity in weights, loss or gradients; names the tensor and the step. */
export class NonFiniteError extends EsftError {
  constructor(message: string, options?: EsftErrorOptions) {
    super("ERR_NON_FINITE", message, options);
  }
}

/** A native op refused its arguments or failed; names op and argument. */
export class KernelError extends EsftError {
  constructor(message: string, options?: EsftErrorOptions) {
    super("ERR_KERNEL", message, options);
  }
}

/** An object that owns memory was used after dispose(). */
export class DisposedError extends EsftError {
  constructor(message: string, options?: EsftErrorOptions) {
    super("ERR_DISPOSED", message, options);
  }
}

/** Reading or writing a file failed (disk full, permission, missing). Nothing half-written is left behind. */
export class IoError extends EsftError {
  constructor(message: string, options?: EsftErrorOptions) {
    super("ERR_IO", message, options);
  }
}

/** The caller's AbortSignal fired; `cause` is signal.reason. */
export class AbortError extends EsftError {
  constructor(message: string, options?: EsftErrorOptions) {
    super("ERR_ABORTED", message, options);
  }
}
