// How many threads: at most one per processor that the process may use, by its affinity and its control groups, with one warning;
// numbers that are none are refused by the name of what said them. No GPU. Alone: npx vitest run test/cli/threads.test.ts

import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { Device } from "../../lib/tensor.ts";
import { usableProcessors } from "../../lib/tensor/threads.ts";
import { tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";
import { cli, projectRoot, scratch, writeRows } from "./support.ts";

const root = scratch();
const [model, data] = [join(root, "model"), join(root, "rows.jsonl")];
beforeAll(async () => {
  await writeTinyModel(model, tinyOlmoe);
  writeRows(data);
});

function evaluate(env: NodeJS.ProcessEnv, ...flags: string[]) {
  const args = ["--import", "tsx", join(projectRoot, "lib/cli/main.ts"), "eval", model, "--data", data, "--max-length", "64", ...flags];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: projectRoot,
    encoding: "utf8",
    env: { ...process.env, ESFT_OVERSUBSCRIBE: "", ...env },
  });
  return { code: status, out: stdout, err: stderr };
}

describe("more threads than processors", () => {
  const most = availableParallelism();
  it.each([
    ["ESFT_THREADS", { ESFT_THREADS: "100000" }, []],
    ["threads", {}, ["--threads", "1000"]],
  ] as const)("by %s: as many as there are, one warning, the same numbers", (key, env, flags) => {
    const { code, out, err } = evaluate(env, ...flags);
    expect(code, err).toBe(0);
    expect(err.match(/^warning: .*$/gm)).toEqual([
      expect.stringMatching(new RegExp(`^warning: ${key} asks for 1000?0?0? threads, but this process may use ${most} processors?: `)),
    ]);
    expect(err).toMatch(new RegExp(`^device: cpu.*, ${most} threads?,`, "m"));
    expect(out).toBe(evaluate({}, "--threads", "1").out);
  });

  it("warn once, whatever the number of devices", () => {
    const program = `
      import { Device } from "./lib/tensor.ts";
      for (const threads of [900, 1000, 1000]) { const d = new Device({ kind: "cpu", threads }); console.log(d.info.threads); d.dispose(); }`;
    const { stdout, stderr } = spawnSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", program], {
      cwd: projectRoot,
      encoding: "utf8",
      env: { ...process.env, ESFT_OVERSUBSCRIBE: "" },
    });
    expect(stdout).toBe(`${most}\n`.repeat(3));
    expect(stderr.match(/asks for/g)).toHaveLength(1);
  });
});

describe("no number of threads", () => {
  it.each(["0", "-1", "abc", "1.5", "1e400", "0x2"])("ESFT_THREADS=%s", (text) => {
    process.env["ESFT_THREADS"] = text;
    try {
      expect(() => new Device()).toThrow(
        expect.objectContaining({
          code: "ERR_CONFIG",
          message: `ESFT_THREADS: expected a whole number of threads from 1, found "${text}"`,
        }),
      );
    } finally {
      delete process.env["ESFT_THREADS"];
    }
  });
  it.each([0, -1, 1.5, NaN, "2" as unknown as number, null as unknown as number])("threads: %s", (threads) => {
    expect(() => new Device({ threads })).toThrow(/^threads: expected a whole number of threads from 1, found /);
  });
  it.each(["0", "-1", "abc", "1.5"])("--threads %s", async (text) => {
    const { code, err } = await cli(["eval", model, "--data", data, "--threads", text]);
    expect([code, err]).toEqual([
      2,
      expect.stringMatching(/^error \[ERR_USAGE\]: option '--threads <n>' argument '.*' is invalid\. expected a (whole )?number/),
    ]);
  });
  it("the doctor names the variable", async () => {
    process.env["ESFT_THREADS"] = "many";
    try {
      expect(await cli(["doctor"])).toEqual({ code: 1, out: "", err: expect.stringMatching(/^error \[ERR_CONFIG\]: ESFT_THREADS: /) });
    } finally {
      delete process.env["ESFT_THREADS"];
    }
  });
});

describe("processors of a container", () => {
  const write = (name: string, files: Readonly<Record<string, string>>): string => {
    for (const [file, text] of Object.entries(files)) {
      mkdirSync(join(root, name, file, ".."), { recursive: true });
      writeFileSync(join(root, name, file), text);
    }
    return join(root, name);
  };
  const all = availableParallelism();
  it.each([
    ["none", {}, all],
    ["v2 without a limit", { "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n" }, all],
    ["v2", { "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n" }, Math.min(all, 1)],
    ["v2, of a group above", { "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n" }, 1],
    ["v2, at the root of the container", { "proc/self/cgroup": "0::/elsewhere\n", "sys/fs/cgroup/cpu.max": "100000 100000\n" }, 1],
    ["v2, less than one", { "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n" }, 1],
    ["v2, more than there are", { "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "99900000 100000\n" }, all],
    [
      "v1",
      {
        "proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n0::/\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
      },
      1,
    ],
    [
      "v1 without a limit",
      {
        "proc/self/cgroup": "5:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
      },
      all,
    ],
  ] as const)("%s", (name, files, expected) => {
    expect(usableProcessors(write(name, files))).toBe(expected);
  });
});
