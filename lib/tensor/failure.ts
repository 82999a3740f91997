// What the addon throws, as our errors.

import { DisposedError, EsftError, KernelError, MemoryError } from "../errors.ts";

interface NativeFailure extends Error {
  status?: number;
  op?: string;
  argument?: string;
}

/** Turns an error thrown by the addon into one of ours, keeping the JavaScript stack. */
export function translateError(error: unknown): unknown {
  if (error instanceof EsftError || !(error instanceof Error)) return error;
  const { status, op, argument, message } = error as NativeFailure;
  if (status === undefined) return error;
  const where = { ...(op ? { op } : {}), ...(argument ? { argument } : {}) };
  if (status === 100) return new DisposedError(message, { where });
  return status === 2 ? new MemoryError(message, { where }) : new KernelError(message, { where });
}

/** For calls of the addon with a caller's arguments: what it or JavaScript refuses about them is a KernelError too. */
export function guarded<T>(f: () => T): T {
  try {
    return f();
  } catch (error) {
    const ours = translateError(error);
    if (ours instanceof EsftError) throw ours;
    throw new KernelError(`an argument cannot be used: ${error instanceof Error ? error.message : "it threw"}`, { cause: error });
  }
}
