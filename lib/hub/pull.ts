// A model of the hub into the cache: which commit, which files, is there room; then several files at once, each linked into the
// commit's snapshot when it is whole. The revision is noted last, so that it never stands for a snapshot that lacks something.

import { dirname, join, relative } from "node:path";
import { IoError } from "../errors.ts";
import { makeFolder, writeFileAtomic } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { bytes } from "../format.ts";
import type { LongTask } from "../task.ts";
import { ioError, throwIfAborted } from "../task.ts";
import { fetchBlob } from "./blob.ts";
import { HubClient } from "./client.ts";
import { blobFile, isThere, knownCommit, refFile, snapshotFolder } from "./layout.ts";
import { listModel } from "./listing.ts";
import type { Listing, RemoteFile } from "./listing.ts";
import { FOLDERS, needOf, neededFirst, neededShards } from "./needed.ts";
import type { Need } from "./needed.ts";
import { isCommit, shownReference } from "./reference.ts";
import type { HubReference } from "./reference.ts";
import type { HubSettings } from "./settings.ts";

export interface PullTask extends LongTask {
  /** What is worth a line: waiting for another process, a server that had to be asked again, a disk without links. */
  readonly onNote?: ((text: string) => void) | undefined;
  /** Milliseconds before a request that failed is repeated; 1000. */
  readonly pause?: number | undefined;
}

export interface Snapshot {
  readonly dir: string;
  readonly commit: string;
}

const AT_ONCE = 4;

/**
 * Fetches what is needed and not there.
 * @throws HubUnreachable · ConfigError no such model, or not for us · LayoutError nothing that can be used, or bytes that are not those of the
 * hub · IoError no room · AbortError: what has come stays, and the same call goes on
 */
export async function pull(settings: HubSettings, asked: HubReference, need: Need, task: PullTask): Promise<Snapshot> {
  const client = await HubClient.open(settings);
  const listing = await listModel(client, asked, FOLDERS, task.signal);
  const dir = snapshotFolder(settings.cache, asked.id, listing.commit);
  const at = new Arrival(client, { id: asked.id, revision: listing.commit }, dir, listing, task);
  const paths = listing.files.map((file) => file.path);
  const as = needOf(need, paths, shownReference(asked));
  await at.fetch(neededFirst(as, paths));
  if (as === "model") await at.fetch(await neededShards(dir, paths));
  if (!isCommit(asked.revision) && (await knownCommit(settings.cache, asked)) !== listing.commit) {
    const ref = refFile(settings.cache, asked.id, asked.revision);
    await makeFolder(dirname(ref));
    await writeFileAtomic(ref, listing.commit);
  }
  return { dir, commit: listing.commit };
}

/** A snapshot that fills. */
class Arrival {
  private readonly client: HubClient;
  private readonly of: HubReference;
  private readonly dir: string;
  private readonly listing: Listing;
  private readonly task: PullTask;
  private warned = false;

  constructor(client: HubClient, of: HubReference, dir: string, listing: Listing, task: PullTask) {
    this.client = client;
    this.of = of;
    this.dir = dir;
    this.listing = listing;
    this.task = task;
  }

  async fetch(paths: readonly string[]): Promise<void> {
    const { signal } = this.task;
    const missing: RemoteFile[] = [];
    for (const path of paths) {
      const file = this.listing.files.find((f) => f.path === path);
      if (file === undefined)
        throw new IoError(`${shownReference(this.of)}: its index names ${path}, and the hub has no such file`, { where: { file: path } });
      // Without links, and in caches of other programs, the file itself lies here.
      if (!(await isThere(join(this.dir, path), file.bytes))) missing.push(file);
    }
    if (missing.length === 0) return;
    const arrived = await this.requireRoom(missing);
    const total = missing.reduce((sum, file) => sum + file.bytes, 0);
    const tell = (): void => {
      const done = [...arrived.values()].reduce((sum, n) => sum + n, 0);
      this.task.onProgress?.({ phase: "download", done, total, unit: "bytes" });
    };
    tell();
    const stop = new AbortController();
    const all = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
    const queue = [...missing];
    const worker = async (): Promise<void> => {
      for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
        const { path, hash } = file;
        const blob = await fetchBlob(this.client, this.of, file, {
          signal: all,
          pause: this.task.pause,
          onNote: (text) => this.task.onNote?.(text),
          onBytes: (n) => {
            arrived.set(hash, n);
            tell();
          },
        });
        await this.link(blob, path);
      }
    };
    // The first fault is told once the others have stopped: what they have is on disk then.
    let failure: unknown = null;
    const fail = (error: unknown): void => {
      failure ??= { error };
      stop.abort();
    };
    await Promise.all(Array.from({ length: AT_ONCE }, () => worker().catch(fail)));
    throwIfAborted(signal, `fetching ${shownReference(this.of)}`);
    if (failure !== null) throw (failure as { readonly error: unknown }).error;
  }

  /** @returns hash → bytes that are there already @throws IoError the rest does not fit */
  private async requireRoom(files: readonly RemoteFile[]): Promise<Map<string, number>> {
    const { cache } = this.client.settings;
    const arrived = new Map<string, number>();
    for (const { hash, bytes: size } of files) {
      const blob = blobFile(cache, this.of.id, hash);
      const part = await disk.stat(`${blob}.incomplete`).then(({ size: n }) => n, () => 0); // prettier-ignore
      arrived.set(hash, (await isThere(blob, size)) ? size : Math.min(part, size));
    }
    const left = files.reduce((sum, file) => sum + file.bytes - arrived.get(file.hash)!, 0);
    await makeFolder(cache);
    const free = await disk.statfs(cache).then((s) => s.bavail * s.bsize, () => Infinity); // prettier-ignore
    if (left > free)
      throw new IoError(
        `${shownReference(this.of)} needs ${bytes(left)} more below ${cache}, where ${bytes(free)} are free; free some space, or set HF_HOME to a folder on another disk`,
        { where: { file: cache, errno: "ENOSPC", neededBytes: left, freeBytes: free } },
      );
    return arrived;
  }

  /** The snapshot's name for a blob. Where the file system knows no links the blob itself moves there, as Python's library does it. */
  private async link(blob: string, path: string): Promise<void> {
    const name = join(this.dir, path);
    await makeFolder(dirname(name));
    try {
      await disk.symlink(relative(dirname(name), blob), name);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EEXIST" && (await isThere(name))) return; // by another process
      if (code === "EEXIST") {
        await disk.rm(name, { force: true }); // a link to a blob that was removed
        return this.link(blob, path);
      }
      if (!["EPERM", "EACCES", "ENOSYS", "ENOTSUP", "EOPNOTSUPP"].includes(code ?? ""))
        throw ioError(error, `cannot write ${name}`, { file: name });
      if (!this.warned)
        this.task.onNote?.(
          `${dirname(name)}: no links can be made there (${code}); files lie in the snapshot itself, each version with a copy of its own`,
        );
      this.warned = true;
      await disk.rename(blob, name);
    }
  }
}
