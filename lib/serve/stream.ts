// Server-sent events as OpenAI's API sends them: one JSON object a message, `[DONE]` at the end, an error as a message of its own.

import { apiError } from "./errors.ts";

const encoder = new TextEncoder();
const message = (value: unknown): string => `data: ${typeof value === "string" ? value : JSON.stringify(value)}\n\n`;
/** A comment, which clients skip: who sits between the two sees that the connection lives. */
const ALIVE = ": waiting\n\n";

export interface StreamOptions {
  /** The reader has gone. */
  readonly onCancel: () => void;
  readonly onError: (error: unknown) => void;
  /** Ms without a message after which a comment is sent. */
  readonly aliveEvery: number;
}

/** The chunks as a response; they are read as fast as the client takes them. */
export function eventStream(chunks: AsyncIterable<unknown>, { onCancel, onError, aliveEvery }: StreamOptions): Response {
  const iterator = messages(chunks, onError);
  let next: Promise<IteratorResult<string, void>> | null = null;
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      next ??= iterator.next();
      const result = await orAfter(next, aliveEvery);
      if (result === null) return controller.enqueue(encoder.encode(ALIVE));
      next = null;
      if (result.done === true) controller.close();
      else controller.enqueue(encoder.encode(result.value));
    },
    cancel: onCancel,
  });
  return new Response(body, {
    headers: {
      "Content-Type": "text/event-stream; charset=utf-8",
      "Cache-Control": "no-cache",
      "X-Accel-Buffering": "no",
      "Transfer-Encoding": "chunked", // the Node server then sends the head at once
    },
  });
}

async function* messages(chunks: AsyncIterable<unknown>, onError: (error: unknown) => void): AsyncGenerator<string, void, void> {
  try {
    for await (const chunk of chunks) yield message(chunk);
    yield message("[DONE]");
  } catch (error) {
    onError(error);
    yield message(apiError(error).toJSON());
  }
}

/** What the promise resolves with, or null when that takes longer. */
async function orAfter<T>(promise: Promise<T>, ms: number): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([promise, new Promise<null>((resolve) => (timer = setTimeout(() => resolve(null), ms)))]);
  } finally {
    clearTimeout(timer);
  }
}
