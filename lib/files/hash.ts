// What identifies a base model: two numbers over names, dtypes, shapes and data.
//
//   fingerprint  sha256 over the sorted tensors' (name, dtype, shape, sha256 of three 16 KiB windows: first, middle, last).
//                Reads at most 48 KiB per tensor, so it costs seconds on any model and is always present. Another model,
//                another fine-tune, another precision differ in it.
//   contents     the same with the sha256 of all bytes: a proof. Computed always up to 1 GiB of weights (under a second or
//                two), above that only on request.
// Two identities match when the fingerprints do and, where both sides have it, the contents do.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import type { LongTask } from "../task.ts";
import { ioError, throwIfAborted } from "../task.ts";
import type { Checkpoint, CheckpointTensor } from "./checkpoint.ts";
import { readFileRange } from "./safetensors.ts";

export interface BaseIdentity {
  readonly fingerprint: string;
  readonly contents?: string | undefined;
  readonly tensors: number;
  readonly bytes: number;
}

const WINDOW = 16 * 1024;
export const FULL_HASH_BYTES = 2 ** 30;

export interface HashOptions extends LongTask {
  /** Hash every byte too; default: when the checkpoint has at most 1 GiB. */
  readonly contents?: boolean | undefined;
}

/** Names sorted by code unit: the one order of every digest. */
export function sortedTensors(checkpoint: Checkpoint): CheckpointTensor[] {
  return [...checkpoint.tensors.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Hashes a checkpoint; `tensors` holds per-tensor sha256 when contents were hashed. */
export async function hashCheckpoint(
  checkpoint: Checkpoint,
  options: HashOptions = {},
): Promise<{ identity: BaseIdentity; tensors: ReadonlyMap<string, string> | null }> {
  const all = options.contents ?? checkpoint.totalBytes <= FULL_HASH_BYTES;
  const fingerprint = createHash("sha256");
  const contents = createHash("sha256");
  const digests = new Map<string, string>();
  const list = sortedTensors(checkpoint);
  let done = 0;
  for (const tensor of list) {
    throwIfAborted(options.signal, `hashing ${checkpoint.dir}`);
    fingerprint.update(line(tensor, await sampleDigest(tensor)));
    if (all) {
      const hash = createHash("sha256");
      for await (const bytes of checkpoint.chunks(tensor.name)) {
        throwIfAborted(options.signal, `hashing ${checkpoint.dir}`);
        hash.update(bytes);
        done += bytes.byteLength;
        options.onProgress?.({ phase: "hash", done, total: checkpoint.totalBytes, unit: "bytes" });
      }
      const digest = hash.digest("hex");
      digests.set(tensor.name, digest);
      contents.update(line(tensor, digest));
    } else {
      done += tensor.end - tensor.begin;
      options.onProgress?.({ phase: "hash", done, total: checkpoint.totalBytes, unit: "bytes" });
    }
  }
  const identity: BaseIdentity = {
    fingerprint: fingerprint.digest("hex"),
    ...(all ? { contents: contents.digest("hex") } : {}),
    tensors: list.length,
    bytes: checkpoint.totalBytes,
  };
  return { identity, tensors: all ? digests : null };
}

const line = (t: CheckpointTensor, digest: string) => `${JSON.stringify([t.name, t.dtype, t.shape, digest])}\n`;

async function sampleDigest(t: CheckpointTensor): Promise<string> {
  const hash = createHash("sha256");
  const bytes = t.end - t.begin;
  if (bytes <= 3 * WINDOW) {
    hash.update(await readFileRange(t.path, t.begin, t.end));
  } else {
    for (const at of [0, Math.floor((bytes - WINDOW) / 2), bytes - WINDOW])
      hash.update(await readFileRange(t.path, t.begin + at, t.begin + at + WINDOW));
  }
  return hash.digest("hex");
}

/** True when both describe the same base as far as both can tell. */
export function sameBase(a: BaseIdentity, b: BaseIdentity): boolean {
  if (a.contents !== undefined && b.contents !== undefined && a.contents !== b.contents) return false;
  return a.fingerprint === b.fingerprint;
}

/** Short form for messages. */
export const shownIdentity = (i: BaseIdentity) =>
  `${i.fingerprint.slice(0, 16)}${i.contents ? `/${i.contents.slice(0, 16)}` : ""} (${i.tensors} tensors, ${i.bytes} bytes)`;

/** sha256 (hex) of bytes or text. */
export const sha256 = (content: string | Uint8Array) => createHash("sha256").update(content).digest("hex");

/** sha256 (hex) of a file of any size, for data hashes in profiles and run records. */
export async function hashFile(path: string): Promise<string> {
  try {
    const hash = createHash("sha256");
    for await (const bytes of createReadStream(path)) hash.update(bytes as Uint8Array);
    return hash.digest("hex");
  } catch (error) {
    throw ioError(error, `cannot read ${path}`, { file: path });
  }
}
