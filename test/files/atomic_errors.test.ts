// What writers say when the system fails them, and what they take for no failure: full disks, files in the way, races. No GPU.
// Run alone: npx vitest run test/files/atomic_errors.test.ts
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, expect, it } from "vitest";
import { ConfigError, type IoError } from "../../lib/errors.ts";
import { finishDirectory, finishGroup, makeFolder, requireSpace, writeDirectoryAtomic, writeFileAtomic, writeGroupAtomic } from "../../lib/files/atomic.ts"; // prettier-ignore
import type { Disk } from "../../lib/files/disk.ts";
import { replaceDisk } from "../../lib/files/disk.ts";
import { takeLock } from "../../lib/files/lock.ts";
import { FaultyDisk, withoutFsync } from "../support/faulty_disk.ts";
import { tempDir } from "../support/fixture.ts";

withoutFsync();
const root = tempDir();
const fresh = () => mkdtempSync(join(root, "t-"));
const { disk } = new FaultyDisk();
const errno = (code: string) => Promise.reject(Object.assign(new Error(`${code}: planted`), { code }));

/** Does `work` on a disk some of whose operations are others. */
async function on<T>(changes: Partial<Disk>, work: () => Promise<T>): Promise<T> {
  const before = replaceDisk({ ...disk, ...changes });
  try {
    return await work();
  } finally {
    replaceDisk(before);
  }
}
const failure = async (work: Promise<unknown>): Promise<IoError> => (await work.catch((e: unknown) => e)) as IoError;
const free = (bytes: number) => (async () => ({ bavail: bytes / 512, bsize: 512 })) as unknown as Disk["statfs"];

describe("a disk that is full", () => {
  it("is refused before the first byte when the file system says so, to the byte", async () => {
    const dir = fresh();
    await on({ statfs: free(1024) }, async () => {
      await requireSpace(dir, 1024);
      const error = await failure(requireSpace(dir, 1025));
      expect(error).toMatchObject({ code: "ERR_IO", where: { file: dir, errno: "ENOSPC", neededBytes: 1025, freeBytes: 1024 } });
      expect(error.message).toBe(`cannot write ${dir}: the disk is full: needs 1025 bytes, 1024 bytes free; nothing was left behind. Free some space or choose another folder`); // prettier-ignore
      expect((await failure(writeFileAtomic(join(dir, "f"), "x".repeat(1025)))).where["neededBytes"]).toBe(1025);
      expect((await failure(writeFileAtomic(join(dir, "f"), new Uint8Array(1026)))).where["neededBytes"]).toBe(1026);
      expect((await failure(writeFileAtomic(join(dir, "f"), "x", { bytes: 2000 }))).where["neededBytes"]).toBe(2000);
      mkdirSync(join(dir, "g"));
      writeFileSync(join(dir, "g", "other"), "");
      expect((await failure(writeGroupAtomic(join(dir, "g"), "g", async () => undefined, { bytes: 3000 }))).where["neededBytes"]).toBe(3000); // prettier-ignore
    });
    expect(readdirSync(dir)).toEqual(["g"]);
  });

  it("says what it does not know", async () => {
    async function* stream(): AsyncGenerator<Uint8Array> {
      yield new Uint8Array(4);
    }
    const write: Partial<Disk> = { open: async () => ({ write: () => errno("ENOSPC"), close: async () => undefined }) as never, statfs: () => errno("ENOSYS") as never }; // prettier-ignore
    const error = await on(write, () => failure(writeFileAtomic(join(fresh(), "f"), stream())));
    expect(error.message).toContain("the disk is full: needs an unknown number of bytes, an unknown number of bytes free;");
    expect(error.where).toMatchObject({ errno: "ENOSPC" });
  });
});

describe("a folder that cannot be made", () => {
  it("says why: a file in its place or above it, an error of the system", async () => {
    const dir = fresh();
    writeFileSync(join(dir, "file"), "");
    for (const [path, why, code] of [
      ["file", "it is a file", "EEXIST"],
      ["file/x", "a part of the path is not a directory", "ENOTDIR"],
      ["file/x/y", "a part of the path is not a directory", "ENOTDIR"],
    ] as const) {
      const error = await failure(makeFolder(join(dir, path)));
      expect(error).toMatchObject({ code: "ERR_IO", message: `cannot make the folder ${join(dir, path)}: ${why}`, where: { file: join(dir, path), errno: code } }); // prettier-ignore
    }
    await expect(makeFolder("")).rejects.toBeInstanceOf(ConfigError);
    await expect(makeFolder("")).rejects.toThrow(/^folder: expected a path/);
    expect(await makeFolder(relative(process.cwd(), join(dir, "x/y")))).toBe(join(dir, "x"));
    await expect(on({ mkdir: (() => errno("EACCES")) as never }, () => makeFolder(join(dir, "a/b")))).rejects.toThrow(/permission denied/);
    // where nothing can be made at all (/proc), it ends
    await expect(on({ mkdir: (() => errno("ENOENT")) as never }, () => makeFolder(join(dir, "a/b")))).rejects.toThrow(/no such file/);
  });

  it("may be made by another meanwhile", async () => {
    const dir = fresh();
    const meanwhile = (code: string): Disk["mkdir"] =>
      (async (path: string) => {
        if (!existsSync(join(path, ".."))) return errno("ENOENT");
        mkdirSync(path);
        return path.endsWith("b") ? errno(code) : undefined;
      }) as Disk["mkdir"];
    expect(await on({ mkdir: meanwhile("EEXIST") }, () => makeFolder(join(dir, "a/b")))).toBe(join(dir, "a"));
    expect(await on({ mkdir: meanwhile("EEXIST") }, () => makeFolder(join(dir, "a/b")).catch(() => "no"))).toBeNull();
    await expect(on({ mkdir: meanwhile("EIO") }, () => makeFolder(join(dir, "c/b")))).rejects.toThrow(/EIO: planted/);
  });
});

