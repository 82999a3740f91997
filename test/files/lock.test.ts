// Locks: one holder at a time, also of two takers of a stale lock; stale is what a provably gone holder left; the error names the
// holder and the fix. No GPU. Alone: npx vitest run test/files/lock.test.ts

import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { IoError, LockError } from "../../lib/errors.ts";
import { replaceDisk } from "../../lib/files/disk.ts";
import { isGone, live, thisHolder } from "../../lib/files/holder.ts";
import { takeLock } from "../../lib/files/lock.ts";
import { everyPoint, FAULTS, FaultyDisk, withoutFsync } from "../support/faulty_disk.ts";

withoutFsync();
const root = mkdtempSync(join(tmpdir(), "esft-lock-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const fresh = (): string => join(mkdtempSync(join(root, "t")), "run.lock");

const GONE = 999_999_999;
const TOKEN = "0123456789abcdef";
/** A lock as another process would have written it. */
const foreign = (changes: object = {}): object => ({
  ...thisHolder(),
  token: TOKEN,
  since: "2026-01-02T03:04:05.678Z",
  command: "esft train law.yaml",
  ...changes,
});
const plant = (path: string, changes: object = {}): void => writeFileSync(path, JSON.stringify(foreign(changes)));
const content = (path: string): Record<string, unknown> => JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
const alone = (path: string): string[] => readdirSync(join(path, ".."));

describe("a lock", () => {
  it("names its holder while it is held, and is gone when it is released", async () => {
    const path = fresh();
    const began = Date.now();
    const lock = await takeLock(path, "out/law");
    expect(lock.path).toBe(path);
    const { since, command, token, ...holder } = content(path);
    expect(holder).toEqual(thisHolder());
    expect(Date.parse(since as string)).toBeGreaterThanOrEqual(began);
    expect(command).toBe([basename(process.argv[1]!), ...process.argv.slice(2)].join(" ").slice(0, 200));
    expect(live.has(token as string)).toBe(true);
    expect(alone(path)).toEqual(["run.lock"]);
    await lock.release();
    expect(live.has(token as string)).toBe(false);
    expect(alone(path)).toEqual([]);
    // A second release leaves the next holder's lock alone.
    const next = await takeLock(path, "out/law");
    await lock.release();
    expect(existsSync(path)).toBe(true);
    await next[Symbol.asyncDispose]();
    expect(alone(path)).toEqual([]);
  });

  it("that somebody else has put in its place is not removed", async () => {
    const path = fresh();
    const lock = await takeLock(path, "out/law");
    plant(path);
    await lock.release();
    expect(content(path)["token"]).toBe(TOKEN);
  });

  it("that cannot be read or removed when it is released is given up, and stale", async () => {
    for (const name of ["readFile", "rm"] as const) {
      const path = fresh();
      const { disk } = new FaultyDisk();
      const lock = await takeLock(path, "out/law");
      const { token } = content(path);
      const before = replaceDisk({ ...disk, [name]: () => Promise.reject(Object.assign(new Error("EIO"), { code: "EIO" })) });
      await lock.release().finally(() => replaceDisk(before));
      expect([existsSync(path), live.has(token as string)]).toEqual([true, false]);
      await (await takeLock(path, "out/law")).release();
      expect(alone(path)).toEqual([]);
    }
  });

  it("held in this process is refused, with pid, host, since and command", async () => {
    const path = fresh();
    await using _ = await takeLock(path, "out/law");
    const { pid, host, since, command } = content(path);
    const error = await takeLock(path, "out/law").catch((e: unknown) => e);
    expect(error).toBeInstanceOf(LockError);
    expect(error).toMatchObject({ code: "ERR_LOCKED", where: { file: path, pid, host, since, command } });
    expect((error as Error).message).toMatch(/^out\/law is in use by process \d+ on .* since .* \(.*\); wait for its end, or stop it$/);
    expect(content(path)["pid"]).toBe(process.pid);
  });

  it("held by a living process is refused, then taken when it was killed", async () => {
    const path = fresh();
    const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
    const { pid } = child as ChildProcess & { pid: number };
    try {
      plant(path, { pid, start: Number(readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ")[19]) });
      await expect(takeLock(path, "out/law")).rejects.toMatchObject({ code: "ERR_LOCKED", where: { pid } });
    } finally {
      child.kill("SIGKILL");
      await new Promise((done) => child.on("close", done));
    }
    await using _ = await takeLock(path, "out/law");
    expect(content(path)["pid"]).toBe(process.pid);
  });

  it.skipIf(thisHolder().start === null)("of a zombie is stale: it only waits for its parent", async () => {
    const path = fresh();
    // sh becomes sleep, which never waits for its child.
    const parent = spawn("sh", ["-c", "sleep 0 & echo $!; exec sleep 30"], { stdio: ["ignore", "pipe", "ignore"] });
    try {
      const pid = Number(await new Promise((done) => parent.stdout.once("data", (b: Buffer) => done(b.toString()))));
      while (!/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"))) await new Promise((done) => setTimeout(done, 10));
      plant(path, { pid, start: null });
      await using _ = await takeLock(path, "out/law");
    } finally {
      parent.kill("SIGKILL");
    }
  });

  it("whose file cannot be made is an IoError; one that names nobody is refused with the file to remove", async () => {
    const absent = join(root, "absent", "run.lock");
    await expect(takeLock(absent, "out/law")).rejects.toBeInstanceOf(IoError);
    await expect(takeLock(absent, "out/law")).rejects.toMatchObject({ message: "cannot lock out/law: no such file or directory", where: { file: absent } }); // prettier-ignore
    const texts = ["", "{}", "not JSON", JSON.stringify(foreign({ token: "x" }))];
    await Promise.all(
      texts.map(async (text) => {
        const path = fresh();
        writeFileSync(path, text);
        await expect(takeLock(path, "out/law")).rejects.toThrow(`out/law is locked by ${path}, which does not name its holder`);
        expect(readFileSync(path, "utf8")).toBe(text);
      }),
    );
  });

  it("is waited for as long as one asks", async () => {
    const path = fresh();
    const first = await takeLock(path, "out/law");
    await expect(takeLock(path, "out/law", { waitMs: 30 })).rejects.toBeInstanceOf(LockError);
    const second = takeLock(path, "out/law", { waitMs: 20_000 });
    await new Promise((done) => setTimeout(done, 30));
    await first.release();
    await (await second).release();
    expect(alone(path)).toEqual([]);
  });

  it("appears with its content, also where links are unknown", async () => {
    for (const code of ["EPERM", "ENOTSUP", "EIO"]) {
      const path = fresh();
      const { disk } = new FaultyDisk();
      const before = replaceDisk({ ...disk, link: () => Promise.reject(Object.assign(new Error(code), { code })) });
      try {
        const taken = takeLock(path, "out/law");
        if (code === "EIO") await expect(taken).rejects.toBeInstanceOf(IoError);
        else {
          await using _ = await taken;
          await expect(takeLock(path, "out/law")).rejects.toBeInstanceOf(LockError);
          expect(content(path)["pid"]).toBe(process.pid);
        }
      } finally {
        replaceDisk(before);
      }
      expect(alone(path)).toEqual([]);
    }
  });

  it("half-written by another is read when it is whole", async () => {
    const path = fresh();
    writeFileSync(path, JSON.stringify(foreign()).slice(0, 20));
    setTimeout(() => plant(path, { pid: process.ppid, start: null }), 100);
    await expect(takeLock(path, "out/law")).rejects.toMatchObject({ code: "ERR_LOCKED", where: { pid: process.ppid } });
  });
});

describe("a holder", () => {
  const holder = thisHolder();
  const linux = holder.boot !== null;

  it.each([
    ["has no such process id any more", { pid: GONE }, true],
    ["had the process id of another process now", { pid: process.ppid, start: 1 }, linux],
    ["lives", { pid: process.ppid, start: null }, false],
    ["is this process, but gave it up", {}, true],
    ["is another thread of this process", { thread: holder.thread + 1 }, false],
    ["was there before the machine restarted", { boot: "another", pid: process.ppid }, linux],
    ["cannot be placed in time", { boot: null, pid: GONE }, !linux],
    ["is on another host", { host: "elsewhere", pid: GONE }, false],
    ["is on another machine of that name", { machine: "another", pid: GONE }, false],
    ["is in another container", { namespace: "pid:[1]", pid: GONE }, false],
  ])("%s", async (_, changes, gone) => {
    expect(isGone({ ...holder, ...changes }, TOKEN)).toBe(gone);
    const path = fresh();
    plant(path, changes);
    if (gone) {
      await using _lock = await takeLock(path, "out/law");
      expect(content(path)["token"]).not.toBe(TOKEN);
    } else await expect(takeLock(path, "out/law")).rejects.toBeInstanceOf(LockError);
  });

  it("is not gone while this thread holds the token", () => {
    live.add(TOKEN);
    expect(isGone(holder, TOKEN)).toBe(false);
    live.delete(TOKEN);
    expect(isGone(holder, TOKEN)).toBe(true);
  });

  it("that cannot be checked from here: the fix is the file to remove", async () => {
    for (const changes of [{ host: "elsewhere" }, { namespace: "pid:[1]" }]) {
      const path = fresh();
      plant(path, { ...changes, pid: GONE });
      const message = await takeLock(path, "out/law").catch((e: unknown) => (e as Error).message);
      expect(message).toBe(
        `out/law is in use by process ${GONE} on ${foreign(changes)["host" as never] as string} since 2026-01-02T03:04:05.678Z (esft train law.yaml); ` +
          `it runs on another machine or in another container, so it cannot be checked from here; when it is certainly gone, remove ${path}`,
      );
    }
  });
});

describe("taking over", () => {
  it("a stale lock: of many takers one has it", async () => {
    for (let round = 0; round < 20; round++) {
      const path = fresh();
      plant(path, { pid: GONE });
      const ended = await Promise.allSettled(Array.from({ length: 6 }, () => takeLock(path, "out/law")));
      const winners = ended.flatMap((e) => (e.status === "fulfilled" ? [e.value] : []));
      for (const e of ended) if (e.status === "rejected") expect(e.reason).toBeInstanceOf(LockError);
      expect(winners.length).toBe(1);
      await winners[0]!.release();
      expect(alone(path)).toEqual([]);
    }
  });

  it("a stale lock: of many processes one at a time has it", async () => {
    const path = fresh();
    plant(path, { pid: GONE });
    // Each adds a line while it holds the lock, after it has seen that nobody else is in between.
    const code = `
      import { appendFileSync, readFileSync, existsSync } from "node:fs";
      import { takeLock } from "./lib/files/lock.ts";
      const log = process.argv[1];
      for (let i = 0; i < 10; i++) {
        const lock = await takeLock(${JSON.stringify(path)}, "log", { waitMs: 20000 });
        appendFileSync(log, "in " + process.pid + "\\n");
        await new Promise((done) => setTimeout(done, 1));
        appendFileSync(log, "out " + process.pid + "\\n");
        if (i === 4 && process.argv[2] === "dies") process.kill(process.pid, "SIGKILL");
        await lock.release();
      }`;
    const log = join(path, "..", "log");
    const run = (how: string): Promise<number | null> =>
      new Promise((done) =>
        spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", code, log, how], { stdio: "inherit" }).on("close", done),
      );
    expect(await Promise.all([run("lives"), run("dies"), run("lives"), run("dies")])).toEqual([0, null, 0, null]);
    const lines = readFileSync(log, "utf8").trim().split("\n");
    expect(lines.length).toBe(2 * (10 + 5 + 10 + 5));
    for (let i = 0; i < lines.length; i += 2) expect(lines[i + 1]).toBe(lines[i]!.replace("in", "out"));
    await (await takeLock(path, "log")).release();
    expect(alone(path)).toEqual(["log"]);
  });

  it("by a taker that died meanwhile is taken over too, and nothing is left", async () => {
    const path = fresh();
    plant(path, { pid: GONE });
    writeFileSync(`${path}.${TOKEN}`, JSON.stringify(foreign({ pid: GONE, token: "fedcba9876543210" })));
    await (await takeLock(path, "out/law")).release();
    expect(alone(path)).toEqual([]);
    // It died when it had taken over: nobody would ask for that claim any more.
    writeFileSync(`${path}.${TOKEN}`, "");
    writeFileSync(`${path}.${TOKEN}.${TOKEN}`, "");
    const others = [`a.run.lock.${TOKEN}`, `other.lock.${TOKEN}`, "run.lock.mine", `run.lock.${TOKEN}x`, `run.lock.x.${TOKEN}`];
    for (const name of others) writeFileSync(join(path, "..", name), "");
    await (await takeLock(path, "out/law")).release();
    expect(alone(path).sort()).toEqual(others.sort());
  });

  it("waits for a living taker", async () => {
    const path = fresh();
    plant(path, { pid: GONE });
    writeFileSync(`${path}.${TOKEN}`, JSON.stringify(foreign({ pid: process.ppid, start: null, token: "fedcba9876543210" })));
    await expect(takeLock(path, "out/law")).rejects.toMatchObject({ code: "ERR_LOCKED", where: { pid: process.ppid } });
    expect(content(path)["token"]).toBe(TOKEN);
  });

  it.each(FAULTS)("after a fault at any operation leaves a lock that can be taken: %s", async (fault) => {
    const path = fresh();
    for (const stale of [false, true])
      await everyPoint(
        fault,
        async () => {
          for (const name of alone(path)) rmSync(join(path, "..", name));
          if (stale) plant(path, { pid: GONE });
        },
        async () => (await takeLock(path, "out/law")).release(),
        async (point) => {
          await (await takeLock(path, "out/law")).release();
          expect(alone(path), point).toEqual([]);
        },
      );
  });
});
