// A request's body: JSON of a bounded size, or the reason why it is none.

import { ApiError } from "./errors.ts";
import { parseJson } from "../text/python_json.ts";
import type { JsonValue } from "../text/python_json.ts";

export interface JsonBody {
  /** As JSON.parse reads it: what is checked. */
  readonly plain: unknown;
  /** The same with every number as it was written, for what a chat template prints. */
  readonly exact: JsonValue;
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** @throws ApiError 400, 413, 415 */
export async function readJson(request: Request, maxBytes: number): Promise<JsonBody> {
  // A web page elsewhere may send text/plain without asking; JSON needs a permission that is never given.
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json\s*(;|$)/i.test(type))
    throw new ApiError(415, `expected Content-Type application/json, found ${type === "" ? "none" : type.slice(0, 100)}`);
  const encoding = request.headers.get("content-encoding") ?? "identity";
  if (encoding !== "identity") throw new ApiError(415, `expected a body without Content-Encoding, found ${encoding.slice(0, 100)}`);
  const bytes = await read(request, maxBytes);
  try {
    const text = utf8.decode(bytes);
    return { exact: parseJson(text), plain: JSON.parse(text) as unknown };
  } catch (error) {
    const says = error instanceof SyntaxError ? error.message : "it is no UTF-8";
    throw new ApiError(400, `the body of the request is no JSON that can be used: ${says}`, { code: "invalid_json", cause: error });
  }
}

async function read(request: Request, maxBytes: number): Promise<Uint8Array> {
  const tooLarge = new ApiError(413, `the body of a request may have ${maxBytes} bytes`, {
    code: "request_too_large",
    headers: { Connection: "close" },
  });
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLarge;
  const parts: Uint8Array[] = [];
  let size = 0;
  const reader = request.body?.getReader();
  if (!reader) return new Uint8Array();
  for (;;) {
    const { done, value } = await reader.read().catch((cause: unknown) => {
      throw new ApiError(400, "the body of the request ended early", { cause });
    });
    if (done || value === undefined) return Buffer.concat(parts);
    size += value.length;
    if (size > maxBytes) throw tooLarge;
    parts.push(value);
  }
}
