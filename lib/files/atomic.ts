// Files that are there completely or not at all: write beside the target, fsync, rename, fsync the folder.
//
//   writeFileAtomic        one file
//   writeDirectoryAtomic   a new directory (temporary sibling, then one rename)
//   writeGroupAtomic       several files into a directory that may hold other files: a finished `.next` folder is the
//                          commit point, then its files move out one by one; a crash in between is completed by
//                          finishGroup, which every reader of such a group calls first
//
// A killed process may leave a temporary entry; its name holds host and pid, so the next writer removes it.
import { createHash, randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { mkdir, open, readdir, rename, rm, rmdir, statfs } from "node:fs/promises";
import type { EsftError } from "../errors.ts";
import { IoError } from "../errors.ts";
import { ioError } from "../task.ts";

const HOST = createHash("sha256").update(hostname()).digest("hex").slice(0, 6);

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
  return statfs(folder).then(
    (s) => s.bavail * s.bsize,
    () => undefined,
  );
}

/** Refuses before the first byte when the file system says that `needed` bytes cannot fit. */
async function requireSpace(folder: string, needed: number | undefined): Promise<void> {
  const free = needed === undefined ? undefined : await freeBytes(folder);
  if (free !== undefined && free < needed!) throw diskFull(folder, needed, free, "ENOSPC");
}

/** Writes one file completely or not at all; the content may stream. `bytes` (when known) is checked against free space first. */
export async function writeFileAtomic(
  path: string,
  content: string | Uint8Array | AsyncIterable<Uint8Array>,
  options: { bytes?: number } = {},
): Promise<void> {
  const folder = dirname(resolve(path));
  const temp = join(folder, tempName(basename(path)));
  const body = typeof content === "string" ? Buffer.from(content) : content;
  const needed = options.bytes ?? (body instanceof Uint8Array ? body.byteLength : undefined);
  await removeStale(folder, basename(path));
  try {
    await requireSpace(folder, needed);
    const file = await open(temp, "wx");
    try {
      for await (const piece of body instanceof Uint8Array ? [body] : body)
        // One write call moves at most 2^31-1 bytes and may be short.
        for (let at = 0; at < piece.byteLength;) at += (await file.write(piece, at, Math.min(piece.byteLength - at, 1 << 30))).bytesWritten;
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temp, path);
    await syncFolder(folder);
  } catch (error) {
    await rm(temp, { force: true }).catch(() => undefined);
    throw await writeError(error, path, needed);
  }
}

/**
 * Fills a temporary sibling of `dir` and renames it into place. `dir` may be absent or empty; with `replace` an existing
 * directory is moved aside, swapped and deleted.
 */
export async function writeDirectoryAtomic<T>(
  dir: string,
  fill: (temp: string) => Promise<T>,
  options: { bytes?: number; replace?: boolean } = {},
): Promise<T> {
  const target = resolve(dir);
  const parent = dirname(target);
  const temp = join(parent, tempName(basename(target)));
  try {
    await mkdir(parent, { recursive: true });
    await removeStale(parent, basename(target));
    const there = await entries(target);
    const taken = there !== null && there.length > 0;
    if (taken && !options.replace)
      throw new IoError(`${dir} already exists and is not empty; choose another folder or ask to overwrite it`, { where: { file: dir } });
    await requireSpace(parent, options.bytes);
    await mkdir(temp);
    const result = await fill(temp);
    await syncTree(temp);
    if (taken) {
      const aside = join(parent, tempName(basename(target)));
      await rename(target, aside);
      try {
        await rename(temp, target);
      } catch (error) {
        await rename(aside, target);
        throw error;
      }
      await rm(aside, { recursive: true, force: true });
    } else {
      if (there) await rmdir(target);
      await rename(temp, target);
    }
    await syncFolder(parent);
    return result;
  } catch (error) {
    await rm(temp, { recursive: true, force: true }).catch(() => undefined);
    throw await writeError(error, dir, options.bytes);
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
  const next = join(dir, nextName(group));
  const temp = join(dir, tempName(group));
  try {
    await finishGroup(dir, group);
    await removeStale(dir, group);
    await requireSpace(dir, options.bytes);
    await mkdir(temp);
    const result = await fill(temp);
    await syncTree(temp);
    const names = await readdir(temp);
    await rename(temp, next); // the commit point
    await syncFolder(dir);
    await finishGroup(dir, group);
    for (const name of await readdir(dir)) if (options.owned?.(name) && !names.includes(name)) await rm(join(dir, name), { force: true });
    return result;
  } catch (error) {
    await rm(temp, { recursive: true, force: true }).catch(() => undefined);
    throw await writeError(error, dir, options.bytes);
  }
}

/** Completes a writeGroupAtomic that was committed but interrupted; does nothing otherwise. */
export async function finishGroup(dir: string, group: string): Promise<void> {
  const next = join(dir, nextName(group));
  const names = await entries(next);
  if (!names) return;
  try {
    for (const name of names.sort()) await ignoreMissing(rename(join(next, name), join(dir, name)));
    await syncFolder(dir);
    await ignoreMissing(rmdir(next));
  } catch (error) {
    throw ioError(error, `cannot complete the interrupted save in ${dir}`, { file: dir });
  }
}

/** For what another reader of the same group may have done already. */
async function ignoreMissing(work: Promise<void>): Promise<void> {
  await work.catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
}

async function entries(dir: string): Promise<string[] | null> {
  return readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
    return null;
  });
}

const nextName = (group: string) => `.${group}.next`;
const tempName = (name: string) => `.${name}.tmp-${HOST}-${process.pid}-${randomBytes(4).toString("hex")}`;

async function removeStale(folder: string, name: string): Promise<void> {
  const prefix = `.${name}.tmp-${HOST}-`;
  for (const entry of (await entries(folder).catch(() => null)) ?? []) {
    if (!entry.startsWith(prefix)) continue;
    const pid = Number(entry.slice(prefix.length).split("-")[0]);
    if (pid !== process.pid && !isAlive(pid)) await rm(join(folder, entry), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return true; // not a name of ours
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

async function syncTree(dir: string): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) await (entry.isDirectory() ? syncTree : syncPath)(join(dir, entry.name));
  await syncFolder(dir);
}

async function syncPath(path: string): Promise<void> {
  await using file = await open(path, "r");
  await file.sync();
}

/** Folders cannot be opened or synced on Windows and some network file systems; the rename itself stays atomic there. */
async function syncFolder(folder: string): Promise<void> {
  await syncPath(folder).catch((error: NodeJS.ErrnoException) => {
    if (!["EISDIR", "EPERM", "EINVAL", "ENOTSUP", "EACCES"].includes(error.code ?? "")) throw error;
  });
}
