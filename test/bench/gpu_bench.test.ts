// The benchmark of the GPU without one: floors, tables and routings by themselves, and every kind of case on the emulation (small
// shapes, timed for a moment; what is checked is that it runs, repeats its bits and can be recorded).

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it, vi } from "vitest";
import { parts } from "../../bench/cases/case.ts";
import { floors, judge } from "../../bench/gpu/floors.ts";
import type { FloorRow } from "../../bench/gpu/floors.ts";
import { floorTable, writeMarkdown } from "../../bench/gpu/report.ts";
import type { GpuReport } from "../../bench/gpu/row.ts";
import { gpuCases, runGpu } from "../../bench/gpu/run.ts";
import { setsFor, slicesFor } from "../../bench/gpu/measure.ts";
import { withCuda } from "../cuda/support.ts";
import { hottest, normalQuantile, route, routingFacts } from "../ops/routes.ts";

const dir = mkdtempSync(join(tmpdir(), "esft-gpu-bench-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** The lines that a run printed. */
async function quietly(run: () => Promise<number>): Promise<{ code: number; lines: string[] }> {
  const lines: string[] = [];
  const log = vi.spyOn(console, "log").mockImplementation((text: unknown) => void lines.push(String(text)));
  try {
    return { code: await run(), lines };
  } finally {
    log.mockRestore();
  }
}

const row = (id: string, of: Partial<FloorRow>): FloorRow => ({
  id,
  ms: 1,
  flops: null,
  bytes: null,
  tokensPerSecond: null,
  cublas: null,
  bitIdentical: true,
  speedup: null,
  ...of,
});
const verdictOf = (rows: readonly FloorRow[], name: RegExp) => judge(rows).find((j) => name.test(j.floor.name))!;

describe("floors", () => {
  it("are not measured without rows", () => {
    for (const j of judge([])) expect(j).toMatchObject({ value: null, verdict: "not measured" });
  });
  it("name cases that exist", () => {
    const ids = new Set(gpuCases(false).map((c) => c.id));
    for (const floor of floors) for (const id of floor.cases) expect(ids, floor.name).toContain(id);
    expect(ids.size).toBe(gpuCases(false).length);
  });
  it("judge rates, times and shares", () => {
    const head = "head/d2048-V102400/bf16/train";
    expect(verdictOf([row(head, { flops: 549e9 })], /cross-entropy/).verdict).toBe("missed");
    expect(verdictOf([row(head, { flops: 551e9, speedup: 2 })], /cross-entropy/)).toMatchObject({ verdict: "floor", speedup: 2 });
    expect(verdictOf([row(head, { flops: 701e9 })], /cross-entropy/).verdict).toBe("stretch");
    const gemm = "gemm/8192x8192/bf16/M8192";
    expect(verdictOf([row(gemm, { flops: 700e9 })], /cuBLAS/).verdict).toBe("not measured");
    expect(verdictOf([row(gemm, { flops: 700e9, cublas: 788 })], /cuBLAS/).value).toBeCloseTo(88.8, 1);
    const esft = "layer/dsv2-lite-T8192-lognormal0.7/bf16/bwd-esft";
    expect(verdictOf([row(esft, { ms: 2.4 })], /ESFT backward/).verdict).toBe("missed");
    expect(verdictOf([row(esft, { ms: 1.6 })], /ESFT backward/).verdict).toBe("stretch");
  });
  it("speed lost under skew needs both routings", () => {
    const of = (routing: string, ms: number): FloorRow => row(`layer/dsv2-lite-T32768-${routing}/bf16/fwd`, { flops: 1e12, ms });
    expect(verdictOf([of("lognormal1.0", 2)], /forward under/).verdict).toBe("not measured");
    expect(verdictOf([of("uniform", 2), of("lognormal1.0", 2.1)], /forward under/).value).toBeCloseTo(4.76, 1);
  });
  it("one case whose bits differ misses the last one", () => {
    expect(verdictOf([row("a", {}), row("b", { bitIdentical: false })], /bit-identical/)).toMatchObject({ value: 50, verdict: "missed" });
  });
});

describe("routing", () => {
  const [T, E, K] = [2048, 64, 6];
  it("gives every token K different experts", () => {
    for (const kind of ["uniform", "balanced", "lognormal0.7", "lognormal1.0", "extreme"]) {
      const { ids, counts } = route(kind, T, E, K);
      for (let t = 0; t < T; t++) expect(new Set(ids.subarray(t * K, (t + 1) * K)).size).toBe(K);
      expect(counts.reduce((a, b) => a + b, 0)).toBe(T * K);
    }
  });
  it("has the loads that its name says", () => {
    const facts = (kind: string, n: number) => {
      const { counts } = route(kind, T, E, K);
      return routingFacts(counts, hottest(counts, n));
    };
    expect(facts("balanced", 5)["maxOverMean"]).toBeCloseTo(1, 2);
    expect(facts("uniform", 5)["maxOverMean"]).toBeLessThan(1.3);
    expect(facts("lognormal0.7", 8)["trainedRowShare"]).toBeCloseTo(0.32, 1);
    expect(facts("lognormal1.0", 8)["maxOverMean"]).toBeGreaterThan(4);
    expect(facts("extreme", 6)["trainedRowShare"]).toBe(1);
    expect(normalQuantile(0.975)).toBeCloseTo(1.96, 3);
  });
});

describe("measuring", () => {
  it("rotates more than the cache and repeats enough", () => {
    expect(setsFor(1e6)).toBe(16);
    expect(setsFor(5e7)).toBe(4);
    expect(setsFor(1e9)).toBe(3);
    expect(setsFor(2e10)).toBe(1);
    expect(slicesFor(0.01, 500, 2)).toBe(10);
    expect(slicesFor(5, 1, 2)).toBe(100);
    expect(slicesFor(300, 1, 2)).toBe(7);
  });
});

describe("tables", () => {
  const report = (emulated: boolean, tiny = false): GpuReport => ({
    tiny,
    machine: { name: "GPU", emulated, memoryBytes: 2 ** 37, instructionSet: "sm_90a" } as GpuReport["machine"],
    gpu: [],
    peer: null,
    commit: "c",
    command: "npm run bench",
    date: "2026-01-01T00:00:00Z",
    ownCopy: null,
    rows: [],
    failures: {},
  });
  it("replace the section of a file and nothing else", () => {
    const path = join(dir, "RESULTS.md");
    writeFileSync(path, "# Results\n<!-- gpu: written by the benchmark -->\nold\n<!-- gpu: end -->\nrest\n");
    writeMarkdown(path, report(false));
    const text = readFileSync(path, "utf8");
    expect(text.startsWith("# Results\n<!-- gpu: written by the benchmark -->\n")).toBe(true);
    expect(text.endsWith("<!-- gpu: end -->\nrest\n")).toBe(true);
    expect(text).not.toContain("old");
    expect(text).toContain("not measured");
  });
  it("are never made of the emulation, nor of tiny sizes", () => {
    expect(() => writeMarkdown(join(dir, "new.md"), report(true))).toThrow(/not a measurement/);
    expect(() => writeMarkdown(join(dir, "new.md"), report(false, true))).toThrow(/not a measurement/);
  });
  it("RESULTS.md has the section, and where nothing was measured the floors of the code", () => {
    const text = readFileSync(new URL("../../bench/RESULTS.md", import.meta.url), "utf8");
    const [, section] = /<!-- gpu: written by the benchmark -->\n([^]*)<!-- gpu: end -->/.exec(text)!;
    if (section!.includes("Nothing was measured")) expect(section).toContain(floorTable([]));
  });
});

withCuda("benchmark cases on the emulation", () => {
  /** At tiny sizes many cases are the same: each once. Of the sweep one model and the routing that leaves experts without rows. */
  const kinds = new Map(
    gpuCases(true)
      .filter((c) => c.headline || c.id.startsWith("layer/mixtral-T2048-extreme"))
      .map((c) => [JSON.stringify([parts(c.id).what, parts(c.id).mode.replace(/^M\d+/, ""), c.sizes]), c]),
  );
  const cases = [...kinds.values()];
  const run = (filter: RegExp): Promise<number> =>
    runGpu({
      device: "cuda",
      cases: cases.filter((c) => filter.test(c.id)),
      peer: null,
      variants: /./,
      peers: "none",
      seconds: 0.001,
      json: null,
      markdown: null,
      tiny: true,
    });
  const families = [
    /^(copy|gemm|heads_gemm|head|grad_norm|adamw|saliency)\//,
    /^(rms_norm|rope|swiglu|soft_cap|add|routing|combine|sigmoid_gate|scale_rows|sample)\//,
    /^(causal_conv|gated_delta_rule|delta_gates|multiply|regroup|transpose|dropout)\//,
    /^attention/,
    /^grouped/,
    /^layer/,
    /^step/,
  ];
  it("leave none out", () => {
    for (const c of cases) expect(families.filter((f) => f.test(c.id)).length, c.id).toBe(1);
  });
  for (const filter of families)
    it(
      filter.source,
      async () => {
        const { code, lines } = await quietly(() => run(filter));
        expect(code, lines.join("\n")).toBe(0);
        const rows = lines.filter((text) => filter.test(text));
        expect(rows.length).toBe(cases.filter((c) => filter.test(c.id)).length);
        for (const line of rows) expect(line).toContain("emulated: not a measurement");
      },
      300_000,
    );
});
