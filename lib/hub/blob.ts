// One file into the cache: HASH.incomplete takes the bytes, is checked against the hash and becomes HASH. What a cut download left is gone
// on from. Positions are written, not appended: whoever writes the same file at the same time writes the same bytes to them.

import { createHash } from "node:crypto";
import type { Hash } from "node:crypto";
import { constants } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { IoError, LayoutError, LockError } from "../errors.ts";
import { makeFolder } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { takeLock } from "../files/lock.ts";
import type { Lock } from "../files/lock.ts";
import { ioError, throwIfAborted } from "../task.ts";
import { HubUnreachable } from "./client.ts";
import type { HubClient } from "./client.ts";
import { blobFile, isThere, lockFolder } from "./layout.ts";
import type { RemoteFile } from "./listing.ts";
import type { HubReference } from "./reference.ts";

export interface BlobTask {
  readonly signal?: AbortSignal | undefined;
  /** Bytes that are there now of this file. */
  readonly onBytes: (bytes: number) => void;
  readonly onNote: (text: string) => void;
  /** Milliseconds before the first repetition of a request that failed; twice as many before each further one. */
  readonly pause?: number | undefined;
}

const TRIES = 6; // in a row without a byte
const PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30_000;
const STALLED_MS = 60_000;
const LOOK_AGAIN_MS = 500; // at who holds a lock
const PIECE = 1 << 22;

/** The URL's path of a file of one commit. */
const address = (of: HubReference, path: string): string =>
  `/${of.id}/resolve/${of.revision}/${path.split("/").map(encodeURIComponent).join("/")}`;

/**
 * Makes sure that the blob of a file is there whole. @param of with the commit as its revision
 * @throws LayoutError the bytes are not those that the hub lists · IoError the disk, the network · ConfigError not for us · AbortError
 */
export async function fetchBlob(client: HubClient, of: HubReference, file: RemoteFile, task: BlobTask): Promise<string> {
  const { cache } = client.settings;
  const blob = blobFile(cache, of.id, file.hash);
  const there = async (): Promise<boolean> => isThere(blob, file.bytes);
  if (!(await there())) {
    await makeFolder(dirname(blob));
    await makeFolder(lockFolder(cache, of.id));
    await using lock = await lockBlob(join(lockFolder(cache, of.id), file.hash), `${of.id}/${file.path}`, there, task);
    if (lock !== null) await download(client, of, file, blob, task);
  }
  task.onBytes(file.bytes);
  return blob;
}

/** Waits for whoever fetches the same file. @returns null: they have it */
async function lockBlob(stem: string, what: string, done: () => Promise<boolean>, { signal, onNote }: BlobTask): Promise<Lock | null> {
  for (let told = false; ;) {
    throwIfAborted(signal, `waiting for ${what}`);
    let why: string;
    try {
      // Not HASH.lock, which Python's library leaves behind: it means nothing there unless a process holds it by flock.
      const lock = await takeLock(`${stem}.esft.lock`, what);
      if (await done()) return lock.release().then(() => null);
      if (!(await isHeldByPython(`${stem}.lock`))) return lock;
      await lock.release();
      why = `${what} is being fetched by a Python process`;
    } catch (error) {
      if (!(error instanceof LockError)) throw error;
      why = error.message;
    }
    if (!told) onNote(`waiting: ${why}`);
    told = true;
    await sleep(LOOK_AGAIN_MS);
    if (await done()) return null;
  }
}

/** Does a process hold the file by flock? Linux alone tells. */
async function isHeldByPython(path: string): Promise<boolean> {
  const [locks, found] = await Promise.all([
    readFile("/proc/locks", "utf8").catch(() => ""),
    stat(path, { bigint: true }).catch(() => null),
  ]);
  return found !== null && locks.split("\n").some((line) => line.includes(" FLOCK ") && line.includes(`:${found.ino} `));
}

/** A file that grows, and the hash of what it holds. */
class Growing {
  at = 0;
  private hash: Hash;
  private readonly handle: FileHandle;
  private readonly file: RemoteFile;

  private constructor(handle: FileHandle, file: RemoteFile) {
    this.handle = handle;
    this.file = file;
    this.hash = this.fresh();
  }

