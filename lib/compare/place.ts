// Errors of a comparison say which cell they are of, and which file.

import { AbortError, EsftError } from "../errors.ts";
import type { EsftErrorOptions } from "../errors.ts";

/** The same error, its message after the words that it has not yet; what is not ours, and an abort, as it is. */
export function placed(error: unknown, ...places: readonly string[]): unknown {
  if (!(error instanceof EsftError) || error instanceof AbortError) return error;
  const missing = places.filter((place) => !error.message.includes(place));
  if (missing.length === 0) return error;
  const Same = error.constructor as new (message: string, options: EsftErrorOptions) => EsftError;
  return new Same(`${missing.join(", ")}: ${error.message}`, { where: error.where, cause: error });
}
