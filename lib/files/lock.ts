// A lock is a file that names its holder. It survives a crash of the holder, and then is stale: whoever comes next proves that the
// holder is gone (holder.ts) and takes its place. Where nothing can be proved the lock stands, and the error says which file to remove.
//
// Taking over is the work of one: the stale lock's token names a second lock, PATH.TOKEN, that its taker holds meanwhile. Only who
// holds that may replace a lock with this token, so of two takers one finds the other's lock in place.
import { randomBytes } from "node:crypto";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { LockError } from "../errors.ts";
import { ioError } from "../task.ts";
import { disk } from "./disk.ts";
import { isGone, live, thisHolder } from "./holder.ts";
import { forget, removeStale, temporary } from "./temporary.ts";

const Content = z.strictObject({
  token: z.string().regex(/^[0-9a-f]{16}$/),
  pid: z.int().min(1),
  start: z.number().nullable(),
  thread: z.int().min(0),
  host: z.string(),
  machine: z.string().nullable(),
  boot: z.string().nullable(),
  namespace: z.string().nullable(),
  /** ISO time. */
  since: z.string(),
  command: z.string(),
});
type Content = z.output<typeof Content>;

/** A lock file is written under another name and linked into place; where links are unknown it may be seen half-written this long. */
const HALF_WRITTEN_MS = 1000;
const NO_LINKS = ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK"];

export interface Lock extends AsyncDisposable {
  readonly path: string;
  release(): Promise<void>;
}

/**
 * Takes the lock `path` of `what` (for messages), waiting up to `waitMs` for who holds it.
 * @throws LockError it is held · IoError
 */
export async function takeLock(path: string, what: string, { waitMs = 0 }: { readonly waitMs?: number } = {}): Promise<Lock> {
  const { pid, start, thread, host, machine, boot, namespace } = thisHolder();
  const token = randomBytes(8).toString("hex");
  const since = new Date().toISOString();
  const mine: Content = { token, pid, start, thread, host, machine, boot, namespace, since, command: command() };
  live.add(token);
  try {
    await removeStale(path);
    const giveUp = performance.now() + waitMs;
    for (;;) {
      const other = await attempt(path, path, mine);
      if (other === null) break;
      if (performance.now() >= giveUp) throw heldBy(path, what, other);
      await sleep(5);
    }
    await removeClaims(path);
  } catch (error) {
    live.delete(token);
    throw ioError(error, `cannot lock ${what}`, { file: path });
  }
  const release = async (): Promise<void> => {
    // A lock that cannot be removed is stale: at once for this process, for others when it ends.
    if (live.has(token) && (await readLock(path).catch(() => null))?.token === token) await disk.rm(path).catch(() => undefined);
    live.delete(token);
  };
  return { path, release, [Symbol.asyncDispose]: release };
}

/** @returns null: it is ours; else who holds it */
async function attempt(path: string, lock: string, mine: Content): Promise<Content | Unknown | null> {
  for (;;) {
    if (await create(path, lock, mine)) return null;
    const other = await readLock(path);
    if (other === null) continue;
    if (other.token === null || !isGone(other, other.token)) return other;
    const claim = `${path}.${other.token}`;
    const taker = await attempt(claim, lock, mine);
    if (taker !== null) return taker;
    try {
      if ((await readLock(path))?.token !== other.token) continue;
      await write(lock, mine, (temp) => disk.rename(temp, path));
      return null;
    } finally {
      await disk.rm(claim, { force: true });
    }
  }
}

/** @returns false: there is one already */
async function create(path: string, lock: string, mine: Content): Promise<boolean> {
  return write(lock, mine, async (temp) => {
    await disk.link(temp, path).catch(async (error: NodeJS.ErrnoException) => {
      if (!NO_LINKS.includes(error.code ?? "")) throw error;
      await using file = await disk.open(path, "wx");
      await file.writeFile(JSON.stringify(mine));
      await file.sync();
    });
    await disk.rm(temp);
  }).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
      return false;
    },
  );
}

async function write(lock: string, mine: Content, place: (temp: string) => Promise<void>): Promise<void> {
  const temp = temporary(lock);
  try {
    {
      await using file = await disk.open(temp, "wx");
      await file.writeFile(`${JSON.stringify(mine)}\n`);
      await file.sync();
    }
    await place(temp);
  } catch (error) {
    await disk.rm(temp).catch(() => undefined);
    throw error;
  } finally {
    forget(temp);
  }
}

/** A file that names nobody. */
interface Unknown {
  readonly token: null;
}

/** @returns null: there is none */
async function readLock(path: string): Promise<Content | Unknown | null> {
  for (const giveUp = performance.now() + HALF_WRITTEN_MS; ; await sleep(20)) {
    const text = await disk.readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
      return null;
    });
    if (text === null) return null;
    const content = Content.safeParse(parsed(text));
    if (content.success) return content.data;
    if (performance.now() >= giveUp) return { token: null };
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Of takers that died when they had taken over. Nobody needs them: the tokens they name are no lock's any more. */
async function removeClaims(path: string): Promise<void> {
  const folder = dirname(resolve(path));
  for (const entry of await disk.readdir(folder))
    if (entry.startsWith(`${basename(path)}.`) && /^(\.[0-9a-f]{16})+$/.test(entry.slice(basename(path).length)))
      await disk.rm(join(folder, entry), { force: true });
}

function heldBy(path: string, what: string, other: Content | Unknown): LockError {
  if (other.token === null)
    return new LockError(`${what} is locked by ${path}, which does not name its holder; when nothing uses it any more, remove that file`, {
      where: { file: path },
    });
  const { pid, host, since, command, boot, namespace } = other;
  const me = thisHolder();
  const here = host === me.host && boot === me.boot && namespace === me.namespace;
  const fix = here
    ? "wait for its end, or stop it"
    : `it runs on another machine or in another container, so it cannot be checked from here; when it is certainly gone, remove ${path}`;
  return new LockError(`${what} is in use by process ${pid} on ${host} since ${since} (${command}); ${fix}`, {
    where: { file: path, pid, host, since, command },
  });
}

/** What this process was started as. */
const command = (): string => [basename(process.argv[1] ?? process.argv0), ...process.argv.slice(2)].join(" ").slice(0, 200);
