// Errors as OpenAI's API words them: a status, and { error: { message, type, param, code } }. What the library throws gets its place here.

import { EsftError } from "../errors.ts";
import type { ErrorCode } from "../errors.ts";

export interface ApiErrorFacts {
  /** "invalid_request_error", "server_error" …; by the status where it is not given. */
  readonly type?: string;
  /** What programs may ask for: "model_not_found", "context_length_exceeded" … */
  readonly code?: string | null;
  /** The parameter that is to blame. */
  readonly param?: string | null;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

export class ApiError extends Error {
  readonly status: number;
  readonly type: string;
  readonly code: string | null;
  readonly param: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, message: string, { type, code = null, param = null, headers = {}, cause }: ApiErrorFacts = {}) {
    super(message, { cause });
    this.status = status;
    this.type = type ?? (status >= 500 ? "server_error" : "invalid_request_error");
    this.code = code;
    this.param = param;
    this.headers = headers;
  }

  toJSON(): { error: { message: string; type: string; param: string | null; code: string | null } } {
    const { message, type, param, code } = this;
    return { error: { message, type, param, code } };
  }

  response(): Response {
    return Response.json(this.toJSON(), { status: this.status, headers: this.headers });
  }
}

/** A request that cannot be honoured as it is. */
export const invalid = (param: string, message: string, code: string | null = null): ApiError =>
  new ApiError(400, message, { param, code });

export const overloaded = (message: string): ApiError =>
  new ApiError(429, message, { type: "rate_limit_error", code: "overloaded", headers: { "Retry-After": "1" } });

export const SHUTTING_DOWN = "shutting_down";
export const shuttingDown = (): ApiError =>
  new ApiError(503, "the server is shutting down", { code: SHUTTING_DOWN, headers: { "Retry-After": "10", Connection: "close" } });

/** What a program that asks again later, or asks something else, can hope for. */
const STATUS: Readonly<Record<ErrorCode, number>> = {
  ERR_CONFIG: 400,
  ERR_DATA: 400,
  ERR_LAYOUT: 500,
  ERR_MEMORY: 503,
  ERR_NON_FINITE: 500,
  ERR_KERNEL: 500,
  ERR_DISPOSED: 503,
  ERR_IO: 500,
  ERR_LOCKED: 500,
  ERR_ABORTED: 503,
};

/** Keys of ours as the request spells them. */
const PARAM: Readonly<Record<string, string>> = {
  maxTokens: "max_tokens",
  topP: "top_p",
  topK: "top_k",
  minP: "min_p",
  template: "messages",
};

/** messages.0.role → messages[0].role */
const spelled = (key: string): string => PARAM[key] ?? key.replace(/\.(\d+)(?=\.|$)/g, "[$1]");

/** Anything that was thrown, as what the client hears. Defects are not described to it. */
export function apiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (!(error instanceof EsftError))
    return new ApiError(500, "internal error; the server's log has more", { code: "internal_error", cause: error });
  const status = STATUS[error.code];
  const { key, unknown } = error.where;
  return new ApiError(status, error.message, {
    code: unknown === true ? "unknown_parameter" : status === 400 ? null : error.code,
    param: status === 400 && typeof key === "string" ? spelled(key) : null,
    headers: status === 503 ? { "Retry-After": "10" } : {},
    cause: error,
  });
}
