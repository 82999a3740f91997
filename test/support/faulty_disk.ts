// A disk that fails once, at the operation one names: the process dies before or after it, a write is short, the power goes, the disk
// is full or broken. "Dying" is within this process: from then on every call of the disk fails, so that no clean-up runs.

import * as fs from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { join, relative, resolve } from "node:path";
import type { Disk } from "../../lib/files/disk.ts";
import { afterAll, beforeAll } from "vitest";
import { replaceDisk } from "../../lib/files/disk.ts";

export const FAULTS = ["die before", "die after", "power cut", "torn write", "short write", "ENOSPC", "EIO"] as const;
export type Fault = (typeof FAULTS)[number];

/** What a killed process does: nothing any more. */
export class Died extends Error {}

interface Operation {
  readonly name: string;
  readonly path: string;
}

export class FaultyDisk {
  /** What was done: operation and path. */
  readonly log: Operation[] = [];
  /** The fault was met. */
  reached = false;
  private count = 0;
  private dead = false;
  private full = false;
  /** Files whose bytes no fsync has made durable yet. */
  private readonly unsynced = new Set<string>();
  private readonly at: number;
  private readonly fault: Fault | null;

  /** @param at number of the operation that fails, from 0; of writes alone for "torn write" and "short write" */
  constructor(at = -1, fault: Fault | null = null) {
    this.at = at;
    this.fault = fault;
  }

  /** Runs `work` on this disk, and gives the real one back. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    const before = replaceDisk(this.disk);
    try {
      return await work();
    } finally {
      replaceDisk(before);
    }
  }

  private async operation<T>(name: string, path: string, run: () => Promise<T>): Promise<T> {
    if (this.dead) throw new Died();
    const { fault } = this;
    const full = resolve(path);
    if (fault === "torn write" || fault === "short write" || this.count++ !== this.at) {
      if (this.full && ["write", "mkdir", "open", "link", "copyFile", "appendFile"].includes(name)) throw errno("ENOSPC");
      const result = await run();
      this.log.push({ name, path: full });
      return result;
    }
    this.reached = true;
    if (fault === "EIO") throw errno("EIO");
    if (fault === "ENOSPC") {
      this.full = true;
      throw errno("ENOSPC");
    }
    if (fault !== "die before") await run();
    if (fault === "power cut") for (const file of this.unsynced) await fs.truncate(file, 0).catch(() => undefined);
    this.dead = true;
    throw new Died();
  }

  /** A write of a file: torn, it moves half of its bytes and the process dies; short, it says so and goes on. */
  private async write(
    file: FileHandle,
    path: string,
    bytes: Uint8Array,
    at: number,
    length: number,
    position?: number,
  ): Promise<{ bytesWritten: number }> {
    this.unsynced.add(path);
    const halved = this.fault === "torn write" || this.fault === "short write";
    if (!halved || this.dead || length < 2 || this.count++ !== this.at)
      return this.operation("write", path, () => file.write(bytes, at, length, position));
    this.reached = true;
    const written = await file.write(bytes, at, length >> 1, position);
    if (this.fault === "short write") return written;
    this.dead = true;
    throw new Died();
  }

  private read<T>(run: () => Promise<T>): Promise<T> {
    return this.dead ? Promise.reject(new Died()) : run();
  }

  private handle(file: FileHandle, path: string): FileHandle {
    const own: Partial<FileHandle> = {
      write: ((bytes: Uint8Array, at: number, length: number, position?: number) =>
        this.write(file, path, bytes, at, length, position)) as FileHandle["write"],
      truncate: (length) => this.operation("truncate", path, () => file.truncate(length)),
      writeFile: async (text) => {
        const bytes = Buffer.from(text as string);
        for (let at = 0; at < bytes.length;) at += (await this.write(file, path, bytes, at, bytes.length - at)).bytesWritten;
      },
      sync: async () => {
        await this.operation("fsync", path, async () => undefined); // what it is for is `unsynced`
        this.unsynced.delete(path);
      },
      close: () => file.close(), // the system does that for the dead
      [Symbol.asyncDispose]: () => file.close(),
    };
    return own as FileHandle;
  }

