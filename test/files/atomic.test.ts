// Files that are there completely or not at all: a fault at every operation of the disk leaves the old state or the new one, what is
// renamed is durable before, writers of one target end in the work of one of them. No GPU. Alone: npx vitest run test/files/atomic.test.ts

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, describe, expect, it, vi } from "vitest";
import { IoError } from "../../lib/errors.ts";
import {
  finishDirectory,
  finishGroup,
  makeFolder,
  requireSpace,
  writeDirectoryAtomic,
  writeFileAtomic,
  writeGroupAtomic,
} from "../../lib/files/atomic.ts";
import { replaceDisk } from "../../lib/files/disk.ts";
import { copyRegular } from "../../lib/files/regular.ts";
import { everyPoint, FAULTS, FaultyDisk, leftovers, withoutFsync } from "../support/faulty_disk.ts";
import type { Fault } from "../support/faulty_disk.ts";

withoutFsync();
const root = mkdtempSync(join(tmpdir(), "esft-atomic-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const fresh = (): string => mkdtempSync(join(root, "t"));

/** Two files whose contents tell their age. */
const fill =
  (age: string) =>
  async (temp: string): Promise<void> => {
    await writeFileAtomic(join(temp, "a"), `a ${age}`);
    await writeFileAtomic(join(temp, "z"), `z ${age}`);
  };
const ages = (dir: string): string => (existsSync(dir) ? ["a", "z"].map((n) => readFileSync(join(dir, n), "utf8")).join(", ") : "absent");
const OLD = "a old, z old";
const NEW = "a new, z new";

interface Case {
  readonly before: string;
  arrange(dir: string): Promise<void>;
  write(dir: string, age: string): Promise<void>;
  recover(dir: string): Promise<void>;
}
const asDirectory: Omit<Case, "before" | "arrange"> = {
  write: (dir, age) => writeDirectoryAtomic(join(dir, "t"), fill(age), { replace: true }),
  recover: async (dir) => (existsSync(join(dir, "t")) ? undefined : finishDirectory(join(dir, "t"))),
};
const cases: Record<string, Case> = {
  "a directory that is new": { ...asDirectory, before: "absent", arrange: async () => undefined },
  "a directory in the place of another": { ...asDirectory, before: OLD, arrange: (dir) => asDirectory.write(dir, "old") },
  "a group of files": {
    before: OLD,
    arrange: async (dir) => {
      await fill("old")(join(dir, "t"));
      writeFileSync(join(dir, "t", "other"), "kept");
      writeFileSync(join(dir, "t", "owned"), "");
    },
    write: (dir, age) => writeGroupAtomic(join(dir, "t"), "g", fill(age), { owned: (n) => n === "owned" }),
    recover: (dir) => finishGroup(join(dir, "t"), "g"),
  },
};

describe.each(Object.keys(cases))("%s", (name) => {
  const { before, arrange, write, recover } = cases[name]!;
  const setUp = async (dir: string): Promise<void> => {
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(join(dir, ...(before === OLD && name.includes("group") ? ["t"] : [])), { recursive: true });
    await arrange(dir);
  };
  const done = async (dir: string, point: string): Promise<void> => {
    await write(dir, "new");
    expect(ages(join(dir, "t")), point).toBe(NEW);
    expect(await leftovers(dir), point).toEqual([]);
    if (name.includes("group")) expect(readdirSync(join(dir, "t")).sort(), point).toEqual(["a", "other", "z"]);
  };

  it.each(FAULTS)("ends in old or new: %s", async (fault) => {
    const dir = fresh();
    const points = await everyPoint(
      fault,
      () => setUp(dir),
      () => write(dir, "new"),
      async (point, error) => {
        await recover(dir);
        const found = ages(join(dir, "t"));
        expect([before, NEW], point).toContain(found);
        if (error === null) expect(found, point).toBe(NEW);
        await done(dir, point);
      },
    );
    expect(points).toBeGreaterThan(fault.endsWith("write") ? 1 : 15);
  });

  it("recovers when the recovery dies too", async () => {
    const dir = fresh();
    let at = 0;
    const first = async (): Promise<void> => {
      await setUp(dir);
      await new FaultyDisk(at, "die after").during(() => write(dir, "new")).catch(() => undefined);
    };
    for (const reached = { here: true }; reached.here; at++) {
      await everyPoint("die before", first, () => recover(dir), async (point) => {
        await recover(dir);
        expect([before, NEW], `${at}, ${point}`).toContain(ages(join(dir, "t")));
        await done(dir, point);
      }); // prettier-ignore
      await setUp(dir);
      const probe = new FaultyDisk(at, "die after");
      await probe.during(() => write(dir, "new")).catch(() => undefined);
      reached.here = probe.reached;
    }
    expect(at).toBeGreaterThan(15);
  });

  it("what is renamed was synced before, and its folder after", async () => {
    const dir = fresh();
    await setUp(dir);
    const recording = new FaultyDisk();
    await recording.during(() => write(dir, "new"));
    requireDurable(recording);
  });
});

/** Every byte is synced before the next rename; the folder of the last rename before the end, of a commit point before other renames. */
function requireDurable({ log }: FaultyDisk): void {
  let [renames, unsyncedFolder, commit] = [0, null as string | null, ""];
  const dirty = new Set<string>();
  for (const { name, path } of log) {
    if (name === "write" || name === "copyFile") dirty.add(path);
    if (name === "fsync") dirty.delete(path);
    if (name === "fsync" && path === unsyncedFolder) unsyncedFolder = null;
    if (name !== "rename") continue;
    renames++;
    if (unsyncedFolder !== null) expect(commit, `before the rename to ${path}`).not.toMatch(/\.next$/);
    commit = path;
    expect([...dirty], `before the rename to ${path}`).toEqual([]);
    const folder = join(path, "..");
    if (!/\.tmp-/.test(basename(path))) unsyncedFolder = folder;
  }
  expect(renames).toBeGreaterThan(0);
  expect(unsyncedFolder).toBeNull();
}

describe("one file", () => {
  it.each(FAULTS)("ends in old or new: %s", async (fault: Fault) => {
    const dir = fresh();
    const path = join(dir, "f");
    const text = (age: string): string => `${age} `.repeat(100);
    const points = await everyPoint(
      fault,
      async () => writeFileSync(path, text("old")),
      () => writeFileAtomic(path, text("new")),
      async (point, error) => {
        expect([text("old"), text("new")], point).toContain(readFileSync(path, "utf8"));
        if (error === null) expect(readFileSync(path, "utf8")).toBe(text("new"));
        if (fault === "EIO" || fault === "ENOSPC") expect(error, point).toBeInstanceOf(IoError);
        await writeFileAtomic(path, "third");
        expect(readdirSync(dir), point).toEqual(["f"]);
      },
    );
    expect(points).toBe(fault.endsWith("write") ? 1 : 5); // open, write, fsync, rename, fsync of the folder
  });

  it("is synced before it is renamed, its folder after", async () => {
    const recording = new FaultyDisk();
    const path = join(fresh(), "f");
    await recording.during(() => writeFileAtomic(path, "x"));
    requireDurable(recording);
    expect(recording.log.map((o) => o.name)).toEqual(["open", "write", "fsync", "rename", "fsync"]);
  });

  it("streams, in pieces of any size", async () => {
    const path = join(fresh(), "f");
    async function* pieces(): AsyncGenerator<Uint8Array> {
      for (const text of ["one ", "", "two"]) yield Buffer.from(text);
    }
    await writeFileAtomic(path, pieces());
    expect(readFileSync(path, "utf8")).toBe("one two");
    await writeFileAtomic(path, Uint8Array.of(104, 105));
    expect(readFileSync(path, "utf8")).toBe("hi");
  });

  it("a full disk says how much is needed and free; what fails otherwise says what", async () => {
    const dir = fresh();
    const space = 10 ** 18;
    const needed = new RegExp(`cannot write .*: the disk is full: needs ${space} bytes, \\d+ bytes free`);
    await expect(writeFileAtomic(join(dir, "f"), "x", { bytes: space })).rejects.toThrow(needed);
    await expect(writeDirectoryAtomic(join(dir, "d"), async () => undefined, { bytes: space })).rejects.toThrow(needed);
    await expect(requireSpace(dir, space)).rejects.toMatchObject({ code: "ERR_IO", where: { neededBytes: space, errno: "ENOSPC" } });
    await requireSpace(dir, undefined);
    await requireSpace(dir, 1);
    await requireSpace(join(dir, "absent"), space); // what cannot be asked is not refused
    const failing = (code: string) => ({
      ...new FaultyDisk().disk,
      open: () => Promise.reject(Object.assign(new Error(code), { code })),
    });
    for (const [code, words] of [
      ["EDQUOT", /quota is used up: needs 1 bytes, \d+ bytes free/],
      ["EFBIG", /size limit/],
      ["EACCES", /permission denied/],
    ] as const) {
      const before = replaceDisk(failing(code));
      try {
        await expect(writeFileAtomic(join(dir, "f"), "x")).rejects.toThrow(words);
      } finally {
        replaceDisk(before);
      }
    }
    expect(readdirSync(dir)).toEqual([]);
  });
});

describe("folders", () => {
  it("are made with those above them, each synced in its parent", async () => {
    const dir = fresh();
    const recording = new FaultyDisk();
    expect(await recording.during(() => makeFolder(join(dir, "x/y/z")))).toBe(join(dir, "x"));
    const synced = recording.log.filter((o) => o.name === "fsync").map((o) => o.path);
    expect(synced.sort()).toEqual([dir, join(dir, "x"), join(dir, "x/y")].sort());
    expect(await makeFolder(join(dir, "x/y"))).toBeNull();
    writeFileSync(join(dir, "file"), "");
    await expect(makeFolder(join(dir, "file/x"))).rejects.toBeInstanceOf(IoError);
    await expect(makeFolder(join(dir, "file"))).rejects.toBeInstanceOf(IoError);
  });

  it("cannot be synced everywhere: that alone is no error, anything else is", async () => {
    for (const [code, ok] of [
      ["EINVAL", true],
      ["EISDIR", true],
      ["EPERM", true],
      ["ENOTSUP", true],
      ["EACCES", true],
      ["EIO", false],
    ] as const) {
      const dir = fresh();
      const { disk } = new FaultyDisk();
      const open: typeof disk.open = (path, flags) =>
        path === dir ? Promise.reject(Object.assign(new Error(code), { code })) : disk.open(path, flags);
      const before = replaceDisk({ ...disk, open });
      try {
        const write = writeFileAtomic(join(dir, "f"), "x");
        await (ok ? write : expect(write).rejects.toBeInstanceOf(IoError));
      } finally {
        replaceDisk(before);
      }
      expect(readFileSync(join(dir, "f"), "utf8")).toBe("x");
    }
  });
});

describe("a directory", () => {
  it("appears complete or not at all, and is replaced only on request", async () => {
    const dir = join(fresh(), "out");
    await expect(writeDirectoryAtomic(dir, async (t) => { writeFileSync(join(t, "a"), "1"); throw new Error("boom"); })).rejects.toThrow(/boom/); // prettier-ignore
    expect(readdirSync(join(dir, ".."))).toEqual([]);
    expect(await writeDirectoryAtomic(dir, async (t) => { writeFileSync(join(t, "a"), "1"); return 7; })).toBe(7); // prettier-ignore
    const unasked = vi.fn(async () => undefined);
    await expect(writeDirectoryAtomic(dir, unasked)).rejects.toThrow(/not empty/);
    expect(unasked).not.toHaveBeenCalled();
    await writeDirectoryAtomic(dir, async (t) => writeFileSync(join(t, "b"), "2"), { replace: true });
    expect(readdirSync(dir)).toEqual(["b"]);
    expect(readdirSync(join(dir, ".."))).toEqual(["out"]);
  });

  it("takes the place of an empty one, and of one that appeared meanwhile only on request", async () => {
    const dir = join(fresh(), "out");
    mkdirSync(dir);
    await writeDirectoryAtomic(dir, fill("new"));
    expect(ages(dir)).toBe(NEW);
    for (const replace of [false, true]) {
      rmSync(dir, { recursive: true });
      const meanwhile = writeDirectoryAtomic(dir, async (t) => { await fill("new")(t); await fill("old")(mkdirs(dir)); }, { replace }); // prettier-ignore
      await (replace ? meanwhile : expect(meanwhile).rejects.toThrow(/already exists and is not empty/));
      expect(ages(dir)).toBe(replace ? NEW : OLD);
      expect(await leftovers(join(dir, ".."))).toEqual([]);
    }
  });
  const mkdirs = (dir: string): string => (mkdirSync(dir, { recursive: true }), dir);

  it("written by several at once is one of theirs, whole", async () => {
    const parent = fresh();
    const dir = join(parent, "out");
    for (let round = 0; round < 10; round++) {
      const names = ["one", "two", "three", "four"];
      await Promise.all(names.map((n) => writeDirectoryAtomic(dir, fill(n), { replace: true })));
      expect(names.map((n) => `a ${n}, z ${n}`)).toContain(ages(dir));
      expect(await leftovers(parent)).toEqual([]);
      rmSync(dir, { recursive: true });
      const ended = await Promise.allSettled(names.map((n) => writeDirectoryAtomic(dir, fill(n))));
      expect(ended.filter((e) => e.status === "fulfilled").length).toBe(1);
      for (const e of ended) if (e.status === "rejected") expect(e.reason).toBeInstanceOf(IoError);
      expect(names.map((n) => `a ${n}, z ${n}`)).toContain(ages(dir));
      expect(await leftovers(parent)).toEqual([]);
    }
  });

  it("whose swap fails is the old one", async () => {
    const dir = join(fresh(), "out");
    await writeDirectoryAtomic(dir, fill("old"));
    const { disk } = new FaultyDisk();
    let failed = 0;
    const rename: typeof disk.rename = async (from, to) => {
      if (to === dir && String(from).endsWith(".next")) {
        failed++;
        throw Object.assign(new Error("EIO"), { code: "EIO" });
      }
      return disk.rename(from, to);
    };
    const before = replaceDisk({ ...disk, rename });
    await expect(writeDirectoryAtomic(dir, fill("new"), { replace: true }).finally(() => replaceDisk(before))).rejects.toThrow(IoError);
    expect(failed).toBe(1);
    expect(ages(dir)).toBe(OLD); // though nobody has recovered anything
  });
});

describe("a group", () => {
  it("joins a folder as one; what it owns and does not write any more goes", async () => {
    const dir = fresh();
    writeFileSync(join(dir, "events.jsonl"), "kept");
    await writeGroupAtomic(dir, "g", async (t) => { writeFileSync(join(t, "a1"), "1"); writeFileSync(join(t, "z"), "1"); }); // prettier-ignore
    const result = await writeGroupAtomic(dir, "g", async (t) => { writeFileSync(join(t, "a2"), "2"); writeFileSync(join(t, "z"), "2"); return 5; }, { owned: (n) => n.startsWith("a") }); // prettier-ignore
    expect(result).toBe(5);
    expect(readdirSync(dir).sort()).toEqual(["a2", "events.jsonl", "z"]);
    // A failure before the commit point changes nothing:
    await expect(writeGroupAtomic(dir, "g", async (t) => { writeFileSync(join(t, "z"), "4"); throw new Error("boom"); })).rejects.toThrow(/boom/); // prettier-ignore
    expect(readFileSync(join(dir, "z"), "utf8")).toBe("2");
    expect(readdirSync(dir).sort()).toEqual(["a2", "events.jsonl", "z"]);
  });

  it("that was committed and not finished is finished by the next reader or writer", async () => {
    for (const finish of [finishGroup, (dir: string) => writeGroupAtomic(dir, "g", async (t) => writeFileSync(join(t, "b"), "new"))]) {
      const dir = fresh();
      writeFileSync(join(dir, "z"), "old");
      mkdirSync(join(dir, ".g.next"));
      writeFileSync(join(dir, ".g.next", "z"), "new");
      await finish(dir, "g");
      expect(readFileSync(join(dir, "z"), "utf8")).toBe("new");
      expect(await leftovers(dir)).toEqual([]);
    }
  });

  it("is finished by several at once, and there is nothing to do where nothing is or nothing was interrupted", async () => {
    for (let round = 0; round < 20; round++) {
      const dir = fresh();
      mkdirSync(join(dir, ".g.next"));
      for (let i = 0; i < 5; i++) writeFileSync(join(dir, ".g.next", `f${i}`), "new");
      await Promise.all(Array.from({ length: 4 }, () => finishGroup(dir, "g")));
      expect(readdirSync(dir)).toEqual(["f0", "f1", "f2", "f3", "f4"]);
    }
    const nothing = new FaultyDisk();
    await nothing.during(async () => {
      await finishGroup(join(root, "absent"), "g");
      await finishGroup(fresh(), "g");
      await finishDirectory(join(root, "absent"));
    });
    expect(nothing.log).toEqual([]);
    await expect(finishGroup("a\0b", "g")).rejects.toBeInstanceOf(IoError);
    await expect(finishDirectory("a\0b")).rejects.toBeInstanceOf(IoError);
  });

  it("written by several at once is one of theirs, whole", async () => {
    for (let round = 0; round < 10; round++) {
      const dir = fresh();
      writeFileSync(join(dir, "other"), "kept");
      const write = (n: string): Promise<void> =>
        writeGroupAtomic(dir, "g", async (t) => { await fill(n)(t); writeFileSync(join(t, `shard-${n}`), n); }, { owned: (f) => f.startsWith("shard-") }); // prettier-ignore
      const names = ["one", "two", "three", "four"];
      await Promise.all(names.map(write));
      const [shard] = readdirSync(dir).filter((n) => n.startsWith("shard-"));
      const winner = shard!.slice("shard-".length);
      expect(readdirSync(dir).sort()).toEqual(["a", "other", shard, "z"]);
      expect(ages(dir)).toBe(`a ${winner}, z ${winner}`);
    }
  });

  it("says what is wrong with the place", async () => {
    await expect(writeFileAtomic(join(root, "absent", "m"), "x")).rejects.toThrow(/no such file or directory/);
    writeFileSync(join(root, "plain"), "");
    await expect(writeGroupAtomic(join(root, "plain"), "g", async () => undefined)).rejects.toThrow(IoError);
    await expect(writeDirectoryAtomic(join(root, "plain"), async () => undefined)).rejects.toThrow(IoError);
    await expect(writeGroupAtomic("a\0b", "g", async () => undefined)).rejects.toThrow(IoError);
    expect(readFileSync(join(root, "plain"), "utf8")).toBe("");
  });
});

describe("files and folders that whoever fills them does not sync", () => {
  it.each(["directory", "group"])("are synced before the commit of a %s", async (kind) => {
    const dir = fresh();
    writeFileSync(join(dir, "source"), "copied");
    const copy = async (temp: string): Promise<void> => {
      mkdirSync(join(temp, "inner"));
      await copyRegular(join(dir, "source"), join(temp, "inner", "c"));
    };
    const recording = new FaultyDisk();
    await recording.during(() =>
      kind === "group" ? writeGroupAtomic(dir, "g", copy) : writeDirectoryAtomic(join(dir, "t"), copy, { replace: true }),
    );
    requireDurable(recording);
    const names = recording.log.map((o) => `${o.name} ${o.path.replace(/.*\.tmp-[^/]*/, "TEMP")}`);
    const commit = names.findIndex((n) => n.startsWith("rename") && n.endsWith(".next"));
    const before = names.slice(0, commit);
    for (const path of ["TEMP/inner/c", "TEMP/inner", "TEMP"]) expect(before, path).toContain(`fsync ${path}`);
  });
});

describe("what writers left behind", () => {
  it("is removed when they are gone, and only then", async () => {
    const dir = fresh();
    const crowd = async function* (): AsyncGenerator<Uint8Array> {
      const mine = readdirSync(dir)[0]!;
      const of = (pid: number, start = ""): string => mine.replace(/-\d+-\d*-(\d+)-/, (_, thread: string) => `-${pid}-${start}-${thread}-`);
      writeFileSync(join(dir, of(999_999_999)), "of a process that is gone");
      writeFileSync(join(dir, of(process.ppid, "1")), "of an earlier process with the number of a living one");
      writeFileSync(join(dir, of(process.ppid)), "of a living process");
      writeFileSync(join(dir, mine.replace(/tmp-[0-9a-f]{6}/, "tmp-000000")), "of another machine");
      writeFileSync(join(dir, ".m.tmp-mine"), "not ours");
      yield new Uint8Array(1);
    };
    await writeFileAtomic(join(dir, "m"), crowd());
    await writeFileAtomic(join(dir, "m"), "x");
    const left = readdirSync(dir).filter((n) => n !== "m").map((n) => readFileSync(join(dir, n), "utf8")); // prettier-ignore
    expect(left.sort()).toEqual(["not ours", "of a living process", "of another machine"]);
  });
});