describe("a writer that fails", () => {
  it("names what it could not write, whatever was thrown", async () => {
    const dir = fresh();
    writeFileSync(join(dir, "there"), "");
    const file = join(dir, "absent", "f");
    expect(await failure(writeFileAtomic(file, "x"))).toMatchObject({ message: `cannot write ${file}: no such file or directory`, where: { file, errno: "ENOENT" } }); // prettier-ignore
    for (const thrown of [null, "words", new Error("words")]) {
      const fill = async (): Promise<void> => { throw thrown; }; // prettier-ignore
      const why = thrown === null ? "null" : "words";
      const made = join(dir, "new");
      expect(await failure(writeDirectoryAtomic(made, fill))).toMatchObject({ message: `cannot write ${made}: ${why}`, where: { file: made } }); // prettier-ignore
      expect(await failure(writeGroupAtomic(dir, "g", fill))).toMatchObject({
        message: `cannot write ${dir}: ${why}`,
        where: { file: dir },
      });
    }
    expect(readdirSync(dir)).toEqual(["there"]);
    for (const [work, what, place] of [
      [() => finishDirectory(join(dir, "d")), `the interrupted save of ${join(dir, "d")}`, join(dir, "d")],
      [() => finishGroup(dir, "g"), `the interrupted save in ${dir}`, dir],
    ] as const) {
      const error = await on({ readdir: (() => errno("EIO")) as never }, () => failure(work()));
      expect(error).toMatchObject({ code: "ERR_IO", message: `cannot complete ${what}: EIO: planted`, where: { file: place } });
    }
    const unreadable = await on({ readdir: (() => errno("EIO")) as never }, () =>
      failure(writeGroupAtomic(dir, "g", async () => undefined)),
    );
    expect(unreadable).toMatchObject({ message: `cannot write ${dir}: EIO: planted`, where: { file: dir } });
  });

  it("finishes nothing below a file, and makes the folder of a group that is not there", async () => {
    const dir = fresh();
    writeFileSync(join(dir, "file"), "");
    await finishDirectory(join(dir, "file", "x"));
    await finishGroup(join(dir, "file"), "g");
    await writeGroupAtomic(join(dir, "new"), "g", async (t) => writeFileSync(join(t, "a"), "1"));
    expect(readdirSync(join(dir, "new"))).toEqual(["a"]);
  });

  it("waits for another one that is putting the same files in place", async () => {
    const dir = fresh();
    for (const [next, lock, finish] of [
      [".d.next", ".d.lock", () => finishDirectory(join(dir, "d"))],
      [".g.next", ".g.lock", () => finishGroup(dir, "g")],
    ] as const) {
      mkdirSync(join(dir, next));
      const other = await takeLock(join(dir, lock), "it");
      const finished = finish();
      await new Promise((done) => setTimeout(done, 20));
      await other.release();
      await finished;
      expect(readdirSync(dir)).toEqual(["d"]);
    }
  });

  it("finds another one's folder in its place", async () => {
    for (const code of ["ENOTEMPTY", "EEXIST"]) {
      const dir = join(fresh(), "out");
      const rename: Disk["rename"] = (from, to) => (to === dir ? errno(code) : disk.rename(from, to));
      const error = await on({ rename }, () => failure(writeDirectoryAtomic(dir, async () => undefined)));
      expect(error).toMatchObject({ message: `${dir} already exists and is not empty; choose another folder or ask to overwrite it`, where: { file: dir } }); // prettier-ignore
      expect(readdirSync(join(dir, ".."))).toEqual([]);
    }
    const other = join(fresh(), "out");
    const rmdir: Disk["rmdir"] = () => errno("EBUSY");
    await expect(on({ rmdir }, () => writeDirectoryAtomic(other, async () => undefined))).rejects.toThrow(/EBUSY/);
  });

  it("puts the old folder back when the new one cannot take its place", async () => {
    const dir = join(fresh(), "out");
    await writeDirectoryAtomic(dir, async (t) => writeFileSync(join(t, "a"), "old"));
    const rename: Disk["rename"] = (from, to) => (to === dir && String(from).endsWith(".next") ? errno("EIO") : disk.rename(from, to));
    const again = () => writeDirectoryAtomic(dir, async (t) => writeFileSync(join(t, "a"), "new"), { replace: true });
    await expect(on({ rename }, again)).rejects.toThrow(/EIO: planted/);
    expect(readFileSync(join(dir, "a"), "utf8")).toBe("old");
    await finishDirectory(dir); // what was committed is whole
    expect(readFileSync(join(dir, "a"), "utf8")).toBe("new");
    expect(readdirSync(join(dir, ".."))).toEqual(["out"]);
    const stuck: Disk["rename"] = (from, to) => (from === dir ? errno("EBUSY") : disk.rename(from, to));
    await expect(on({ rename: stuck }, again)).rejects.toThrow(/EBUSY/);
    expect(readFileSync(join(dir, "a"), "utf8")).toBe("new");
  });
});
