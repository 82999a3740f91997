// Files that are there completely or not at all: write beside the target, fsync, rename, fsync the folder.
//
//   writeFileAtomic        one file
//   writeDirectoryAtomic   a new directory (temporary sibling, then one rename), or one in the place of another: a finished sibling
//                          `.NAME.next` is the commit point, then the two change places
//   writeGroupAtomic       several files into a directory that may hold other files: a finished `.GROUP.next` folder is the
//                          commit point, then its files move out one by one
//
// A crash after a commit point is completed by finishDirectory and finishGroup, which readers call first. What follows a commit point
// is done under a lock, so that two writers of one target end in the whole work of one of them.
// A killed process may leave a temporary entry, which the next writer removes (temporary.ts).
import { stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { pathArgument } from "../arguments.ts";
import type { EsftError } from "../errors.ts";
import { IoError } from "../errors.ts";
import { ioError } from "../task.ts";
import { disk } from "./disk.ts";
import { takeLock } from "./lock.ts";
import { forget, removeStale, temporary } from "./temporary.ts";

/** How long a writer waits for another one of the same target, which is putting its files in place. */
const WAIT_MS = 30_000;

const FULL: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full",
  EDQUOT: "the disk quota is used up",
  EFBIG: "the file would exceed the size limit",
};

/** Like ioError, and a full disk says how many bytes are needed and free. */
async function writeError(error: unknown, path: string, needed: number | undefined): Promise<EsftError> {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  if (!code || !FULL[code]) return ioError(error, `cannot write ${path}`, { file: path });
  return diskFull(path, needed, await freeBytes(dirname(resolve(path))), code, error);
}

function diskFull(path: string, needed: number | undefined, free: number | undefined, errno: string, cause?: unknown): IoError {
  const shown = (bytes: number | undefined) => bytes ?? "an unknown number of";
  return new IoError(
    `cannot write ${path}: ${FULL[errno]}: needs ${shown(needed)} bytes, ${shown(free)} bytes free; ` +
      `nothing was left behind. Free some space or choose another folder`,
    { where: { file: path, errno, neededBytes: needed, freeBytes: free }, cause },
  );
}

async function freeBytes(folder: string): Promise<number | undefined> {
  return disk.statfs(folder).then(
    (s) => s.bavail * s.bsize,
    () => undefined,
  );
}

/** Refuses before the first byte when the file system says that `needed` bytes cannot fit. @throws IoError */
export async function requireSpace(folder: string, needed: number | undefined): Promise<void> {
  const free = needed === undefined ? undefined : await freeBytes(folder);
  if (free !== undefined && free < needed!) throw diskFull(folder, needed, free, "ENOSPC");
}

// Node's own recursive mkdir never ends where a folder that is there lets nothing be made in it (/proc, a deleted folder).
async function makeMissing(dir: string): Promise<string | null> {
  const make = (): Promise<string> => disk.mkdir(dir).then(() => dir);
  try {
    return await make();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST" && (await stat(dir)).isDirectory()) return null;
    if (code === "EEXIST") throw Object.assign(new Error("it is a file", { cause: error }), { code });
    if (code !== "ENOENT" || dirname(dir) === dir) throw error;
    const first = await makeMissing(dirname(dir));
    const made = await make().catch((again: NodeJS.ErrnoException) => (again.code === "EEXIST" ? null : Promise.reject(again)));
    return first ?? made;
  }
}

/** Makes a folder and those above it, durably. @returns the topmost one that was not there; null: it was there · @throws IoError */
export async function makeFolder(dir: string): Promise<string | null> {
  try {
    const first = await makeMissing(resolve(pathArgument(dir, "folder")));
    if (first === null) return null;
    for (let at = resolve(dir); at.length >= first.length; at = dirname(at)) await syncFolder(dirname(at));
    return first;
  } catch (error) {
    throw ioError(error, `cannot make the folder ${dir}`, { file: dir });
  }
}

/** Writes one file completely or not at all; the content may stream. `bytes` (when known) is checked against free space first. */
export async function writeFileAtomic(
  path: string,
  content: string | Uint8Array | AsyncIterable<Uint8Array>,
  options: { bytes?: number } = {},
): Promise<void> {
  const folder = dirname(resolve(path));
  const temp = temporary(path);
  const body = typeof content === "string" ? Buffer.from(content) : content;
  const needed = options.bytes ?? (body instanceof Uint8Array ? body.byteLength : undefined);
  try {
    await removeStale(path);
    await requireSpace(folder, needed);
    const file = await disk.open(temp, "wx");
    try {
      for await (const piece of body instanceof Uint8Array ? [body] : body)
        // One write call moves at most 2^31-1 bytes and may be short.
        for (let at = 0; at < piece.byteLength;) at += (await file.write(piece, at, Math.min(piece.byteLength - at, 1 << 30))).bytesWritten;
      await file.sync();
    } finally {
      await file.close();
    }
    await disk.rename(temp, path);
    await syncFolder(folder);
  } catch (error) {
    await disk.rm(temp).catch(() => undefined);
    throw await writeError(error, path, needed);
  } finally {
    forget(temp);
  }
}

/**
 * Fills a temporary sibling of `dir` and renames it into place. `dir` may be absent or empty; with `replace` an existing directory
 * gives its place to the new one and goes.
 */