  /** With what is there already. */
  static async open(path: string, file: RemoteFile, signal: AbortSignal | undefined): Promise<Growing> {
    const handle = await disk.open(path, constants.O_RDWR | constants.O_CREAT, 0o666);
    const growing = new Growing(handle, file);
    try {
      const { size } = await handle.stat();
      if (size > file.bytes) await growing.empty();
      const piece = Buffer.allocUnsafe(Math.min(PIECE, size));
      while (growing.at < Math.min(size, file.bytes)) {
        throwIfAborted(signal, `reading ${path}`);
        const { bytesRead } = await handle.read(piece, 0, piece.length, growing.at);
        if (bytesRead === 0) break;
        growing.hash.update(piece.subarray(0, bytesRead));
        growing.at += bytesRead;
      }
      return growing;
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  private fresh(): Hash {
    const { hash, bytes } = this.file;
    return hash.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${bytes}\0`);
  }

  async empty(): Promise<void> {
    await this.handle.truncate(0);
    this.at = 0;
    this.hash = this.fresh();
  }

  async add(piece: Uint8Array): Promise<void> {
    for (let done = 0; done < piece.byteLength;)
      done += (await this.handle.write(piece, done, piece.byteLength - done, this.at + done)).bytesWritten;
    this.hash.update(piece);
    this.at += piece.byteLength;
  }

  /** @returns the hash of all; null: the file is not as long as what was written to it */
  async finish(): Promise<string | null> {
    await this.handle.sync();
    return (await this.handle.stat()).size === this.at ? this.hash.digest("hex") : null;
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}

async function download(client: HubClient, of: HubReference, file: RemoteFile, blob: string, task: BlobTask): Promise<void> {
  const incomplete = `${blob}.incomplete`;
  const what = `${of.id}/${file.path}`;
  try {
    for (let again = false; ; again = true) {
      const growing = await Growing.open(incomplete, file, task.signal);
      const resumed = growing.at > 0;
      let found: string | null;
      try {
        await fill(client, of, file, growing, task);
        found = await growing.finish();
      } finally {
        await growing.close();
      }
      if (found === file.hash) return await disk.rename(incomplete, blob);
      await disk.rm(incomplete, { force: true });
      task.onBytes(0);
      // What lay there from an earlier time may be at fault: once more, from the beginning.
      if (again || !resumed)
        throw new LayoutError(
          `${what}: expected ${file.bytes} bytes with the hash ${file.hash}, found ${found ?? "a file of another size"}; they are not kept. ` +
            "Run the same command again; if it ends so again, what lies between here and the hub changes files",
          { where: { file: blob, expected: file.hash, found: found ?? "" } },
        );
      task.onNote(`${what}: what an earlier download left is damaged, it begins anew`);
    }
  } catch (error) {
    const full = (error as NodeJS.ErrnoException).code === "ENOSPC" || (error as NodeJS.ErrnoException).code === "EDQUOT";
    if (full)
      throw new IoError(
        `cannot write ${incomplete}: the disk is full; free some space and run the same command again: it goes on from there`,
        {
          where: { file: incomplete, errno: (error as NodeJS.ErrnoException).code },
          cause: error,
        },
      );
    throw ioError(error, `cannot write ${incomplete}`, { file: incomplete });
  }
}

/** Asks for what is left until it is there, again after a cut. @throws HubUnreachable too often in a row nothing came */
async function fill(client: HubClient, of: HubReference, file: RemoteFile, growing: Growing, task: BlobTask): Promise<void> {
  task.onBytes(growing.at);
  let failures = 0;
  while (growing.at < file.bytes) {
    const before = growing.at;
    try {
      await takeIn(client, of, file, growing, task);
    } catch (error) {
      throwIfAborted(task.signal, `fetching ${of.id}/${file.path}`);
      if (!(error instanceof HubUnreachable)) throw error;
      failures = growing.at > before ? 1 : failures + 1;
      if (failures >= TRIES) throw error;
      const pause = Math.min((task.pause ?? PAUSE_MS) * 2 ** (failures - 1), LONGEST_PAUSE_MS);
      await sleep(pause, undefined, { signal: task.signal }).catch(() => throwIfAborted(task.signal, `fetching ${of.id}/${file.path}`));
    }
  }
}

/** One request, as far as it gets. */
async function takeIn(client: HubClient, of: HubReference, file: RemoteFile, growing: Growing, task: BlobTask): Promise<void> {
  const what = `${of.id}/${file.path}`;
  const stalled = new AbortController();
  const signal = task.signal ? AbortSignal.any([task.signal, stalled.signal]) : stalled.signal;
  const { response, hub } = await client.get(address(of, file.path), of, { signal: task.signal, from: growing.at });
  const cancel = (): Promise<void> | undefined => response.body?.cancel();
  if (response.status === 416) {
    await cancel();
    await growing.empty();
    throw new HubUnreachable(`${what}: the hub has no byte ${growing.at} of it`);
  }
  const etag = (hub.get("x-linked-etag") ?? hub.get("etag"))?.replace(/^(?:W\/)?"(.*)"$/, "$1");
  const size = hub.get("x-linked-size");
  if ((etag !== undefined && isHash(etag) && etag !== file.hash) || (size !== null && Number(size) !== file.bytes)) {
    await cancel();
    throw new LayoutError(
      `${what}: expected ${file.bytes} bytes with the hash ${file.hash}, as the hub lists it; it offers ${size ?? "?"} bytes with ${etag ?? "none"}`,
      { where: { file: what } },
    );
  }
  if (growing.at > 0) {
    const [, from] = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "") ?? [];
    // The whole file, by a server that knows no ranges.
    if (response.status !== 206 || Number(from) !== growing.at) await growing.empty();
  }
  const limit = setTimeout(() => stalled.abort(), STALLED_MS);
  try {
    for await (const piece of stoppable(response, signal)) {
      limit.refresh();
      if (growing.at + piece.byteLength > file.bytes) {
        await growing.empty();
        throw new LayoutError(`${what}: expected ${file.bytes} bytes, found more`, { where: { file: what } });
      }
      await growing.add(piece);
      task.onBytes(growing.at);
    }
  } finally {
    clearTimeout(limit);
  }
  if (growing.at < file.bytes) throw new HubUnreachable(`${what}: the connection ended after ${growing.at} of ${file.bytes} bytes`);
}

const isHash = (text: string): boolean => /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(text);

/** What comes in until the end or the signal. @throws HubUnreachable it was cut */
async function* stoppable({ body }: Response, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  if (body === null) return;
  const reader = body.getReader();
  const stop = (): void => void reader.cancel().catch(() => undefined);
  signal.addEventListener("abort", stop, { once: true });
  try {
    for (;;) {
      const got = await reader.read().catch((cause: unknown) => {
        throw new HubUnreachable("the connection was cut", { cause });
      });
      if (signal.aborted) throw new HubUnreachable("nothing came any more");
      if (got.done) return;
      yield got.value as Uint8Array;
    }
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
  }
}
