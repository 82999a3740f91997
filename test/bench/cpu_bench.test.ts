// The benchmark of the CPU: every case at tiny sizes (it runs, writes everything and repeats its bits), one case measured, and the
// command line.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it, vi } from "vitest";
import { benchCases } from "../../bench/cases/index.ts";
import type { BenchCase } from "../../bench/cases/case.ts";
import { runCpu } from "../../bench/cpu/run.ts";
import { parseOptions, usage } from "../../bench/options.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-cpu-bench-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

async function lines(options: Parameters<typeof runCpu>[0]): Promise<{ code: number; text: string }> {
  const printed: string[] = [];
  const log = vi.spyOn(console, "log").mockImplementation((text: unknown) => void printed.push(String(text)));
  try {
    return { code: await runCpu(options), text: printed.join("\n") };
  } finally {
    log.mockRestore();
  }
}
const quick = { threads: 2, rounds: 1, peer: null, variants: /./, json: null };

describe("every case of the CPU, tiny", () => {
  for (const c of benchCases("cpu", true))
    it(c.id, async () => {
      const { code, text } = await lines({ ...quick, cases: [c], tiny: true });
      expect(code, text).toBe(0);
      expect(text).toMatch(/tiny sizes: not a measurement|skipped: no bf16 compute/);
    });
  it("says which case fails, and goes on", async () => {
    const [good] = benchCases("cpu", true);
    const bad: BenchCase = { ...good!, id: "gemm/bad/f32/M1", setup: () => Promise.reject(new Error("no memory")) };
    const { code, text } = await lines({ ...quick, cases: [bad, good!], tiny: true });
    expect(code).toBe(1);
    expect(text).toMatch(/^gemm\/bad\/f32\/M1 +failed: no memory\n.*not a measurement$/);
  });
  it("sees outputs that are not written, and bits that differ", async () => {
    const [good] = benchCases("cpu", true);
    const idle: BenchCase = { ...good!, id: "idle/a/f32/b", setup: async (b) => ({ ...(await good!.setup(b)), run: () => undefined }) };
    let calls = 0;
    const drifts: BenchCase = {
      ...good!,
      id: "drifts/a/f32/b",
      setup: (b) => {
        const y = b.f32(4);
        return { run: () => y.write(new Float32Array(4).fill(calls++)), outputs: [y] };
      },
    };
    const { code, text } = await lines({ ...quick, cases: [idle, drifts], tiny: true });
    expect(code).toBe(1);
    expect(text).toMatch(/idle.*NOT FINITE OR NOT WRITTEN\ndrifts.*TWO RUNS DIFFER/);
  });
});

describe("a measurement", () => {
  it("gives medians, shares and a report", async () => {
    const cases = benchCases("cpu", true).filter((c) => c.id === "gemm/256x128/f32/M16" || c.id === "add/4096x2048/f32/fwd");
    const json = join(dir, "cpu.json");
    const { code, text } = await lines({ ...quick, rounds: 2, json, cases, tiny: false });
    expect(code, text).toBe(0);
    expect(text).toMatch(/^gemm\/256x128\/f32\/M16 .* ms .*GFLOP\/s/m);
    expect(text).toMatch(/^add\/4096x2048\/f32\/fwd .* ms .*GB\/s/m);
    const report = JSON.parse(readFileSync(json, "utf8"));
    expect(report.rows).toHaveLength(2);
    expect(report.rows[0]).toMatchObject({ id: "gemm/256x128/f32/M16", rounds: 2, gbs: null, peer: null });
    expect(report.rows[0].ms).toBeGreaterThan(0);
  });
});

describe("the command line", () => {
  it("takes filters and flags", () => {
    expect(parseOptions(["layer/", "step/", "--rounds", "3"])).toMatchObject({ action: "run", on: "cpu", rounds: 3 });
    expect(parseOptions(["layer/", "step/"]).filter.test("step/olmoe/f32/esft")).toBe(true);
    expect(parseOptions(["--device=cuda:1", "--peers", "none"])).toMatchObject({ device: "cuda:1", on: "cuda", peers: "none" });
    expect(parseOptions(["--device", "cuda", "--from", "a.json,b.json"])).toMatchObject({ action: "report", from: ["a.json", "b.json"] });
    expect(parseOptions(["--tiny", "--list"]).action).toBe("list");
  });
  it("--help names every flag", () => {
    for (const flag of [
      "device",
      "list",
      "describe",
      "tiny",
      "json",
      "peer",
      "variants",
      "threads",
      "rounds",
      "seconds",
      "headline",
      "peers",
      "markdown",
      "from",
    ])
      expect(usage()).toMatch(new RegExp(`^  --${flag}[ \n]`, "m"));
  });
  for (const [args, words] of [
    [["--nope"], /Unknown option '--nope'/],
    [["--rounds"], /--rounds/],
    [["--rounds", "1.5"], /--rounds: expected a positive whole number, found "1.5"/],
    [["--threads", "many"], /--threads: expected a positive whole number, found "many"/],
    [["--seconds", "1"], /--seconds belongs to --device cuda, found cpu/],
    [["--device", "cuda", "--threads", "1"], /--threads belongs to --device cpu/],
    [["--device", "gpu"], /--device: expected cpu, cuda or cuda:N, found "gpu"/],
    [["--device", "cuda", "--peers", "some"], /--peers: expected headline, all or none, found "some"/],
    [["("], /FILTER: expected a regular expression, found "\("/],
    [["--variants", "["], /--variants: expected a regular expression/],
    [["--json", join(dir, "none", "x.json")], /there is no folder/],
    [["--json", dir], /expected a file, found a folder/],
    [["--tiny", "--json", join(dir, "x.json")], /exclude each other/],
    [["--tiny=yes"], /--tiny/],
  ] as const)
    it(`refuses ${args.join(" ").replace(dir, "DIR")}`, () => {
      expect(() => parseOptions(args)).toThrow(words);
      expect(() => parseOptions(args)).toThrow(/^[^\n]*$/);
    });
  const main = (...args: string[]) =>
    spawnSync(process.execPath, ["--import", "tsx", "bench/main.ts", ...args], {
      cwd: fileURLToPath(new URL("../..", import.meta.url)),
      encoding: "utf8",
    });
  it("ends with one line on stderr where a user erred", () => {
    for (const args of [["--nope"], ["nothing-is-called-so"], ["--device", "cuda", "--from", join(dir, "none.json")]]) {
      const { status, stdout, stderr } = main(...args);
      expect({ status, stdout, lines: stderr.split("\n").length }, stderr).toEqual({ status: 2, stdout: "", lines: 2 });
      expect(stderr).toMatch(/^bench: /);
    }
  });
  it("prints help, names and descriptions", () => {
    expect(main("--help")).toMatchObject({ status: 0, stdout: usage(), stderr: "" });
    expect(main("--list", "^step/olmoe/f32")).toMatchObject({
      status: 0,
      stdout: "step/olmoe/f32/esft\nstep/olmoe/f32/full\nstep/olmoe/f32/forward\n",
    });
    expect(JSON.parse(main("--describe", "--tiny", "--device", "cuda", "^copy").stdout)).toMatchObject({ device: "cuda", tiny: true });
  });
});
