// Temporary entries, whose they are, and when they go. No GPU.
// Run alone: npx vitest run test/files/temporary.test.ts
import { existsSync, mkdirSync, mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { threadId } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { sha256 } from "../../lib/files/hash.ts";
import { isGone, live, thisHolder } from "../../lib/files/holder.ts";
import { forget, removeAllStale, removeStale, temporary } from "../../lib/files/temporary.ts";
import { tempDir } from "../support/fixture.ts";

const root = tempDir();
const fresh = () => mkdtempSync(join(root, "t-"));

describe("a temporary entry", () => {
  it("lies hidden beside its target, says whose it is, and is in use until it is forgotten", () => {
    const { pid, start, thread, host, machine, namespace } = thisHolder();
    const place = sha256(JSON.stringify([host, machine, namespace])).slice(0, 6);
    const path = join(root, "model");
    const [one, two] = [temporary(path), temporary(relative(process.cwd(), path))];
    for (const temp of [one, two]) {
      expect(dirname(temp)).toBe(root);
      expect(basename(temp)).toMatch(new RegExp(`^\\.model\\.tmp-${place}-${pid}-${start ?? ""}-${thread}-[0-9a-f]{8}$`));
    }
    expect(one).not.toBe(two);
    const tokens = [one, two].map((temp) => temp.slice(-8));
    expect(tokens.map((t) => live.has(t))).toEqual([true, true]);
    forget(one);
    expect(tokens.map((t) => live.has(t))).toEqual([false, true]);
    forget(two);
  });

  it("that nobody needs any more is removed: of one target, or of a whole folder", async () => {
    const dir = fresh();
    const make = (path: string): string => {
      const temp = temporary(join(dir, path));
      mkdirSync(join(temp, "inner"), { recursive: true });
      return temp;
    };
    const [used, mine, other] = [make("a"), make("a"), make("b.tmp-c")];
    for (const temp of [mine, other]) forget(temp);
    const gone = mine.replace(/-\d+-\d*-\d+-/, "-999999999--0-");
    writeFileSync(gone, "");
    const strange = [".a.tmp-x", `${basename(gone)}0`, `x${basename(gone)}`, basename(gone).replace(".tmp-", ".TMP-"), basename(gone).replace("-999999999", "-")]; // prettier-ignore
    for (const name of strange) writeFileSync(join(dir, name), "");
    await removeStale(join(dir, "b"));
    expect([used, mine, other, gone].map((p) => existsSync(p))).toEqual([true, true, true, true]);
    await removeStale(join(dir, "a"));
    expect([used, mine, other, gone].map((p) => existsSync(p))).toEqual([true, false, true, false]);
    await removeAllStale(dir);
    expect(readdirSync(dir).sort()).toEqual([basename(used), ...strange].sort());
    forget(used);
    await removeAllStale(dir);
    expect(readdirSync(dir).sort()).toEqual(strange.sort());
    await removeAllStale(join(dir, "absent"));
    await removeStale(join(dir, "absent", "x"));
  });
});

describe("this process as a holder", () => {
  const me = thisHolder();

  it("is what the system says of it", () => {
    expect([me.pid, me.thread, me.host.length > 0]).toEqual([process.pid, threadId, true]);
    expect(thisHolder()).toBe(me);
    if (me.machine !== null) expect(me.machine).toMatch(/^[0-9a-f]{12}$/);
    if (process.platform !== "linux") return;
    expect(me.boot).toMatch(/^[0-9a-f-]{36}$/);
    expect(me.namespace).toMatch(/^pid:\[\d+\]$/);
    expect(me.start).toBeGreaterThan(0);
  });

  it("tells another thread's work and another process's from its own", () => {
    const token = "00000000";
    expect(isGone({ ...me, thread: me.thread + 1 }, token)).toBe(false);
    expect(isGone({ ...me, start: (me.start ?? 0) + 1 }, token)).toBe(me.start !== null); // the process id was given away again
    expect(isGone({ ...me, pid: 1, start: null }, token)).toBe(false);
    live.add(token);
    expect(isGone({ ...me, pid: 999_999_999 }, token)).toBe(true); // tokens are of this thread alone
    live.delete(token);
  });
});