  private moved(from: string, to: string): void {
    for (const file of this.unsynced) {
      const inner = relative(from, file);
      if (inner.startsWith("..")) continue;
      this.unsynced.delete(file);
      this.unsynced.add(join(to, inner));
    }
  }

  readonly disk: Disk = {
    appendFile: (path, data) => this.operation("appendFile", String(path), () => fs.appendFile(path, data)),
    copyFile: (from, to) => {
      this.unsynced.add(resolve(String(to)));
      return this.operation("copyFile", String(to), () => fs.copyFile(from, to));
    },
    link: (from, to) => this.operation("link", String(to), () => fs.link(from, to)),
    mkdir: ((path: string, options: object) => this.operation("mkdir", path, () => fs.mkdir(path, options))) as Disk["mkdir"],
    open: async (path, flags) => {
      const full = resolve(String(path));
      let file: FileHandle | null = null;
      const open = async (): Promise<FileHandle> => (file = await fs.open(path, flags));
      return this.handle(
        await (flags === "r" ? this.read(open) : this.operation("open", full, open)).catch(async (error: unknown) => {
          await file?.close(); // of the dead
          throw error;
        }),
        full,
      );
    },
    readdir: ((path: string, options: object) => this.read(() => fs.readdir(path, options))) as Disk["readdir"],
    readFile: ((path: string, options: "utf8") => this.read(() => fs.readFile(path, options))) as Disk["readFile"],
    rename: (from, to) =>
      this.operation("rename", String(to), async () => {
        await fs.rename(from, to);
        this.moved(resolve(String(from)), resolve(String(to)));
      }),
    rm: (path, options) => this.operation("rm", String(path), () => fs.rm(path, options)),
    rmdir: (path) => this.operation("rmdir", String(path), () => fs.rmdir(path)),
    stat: ((path: string) => this.read(() => fs.stat(path))) as Disk["stat"],
    statfs: ((path: string) => this.read(() => fs.statfs(path))) as Disk["statfs"],
    symlink: (to, path) => this.operation("symlink", String(path), () => fs.symlink(to, path)),
  };
}

/** All tests of the file on a disk that makes nothing durable: they are about order and completeness, not about power. */
export function withoutFsync(): void {
  let before: Disk | null = null;
  beforeAll(() => void (before = replaceDisk(new FaultyDisk().disk)));
  afterAll(() => void (before && replaceDisk(before)));
}

const errno = (code: string): Error => Object.assign(new Error(`${code}: planted`), { code });

/**
 * Plants `fault` at operation 0, 1, 2 … (every `stride`-th, from `first`) of `work` until it ends without meeting it. Each time
 * `arrange` makes the old state, `judge` looks at what is left.
 * @returns how many points there were
 */
export async function everyPoint(
  fault: Fault,
  arrange: () => Promise<void>,
  work: () => Promise<unknown>,
  judge: (point: string, error: unknown) => Promise<void>,
  { first = 0, stride = 1 } = {},
): Promise<number> {
  for (let at = first, points = 0; ; at += stride, points++) {
    await arrange();
    const faulty = new FaultyDisk(at, fault);
    const error: unknown = await faulty.during(work).then(
      () => null,
      (e: unknown) => e ?? new Error("rejected with nothing"),
    );
    if (!faulty.reached) {
      if (error !== null) throw error;
      return points;
    }
    await judge(`${fault} at operation ${at}`, error);
  }
}

/** Names of temporary entries, commit points and locks below a folder. */
export async function leftovers(dir: string): Promise<string[]> {
  const names = await fs.readdir(dir, { recursive: true });
  return names.filter((n) => /(^|\/)\.[^/]*(\.tmp-|\.next$|\.lock$)|run\.lock/.test(n)).sort();
}
