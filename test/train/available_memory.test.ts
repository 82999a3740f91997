// What a machine can still give: limits of control groups of both versions, with their file cache counted as free; encoded examples are
// refused before they are taken. No GPU. Alone: npx vitest run test/train/available_memory.test.ts

import { mkdirSync, writeFileSync } from "node:fs";
import os from "node:os";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExampleBuilder } from "../../lib/data/examples.ts";
import type { Device } from "../../lib/tensor.ts";
import { loadTokenizer } from "../../lib/text/tokenizer.ts";
import { availableMemory, availableOn, requireRoomForExamples } from "../../lib/train/available_memory.ts";
import { tempDir } from "../support/fixture.ts";

const dir = tempDir();
let made = 0;
/** Control groups as files; `self` as /proc/self/cgroup has it. */
function groups(self: string, files: Readonly<Record<string, string>>) {
  const root = join(dir, String(made++));
  for (const [name, text] of Object.entries({ ...files, self })) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), text);
  }
  return { root, self: join(root, "self") };
}
const free = os.freemem();
const MiB = 2 ** 20;

describe("control groups", () => {
  it("of version 2: limit − usage + file cache, the least of all levels", async () => {
    const inner = { "a/b/memory.max": `${100 * MiB}\n`, "a/b/memory.current": `${90 * MiB}\n` };
    const stat = `anon 1\ninactive_file ${5 * MiB}\nactive_file ${7 * MiB}\nfile ${99 * MiB}\nworkingset_activate_file ${88 * MiB}\n`;
    expect(await availableMemory(groups("0::/a/b\n", inner))).toBe(10 * MiB);
    expect(await availableMemory(groups("0::/a/b\n", { ...inner, "a/b/memory.stat": stat }))).toBe(22 * MiB);
    const outer = { "a/memory.max": `${50 * MiB}\n`, "a/memory.current": `${47 * MiB}\n` };
    expect(await availableMemory(groups("0::/a/b\n", { ...inner, ...outer }))).toBe(3 * MiB);
    expect(await availableMemory(groups("0::/a/b\n", { "memory.max": `${MiB}`, "memory.current": "0" }))).toBe(MiB); // the root, as in a container
    expect(await availableMemory(groups("0::/a/b\n", { ...inner, "a/b/memory.current": `${200 * MiB}\n` }))).toBe(0);
    expect(await availableMemory(groups("0::a/b\n", { ...inner, ...outer }))).toBe(3 * MiB);
    const totals = `total_active_file ${MiB}\nnot_active_file ${MiB}\nactive_file ${MiB} kB\nactive_file x\n`;
    expect(await availableMemory(groups("0::/a/b\n", { ...inner, "a/b/memory.stat": totals }))).toBe(10 * MiB);
  });

  it("of version 1: its memory controller, totals of the subtree", async () => {
    const files = { "memory/x/memory.limit_in_bytes": `${100 * MiB}\n`, "memory/x/memory.usage_in_bytes": `${60 * MiB}\n` };
    const stat = `inactive_file ${MiB}\nactive_file ${MiB}\ntotal_inactive_file ${4 * MiB}\ntotal_active_file ${6 * MiB}\n`;
    const self = "5:cpu,cpuacct:/y\n14:memory:/x\n";
    expect(await availableMemory(groups(self, { ...files, "memory/x/memory.stat": stat }))).toBe(50 * MiB);
    expect(await availableMemory(groups("4:cpu,memory:/x\n", files))).toBe(40 * MiB);
    expect(await availableMemory(groups("4:memoryless:/x\n", files))).toBeGreaterThan(100 * MiB);
  });

  it("without a limit leave what the machine has", async () => {
    const close = async (self: string, files: Record<string, string>): Promise<void> => {
      const bytes = await availableMemory(groups(self, files));
      expect(bytes / free).toBeGreaterThan(0.3);
      expect(bytes / free).toBeLessThan(3);
    };
    await close("0::/a\n", { "a/memory.max": "max\n", "a/memory.current": "5\n" });
    await close("0::/a\n", { "a/memory.max": "5\n" });
    await close("0::/a\n", { "a/memory.current": "5\n" });
    await close("4:memory:/x\n", { "memory/x/memory.limit_in_bytes": "9223372036854771712\n", "memory/x/memory.usage_in_bytes": "5\n" });
    for (const odd of ["a lot", "5 KiB", "-5", "~5"]) await close("0::/a\n", { "a/memory.max": `${odd}\n`, "a/memory.current": "1\n" });
    for (const self of ["nonsense\n", "", "x0::/a\n", "::/a\n", "0:/a\n"])
      await close(self, { "a/memory.max": "5\n", "a/memory.current": "1\n" });
    const { root } = groups("", {});
    expect((await availableMemory({ root, self: join(root, "absent") })) / free).toBeGreaterThan(0.3);
    expect(await availableMemory()).toBeGreaterThan(2 ** 24);
    expect(await availableMemory()).toBeLessThan(2 ** 50);
  });
});

it("a device with its own memory answers for itself; one that does not know is no limit", async () => {
  const device = (hostMemory: boolean, free: number) => ({ info: { hostMemory }, memoryFree: () => free }) as unknown as Device;
  expect(await availableOn(device(false, 123))).toBe(123);
  expect(await availableOn(device(false, 0))).toBe(Number.POSITIVE_INFINITY);
  expect(await availableOn(device(true, 123))).toBeGreaterThan(2 ** 20);
});

describe("encoded examples", () => {
  afterEach(() => vi.restoreAllMocks());
  it("are refused before they are taken", async () => {
    await requireRoomForExamples(1);
    await expect(requireRoomForExamples(2 ** 60)).rejects.toMatchObject({
      code: "ERR_MEMORY",
      message: expect.stringMatching(/^encoding the rows needs 1048576\.0 TiB more, .* are available; use fewer rows/) as string,
      where: { neededBytes: 2 ** 60 },
    });
  });

  it("ask for room when they grow and when they are done, for what they will take", async () => {
    const tokenizer = await loadTokenizer("examples/embedded");
    const rows = Dataset.fromRows(
      Array.from({ length: 40 }, () => ({ text: "one two three ".repeat(300) })),
      { shape: "text" },
    );
    const asked: number[] = [];
    const { examples } = await rows.encode({ tokenizer, template: "tokenizer" }, { room: async (bytes) => void asked.push(bytes) });
    const tokens = [...examples].reduce((n, { inputIds }) => n + inputIds.length, 0);
    expect(tokens).toBeGreaterThan(2 ** 14);
    expect(asked[0]).toBe(5 * 2 ** 15);
    expect(asked.at(-1)).toBe(5 * tokens + 12 * 40);
    expect(examples.bytes).toBe(5 * tokens + 8 * 41 + 4 * 40);
    expect(examples.subset([1, 2, 3]).bytes).toBe(examples.bytes + 12);
    await expect(rows.encode({ tokenizer, template: "tokenizer" }, { room: () => Promise.reject(new Error("no room")) })).rejects.toThrow("no room"); // prettier-ignore
  });

  it("take no more than they said", () => {
    const builder = new ExampleBuilder();
    expect([builder.growth(2 ** 14), builder.growth(2 ** 14 + 1), builder.growth(10 ** 6)]).toEqual([0, 5 * 2 ** 15, 5 * 10 ** 6]);
    const ids = new Array<number>(2 ** 14).fill(1);
    builder.add({ inputIds: ids, labels: ids }, 1);
    expect([builder.growth(0), builder.growth(1)]).toEqual([0, 5 * 2 ** 15]);
  });
});
