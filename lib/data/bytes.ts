// The bytes of a data file, whatever it is: a regular file, a pipe, standard input ("-"); decompressed where they are gzip.

import { pipeline, Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { DataError } from "../errors.ts";
import { streamFile } from "../files/regular.ts";
import { STANDARD_INPUT, standardInput } from "../files/standard_input.ts";
import { fileWords } from "./place.ts";

/** A name that says gzip. */
export const ZIPPED = /\.gz$/i;

/** Does it begin as gzip does? No text begins so, and no Parquet. */
export const isGzip = (head: Uint8Array): boolean => head[0] === 0x1f && head[1] === 0x8b;

/** Gzip is told by the ending .gz, or by its first two bytes. Memory is one piece. */
export async function* dataBytes(file: string, signal?: AbortSignal): AsyncGenerator<Buffer> {
  const stored = file === STANDARD_INPUT ? standardInput(signal) : streamFile(file, signal);
  let head: Buffer = Buffer.alloc(0);
  let zipped = false;
  try {
    while (head.length < 2) {
      const { value, done } = await stored.next();
      if (done) break;
      head = head.length === 0 ? value : Buffer.concat([head, value]);
    }
    requireUtf8(head, file);
    zipped = ZIPPED.test(file) || isGzip(head);
    yield* zipped ? unzipped(file, after(head, stored)) : after(head, stored);
  } finally {
    // Who leaves before the second piece leaves the file open else. What unzips reads ahead, and may wait for a pipe.
    const closed = stored.return(undefined).catch(() => undefined);
    if (!zipped) await closed;
  }
}

/** What Windows calls Unicode is told by its mark, which no text in UTF-8 begins with. @throws DataError */
function requireUtf8([a, b]: Uint8Array, file: string): void {
  if (!(a === 0xff && b === 0xfe) && !(a === 0xfe && b === 0xff)) return;
  throw new DataError(`${fileWords(file)}: expected text in UTF-8, found UTF-16 (by its first two bytes); save it as UTF-8`, {
    where: { file, rule: "encoding" },
  });
}

async function* after(head: Buffer, rest: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
  if (head.length > 0) yield head;
  yield* rest;
}

async function* unzipped(file: string, stored: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
  const gunzip = createGunzip({ chunkSize: 1 << 18 });
  let bytes = 0;
  pipeline(Readable.from(stored, { objectMode: false, highWaterMark: 1 << 20 }), gunzip, () => undefined); // its errors come out of gunzip
  try {
    for await (const piece of gunzip as AsyncIterable<Buffer>) {
      bytes += piece.length;
      yield piece;
    }
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code?.startsWith("Z_") !== true) throw cause;
    const found = code === "Z_BUF_ERROR" ? "an end in the midst of them" : `other bytes (${message})`;
    const fix = bytes === 0 && code !== "Z_BUF_ERROR" ? "rename it without .gz if it is not compressed" : "copy or download it again";
    throw new DataError(`${fileWords(file)}: expected gzip bytes, found ${found} after ${bytes} bytes of text; ${fix}`, {
      where: { file, rule: "gzip", bytes },
      cause,
    });
  }
}
