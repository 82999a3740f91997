// What identifies a base model: two numbers over names, dtypes, shapes and data.
//
//   fingerprint  sha256 over the sorted tensors' (name, dtype, shape, sha256 of three 16 KiB windows: first, middle, last).
//                Reads at most 48 KiB per tensor, so it costs seconds on any model and is always present. Another model,
//                another fine-tune, another precision differ in it.
//   contents     the same with the sha256 of all bytes: a proof. Computed always up to 1 GiB of weights (under a second or
//                two), above that only on request.
// Two identities match when the fingerprints do and, where both sides have it, the contents do.
import { createHash } from "node:crypto";
import type { LongTask } from "../task.ts";
import { throwIfAborted } from "../task.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { TensorInfo } from "./safetensors.ts";

export interface BaseIdentity {
  readonly fingerprint: string;
  readonly contents?: string | undefined;
  readonly tensors: number;
  readonly bytes: number;
}

const WINDOW = 16 * 1024;
const FULL_HASH_BYTES = 2 ** 30;

export interface HashOptions extends LongTask {
  /** Hash every byte too; default: when the checkpoint has at most 1 GiB. */
  readonly contents?: boolean | undefined;
}

/** Hashes a checkpoint, its tensors in the order of their names (by code unit). */
export async function hashCheckpoint(checkpoint: Checkpoint, options: HashOptions = {}): Promise<{ identity: BaseIdentity }> {
  const all = options.contents ?? checkpoint.totalBytes <= FULL_HASH_BYTES;
  const fingerprint = createHash("sha256");
  const contents = createHash("sha256");
  const list = [...checkpoint.tensors.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  let done = 0;
  const advance = (bytes: number): void => {
    done += bytes;
    options.onProgress?.({ phase: "hash", done, total: checkpoint.totalBytes, unit: "bytes" });
  };
  for (const tensor of list) {
    throwIfAborted(options.signal, `hashing ${checkpoint.dir}`);
    fingerprint.update(line(tensor, await sampleDigest(checkpoint, tensor)));
    if (!all) {
      advance(tensor.end - tensor.begin);
      continue;
    }
    const hash = createHash("sha256");
    for await (const bytes of checkpoint.chunks(tensor.name)) {
      throwIfAborted(options.signal, `hashing ${checkpoint.dir}`);
      hash.update(bytes);
      advance(bytes.byteLength);
    }
    contents.update(line(tensor, hash.digest("hex")));
  }
  return {
    identity: {
      fingerprint: fingerprint.digest("hex"),
      ...(all ? { contents: contents.digest("hex") } : {}),
      tensors: list.length,
      bytes: checkpoint.totalBytes,
    },
  };
}

const line = (t: TensorInfo, digest: string) => `${JSON.stringify([t.name, t.dtype, t.shape, digest])}\n`;

async function sampleDigest(checkpoint: Checkpoint, t: TensorInfo): Promise<string> {
  const bytes = t.end - t.begin;
  if (bytes <= 3 * WINDOW) return sha256(await checkpoint.read(t.name));
  const hash = createHash("sha256");
  for (const at of [0, Math.floor((bytes - WINDOW) / 2), bytes - WINDOW]) hash.update(await checkpoint.range(t.name, at, at + WINDOW));
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
