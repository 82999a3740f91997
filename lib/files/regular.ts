// Files that a user names, opened so that nothing hangs: only regular files are read (a symlink to one is fine). Opening a pipe
// waits for whoever writes to it, and not even the end of the process ends that wait. Rows of data alone may come from a pipe.
import { isUtf8 } from "node:buffer";
import type { Stats } from "node:fs";
import { constants, createReadStream } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { open, realpath, stat } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";
import { IoError } from "../errors.ts";
import { ioError, throwIfAborted } from "../task.ts";
import { disk } from "./disk.ts";
import { layoutFault } from "./fault.ts";

/** What tells whether a file is still the one that was opened, and unchanged. */
export interface FileStamp {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly size: bigint;
  readonly mtimeNs: bigint;
}

const NON_BLOCKING = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0); // Windows has none

/** @throws IoError it is there, but no regular file */
function requireFile(info: Pick<Stats, "isFile" | keyof typeof KINDS>, path: string): void {
  if (info.isFile()) return;
  const kind = Object.entries(KINDS).find(([is]) => info[is as keyof typeof KINDS]());
  throw new IoError(`cannot read ${path}: expected a regular file, found ${kind?.[1] ?? "something else"}`, { where: { file: path } });
}
const KINDS = {
  isDirectory: "a directory",
  isFIFO: "a pipe (FIFO)",
  isSocket: "a socket",
  isCharacterDevice: "a device",
  isBlockDevice: "a device",
} as const;

/** An open regular file, read by position. */
export class RegularFile implements AsyncDisposable {
  readonly path: string;
  readonly stamp: FileStamp;
  private readonly handle: FileHandle;

  private constructor(path: string, handle: FileHandle, stamp: FileStamp) {
    this.path = path;
    this.handle = handle;
    this.stamp = stamp;
  }

  /** @throws IoError it cannot be opened, or is no regular file */
  static async open(path: string): Promise<RegularFile> {
    let handle: FileHandle | null = null;
    try {
      requireFile(await stat(path), path); // before it is opened: that alone would wake whoever writes to a pipe
      handle = await open(path, NON_BLOCKING);
      const info = await handle.stat({ bigint: true });
      requireFile(info, path);
      return new RegularFile(path, handle, info);
    } catch (error) {
      await handle?.close();
      throw ioError(error, `cannot open ${path}`, { file: path });
    }
  }

  get size(): number {
    return Number(this.stamp.size);
  }

  /** A path under which this process can open it again, though it was deleted where the system allows that. */
  get reopened(): string {
    return process.platform === "linux" ? `/proc/self/fd/${this.handle.fd}` : this.path;
  }

  /** Of now. */
  async currentStamp(): Promise<FileStamp> {
    return this.handle.stat({ bigint: true });
  }

  /** Bytes [begin, end). @throws LayoutError the file ends before · IoError */
  async read(begin: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const { path } = this;
    const bytes = new Uint8Array(end - begin);
    for (let at = 0; at < bytes.length;) {
      // One read moves at most 2^31-1 bytes.
      const got = await this.handle.read(bytes, at, Math.min(bytes.length - at, 1 << 30), begin + at).catch((error: unknown) => {
        throw ioError(error, `cannot read ${path}`, { file: path });
      });
      if (got.bytesRead === 0)
        throw layoutFault(
          path,
          `expected data up to byte ${end}, found the end of the file at ${begin + at}; it changed while it was read`,
        );
      at += got.bytesRead;
    }
    return bytes;
  }

  /** The whole content. */
  async content(): Promise<Buffer> {
    return this.handle.readFile().catch((error: unknown) => {
      throw ioError(error, `cannot read ${this.path}`, { file: this.path });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handle.close();
  }
}

/**
 * A text file. @param invalid what bytes that are not UTF-8 do: a file that is written while somebody dies may end in half a character
 * @throws IoError it cannot be read, is no regular file, or is larger than `maxBytes` · LayoutError it is not UTF-8
 */
export async function readTextFile(path: string, maxBytes = 64 * 2 ** 20, invalid: "refuse" | "replace" = "refuse"): Promise<string> {
  await using file = await RegularFile.open(path);
  if (file.size > maxBytes)
    throw new IoError(`cannot read ${path}: expected at most ${maxBytes} bytes of text, found ${file.size}`, { where: { file: path } });
  const bytes = await file.content();
  if (invalid === "refuse" && !isUtf8(bytes))
    throw layoutFault(path, "expected text in UTF-8, found bytes that are none; save it as UTF-8");
  return bytes.toString("utf8");
}

/** Copies a regular file. @throws IoError */
export async function copyRegular(from: string, to: string): Promise<void> {
  try {
    requireFile(await stat(from), from);
    await disk.copyFile(from, to);
  } catch (error) {
    throw ioError(error, `cannot copy ${from}`, { file: from });
  }
}

/**
 * The bytes of a regular file, or what comes out of a pipe until whoever writes to it closes it; `signal` ends the wait.
 * @throws IoError · AbortError
 */
export async function* streamFile(path: string, signal?: AbortSignal): AsyncGenerator<Buffer> {
  const reading = `reading ${path}`;
  try {
    const info = await stat(path);
    if (info.isFIFO()) return yield* readPipe(path, signal, reading);
    if (!info.isCharacterDevice()) requireFile(info, path); // a terminal
    for await (const piece of createReadStream(path, { highWaterMark: 1 << 20, signal }) as AsyncIterable<Buffer>) yield piece;
  } catch (error) {
    throwIfAborted(signal, reading);
    throw ioError(error, `cannot read ${path}`, { file: path });
  }
}

/** Asks now and then: a thread that reads a pipe would block until the first byte, and block the end of the process too. */
async function* readPipe(path: string, signal: AbortSignal | undefined, reading: string): AsyncGenerator<Buffer> {
  await using file = await open(path, NON_BLOCKING);
  // A pipe without a name ("<(…)", standard input) had its writer from the beginning; to one with a name it may still come.
  let expected = await realpath(path).then((real) => !real.startsWith("/dev/"), () => false); // prettier-ignore
  for (let pauses = 0; ;) {
    throwIfAborted(signal, reading);
    const buffer = Buffer.allocUnsafe(1 << 16); // what a pipe holds
    const got = await file.read(buffer).then(({ bytesRead }) => bytesRead, refuseOtherThanEmpty); // prettier-ignore
    if (got === 0 && !expected) return;
    if (got !== 0) expected = false;
    if (got) {
      pauses = 0;
      yield buffer.subarray(0, got);
    } else await setTimeout(Math.min(++pauses, 20));
  }
}

/** Nothing to read now from a pipe that someone has open for writing. */
function refuseOtherThanEmpty(error: NodeJS.ErrnoException): null {
  if (error.code !== "EAGAIN") throw error;
  return null;
}