export async function writeDirectoryAtomic<T>(
  dir: string,
  fill: (temp: string) => Promise<T>,
  options: { bytes?: number; replace?: boolean } = {},
): Promise<T> {
  const target = resolve(dir);
  const parent = dirname(target);
  const temp = temporary(target);
  const taken = (): IoError =>
    new IoError(`${dir} already exists and is not empty; choose another folder or ask to overwrite it`, { where: { file: dir } });
  try {
    await makeFolder(parent);
    await finishDirectory(target);
    await removeStale(target);
    if ((await entries(target))?.length && !options.replace) throw taken();
    await requireSpace(parent, options.bytes);
    await disk.mkdir(temp);
    const result = await fill(temp);
    await syncTree(temp);
    if (options.replace) {
      await using _ = await takeLock(lockOf(target), dir, { waitMs: WAIT_MS });
      await swapIn(target);
      await disk.rename(temp, nextOf(target)); // the commit point
      await syncFolder(parent);
      await swapIn(target);
    } else {
      await ignoreMissing(disk.rmdir(target)); // an empty one
      await disk.rename(temp, target);
      await syncFolder(parent);
    }
    return result;
  } catch (error) {
    await disk.rm(temp, { recursive: true }).catch(() => undefined);
    const code = (error as NodeJS.ErrnoException | null)?.code;
    if (code === "ENOTEMPTY" || code === "EEXIST") throw taken(); // made by another writer meanwhile
    throw await writeError(error, dir, options.bytes);
  } finally {
    forget(temp);
  }
}

/** Completes a writeDirectoryAtomic that was committed but interrupted; does nothing otherwise. Only a target that is missing needs it. */
export async function finishDirectory(dir: string): Promise<void> {
  const target = resolve(dir);
  try {
    if ((await entries(nextOf(target))) === null) return;
    await using _ = await takeLock(lockOf(target), dir, { waitMs: WAIT_MS });
    await swapIn(target);
  } catch (error) {
    throw ioError(error, `cannot complete the interrupted save of ${dir}`, { file: dir });
  }
}

/** Puts `.NAME.next`, when there is one, in the place of `target`. Under the lock. */
async function swapIn(target: string): Promise<void> {
  const next = nextOf(target);
  if ((await entries(next)) === null) return;
  const aside = temporary(target);
  try {
    await ignoreMissing(disk.rename(target, aside));
    await disk.rename(next, target).catch(async (error: unknown) => {
      await disk.rename(aside, target).catch(() => undefined);
      throw error;
    });
    await syncFolder(dirname(target));
    await disk.rm(aside, { recursive: true, force: true });
  } finally {
    forget(aside);
  }
}

/** Writes several files into `dir` as one: all new ones or all old ones. Other files in `dir` stay, except those `owned` claims. */
export async function writeGroupAtomic<T>(
  dir: string,
  group: string,
  fill: (temp: string) => Promise<T>,
  options: { bytes?: number; owned?: (name: string) => boolean } = {},
): Promise<T> {
  const there = await entries(resolve(dir)).catch((error: unknown) => {
    throw ioError(error, `cannot write ${dir}`, { file: dir });
  });
  if (!there?.length) return writeDirectoryAtomic(dir, fill, options);
  const path = resolve(dir, group);
  const temp = temporary(path);
  try {
    await finishGroup(dir, group);
    await removeStale(path);
    await requireSpace(dir, options.bytes);
    await disk.mkdir(temp);
    const result = await fill(temp);
    await syncTree(temp);
    const names = await disk.readdir(temp);
    await using _ = await takeLock(lockOf(path), dir, { waitMs: WAIT_MS });
    await moveOut(dir, group);
    await disk.rename(temp, nextOf(path)); // the commit point
    await syncFolder(dir);
    await moveOut(dir, group);
    for (const name of await disk.readdir(dir))
      if (options.owned?.(name) && !names.includes(name)) await disk.rm(join(dir, name), { force: true });
    return result;
  } catch (error) {
    await disk.rm(temp, { recursive: true }).catch(() => undefined);
    throw await writeError(error, dir, options.bytes);
  } finally {
    forget(temp);
  }
}

/** Completes a writeGroupAtomic that was committed but interrupted; does nothing otherwise. */
export async function finishGroup(dir: string, group: string): Promise<void> {
  const path = resolve(dir, group);
  try {
    if ((await entries(nextOf(path))) === null) return;
    await using _ = await takeLock(lockOf(path), dir, { waitMs: WAIT_MS });
    await moveOut(dir, group);
  } catch (error) {
    throw ioError(error, `cannot complete the interrupted save in ${dir}`, { file: dir });
  }
}

/** Moves the files of `.GROUP.next`, when there is one, into `dir`. Under the lock. */
async function moveOut(dir: string, group: string): Promise<void> {
  const next = nextOf(resolve(dir, group));
  const names = await entries(next);
  if (names === null) return;
  for (const name of names.sort()) await disk.rename(join(next, name), join(dir, name));
  await syncFolder(dir);
  await disk.rmdir(next);
}

async function ignoreMissing(work: Promise<void>): Promise<void> {
  await work.catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
}

/** @returns null: there is no such folder */
async function entries(dir: string): Promise<string[] | null> {
  return disk.readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" && error.code !== "ENOTDIR") throw error;
    return null;
  });
}

const nextOf = (path: string): string => join(dirname(path), `.${basename(path)}.next`);
const lockOf = (path: string): string => join(dirname(path), `.${basename(path)}.lock`);

async function syncTree(dir: string): Promise<void> {
  for (const entry of await disk.readdir(dir, { withFileTypes: true }))
    await (entry.isDirectory() ? syncTree : syncPath)(join(dir, entry.name));
  await syncFolder(dir);
}

async function syncPath(path: string): Promise<void> {
  await using file = await disk.open(path, "r");
  await file.sync();
}

/** Folders cannot be opened or synced on Windows and some network file systems; the rename itself stays atomic there. */
async function syncFolder(folder: string): Promise<void> {
  await syncPath(folder).catch((error: NodeJS.ErrnoException) => {
    if (!["EISDIR", "EPERM", "EINVAL", "ENOTSUP", "EACCES"].includes(error.code ?? "")) throw error;
  });
}
