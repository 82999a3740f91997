// safetensors writer: streams tensors in the given order into a file that appears complete or not at all.
import { createHash } from "node:crypto";
import { ConfigError } from "../errors.ts";
import type { LongTask } from "../task.ts";
import { throwIfAborted } from "../task.ts";
import { writeFileAtomic } from "./atomic.ts";
import { layoutFault, shownType } from "./fault.ts";
import type { Dtype } from "./safetensors.ts";
import { MAX_HEADER_BYTES, tensorBytes } from "./safetensors.ts";

export interface TensorEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** The bytes, or a function that produces or streams them when their turn comes. */
  readonly data: Uint8Array | (() => AsyncIterable<Uint8Array> | Promise<Uint8Array>);
}

export interface WriteOptions extends LongTask {
  readonly metadata?: Readonly<Record<string, string>>;
  /** Also return sha256: of every tensor (default), or of the file as a whole. */
  readonly hash?: "tensors" | "file" | false;
}

export interface Written {
  readonly bytes: number;
  /** sha256 (hex) of each tensor's bytes, by name, with hash "tensors". */
  readonly sha256: ReadonlyMap<string, string>;
  /** sha256 (hex) of the file, with hash "file". */
  readonly fileSha256: string | null;
}

/**
 * Writes a safetensors file: temporary sibling, fsync, rename. Tensors keep the given order; the header is padded so that the
 * data begins 8-byte aligned.
 * @throws LayoutError a tensor's data is not as long as its dtype and shape say · IoError disk full (needed and free bytes) …
 */
export async function writeSafetensors(path: string, entries: readonly TensorEntry[], options: WriteOptions = {}): Promise<Written> {
  const { header, dataBytes } = buildHeader(path, entries, options.metadata);
  const total = header.byteLength + dataBytes;
  const { hash: hashed = "tensors" } = options;
  const sha256 = new Map<string, string>();
  const whole = hashed === "file" ? createHash("sha256") : null;
  async function* content(): AsyncGenerator<Uint8Array> {
    whole?.update(header);
    yield header;
    let done = header.byteLength;
    for (const entry of entries) {
      const expected = tensorBytes(entry.dtype, entry.shape)!;
      const begin = done;
      const hash = hashed === "tensors" ? createHash("sha256") : null;
      for await (const bytes of pieces(entry)) {
        throwIfAborted(options.signal, `writing ${path}`);
        done += bytes.byteLength;
        if (done - begin > expected) throw wrongSize(path, entry, expected, `more than ${expected}`);
        (hash ?? whole)?.update(bytes);
        yield bytes;
        options.onProgress?.({ phase: "write", done, total, unit: "bytes" });
      }
      if (done - begin !== expected) throw wrongSize(path, entry, expected, `${done - begin}`);
      if (hash) sha256.set(entry.name, hash.digest("hex"));
    }
  }
  await writeFileAtomic(path, content(), { bytes: total });
  return { bytes: total, sha256, fileSha256: whole?.digest("hex") ?? null };
}

async function* pieces(entry: TensorEntry): AsyncGenerator<Uint8Array> {
  const made = typeof entry.data === "function" ? entry.data() : entry.data;
  if (made instanceof Uint8Array) yield made;
  else if (made instanceof Promise) yield await made;
  else yield* made;
}

const wrongSize = (path: string, entry: TensorEntry, expected: number, found: string) =>
  layoutFault(path, `expected ${expected} bytes for ${shownType(entry)}, found ${found}`, entry.name);

function buildHeader(
  path: string,
  entries: readonly TensorEntry[],
  metadata?: Readonly<Record<string, string>>,
): { header: Uint8Array; dataBytes: number } {
  // Serialised by hand: an object would reorder names that look like integers.
  const parts: string[] = [];
  if (metadata && Object.keys(metadata).length > 0) parts.push(`"__metadata__":${JSON.stringify(metadata)}`);
  const names = new Set<string>();
  let at = 0;
  for (const entry of entries) {
    const { name, dtype, shape } = entry;
    const bytes = tensorBytes(dtype, shape);
    if (bytes === null) throw layoutFault(path, `${shownType(entry)} is too large or does not fill whole bytes`, name);
    if (name === "__metadata__" || names.has(name))
      throw layoutFault(path, `expected unique tensor names, found "${name}" twice or reserved`, name);
    names.add(name);
    parts.push(`${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(",")}],"data_offsets":[${at},${at + bytes}]}`);
    at += bytes;
  }
  const json = Buffer.from(`{${parts.join(",")}}`);
  const padded = Math.ceil(json.byteLength / 8) * 8;
  if (padded > MAX_HEADER_BYTES)
    throw new ConfigError(`${path}: the header would have ${padded} bytes, more than ${MAX_HEADER_BYTES}; write several files`, {
      where: { file: path },
    });
  const header = Buffer.alloc(8 + padded, " ");
  header.writeBigUInt64LE(BigInt(padded), 0);
  json.copy(header, 8);
  return { header, dataBytes: at };
}
