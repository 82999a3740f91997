// The survey's machinery: what becomes of a stage whose process hangs, dies or never begins; that none is told as one that went well
// without having run; what the summary makes of findings.

import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { GpuRow } from "../../bench/gpu/row.ts";
import { gpuCases } from "../../bench/gpu/run.ts";
import { flags, notCompared } from "../../scripts/survey/ab.ts";
import { advice, gapsOf, rowsOf } from "../../scripts/survey/advice.ts";
import { close, statusOf } from "../../scripts/survey/record.ts";
import type { ItemRecord, ItemStatus, StageRecord, Survey } from "../../scripts/survey/record.ts";
import { markdown } from "../../scripts/survey/report.ts";
import { stages, WHOLE } from "../../scripts/survey/stages.ts";
import { supervise } from "../../scripts/survey/supervise.ts";

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "esft-survey-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const blank = (name = "stage"): StageRecord => ({
  name,
  teaches: "nothing",
  bound: 10,
  expected: 5,
  state: "waiting",
  status: "waiting",
  seconds: 0,
  notes: [],
  fault: null,
  items: [],
});

/** A stage whose child is this program; `plan`, `begin`, `end` and `done` are there. */
async function runStage(body: string, seconds = 20, abortAfter?: number): Promise<StageRecord> {
  const stage = blank();
  const program = join(dir, `${Math.random()}.mjs`);
  const prelude = `
    import { writeSync } from "node:fs";
    import { spawn } from "node:child_process";
    const { done } = JSON.parse(process.argv[2]);
    const say = (line) => writeSync(3, JSON.stringify(line) + "\\n");
    const plan = (...names) => say({ say: "plan", items: names.map((n) => ({ name: n.replace("?", ""), optional: n.endsWith("?") })) });
    const begin = (item, patience = null) => say({ say: "begin", item, patience });
    const end = (item, status = "ok", text = "") => say({ say: "end", item, status, text });
    const hang = () => new Promise(() => setInterval(() => undefined, 1000));
    process.stdin.resume();
  `;
  writeFileSync(program, `${prelude}\n${body}\nprocess.exit(0);`);
  const stop = new AbortController();
  if (abortAfter !== undefined) setTimeout(() => stop.abort(), abortAfter);
  await supervise(stage, {
    command: [process.execPath, program],
    env: process.env,
    task: { dry: true, until: Date.now() + seconds * 1000, python: null, dir },
    log: join(dir, "log"),
    changed: () => undefined,
    signal: stop.signal,
  });
  return stage;
}
const statuses = (s: StageRecord): string[] => s.items.map((i) => i.status);

describe("a stage under its bound", () => {
  it("is in order when its items are", async () => {
    const s = await runStage(`plan("a", "b", "c?"); for (const x of ["a", "b"]) { begin(x); end(x); }`);
    expect([s.status, ...statuses(s)]).toEqual(["ok", "ok", "ok", "no time"]);
  });

  it("loses one item to a hang, and goes on in a new process", async () => {
    const s = await runStage(`
      plan("a", "b", "c");
      for (const x of ["a", "b", "c"].filter((x) => !done.includes(x))) { begin(x, 0.3); if (x === "b") await hang(); end(x); }`);
    expect([s.status, ...statuses(s)]).toEqual(["failed", "ok", "hung", "ok"]);
    expect(s.items[1]!.text).toBe("no sign of life for 0.3 s");
  });

  it("loses one item to a crash, and shows its last words", async () => {
    const s = await runStage(`
      plan("a", "b", "c");
      for (const x of ["a", "b", "c"].filter((x) => !done.includes(x))) {
        begin(x);
        if (x === "b") { console.log("about to fall"); process.kill(process.pid, "SIGSEGV"); await hang(); }
        end(x);
      }`);
    expect([s.status, ...statuses(s)]).toEqual(["failed", "ok", "died", "ok"]);
    expect(s.items[1]!.text).toMatch(/SIGSEGV.*about to fall/);
  });

  it("goes on in a new process when the device is not to be trusted", async () => {
    const s = await runStage(`
      plan("a", "b");
      if (done.length === 0) { begin("a"); end("a", "failed", "illegal address"); process.exit(75); }
      begin("b"); end("b", "ok", String(done));`);
    expect([s.status, ...statuses(s), s.items[1]!.text]).toEqual(["failed", "failed", "ok", "a"]);
  });

  it("is never ok when nothing ran", async () => {
    expect(await runStage("process.exit(3)")).toMatchObject({ status: "failed", fault: /exit 3/ });
    expect(await runStage('plan("a"); process.exit(3)')).toMatchObject({ status: "failed", fault: /before an item began/ });
    expect(await runStage("plan()")).toMatchObject({ status: "not run" });
    expect(await runStage('plan("a"); begin("a"); end("a", "absent", "no tool")')).toMatchObject({ status: "not run" });
    expect(await runStage('plan("a", "b?")')).toMatchObject({ status: "cut" });
    expect(await runStage("plan('a')", 0)).toMatchObject({
      status: "not run",
      items: [],
      notes: ["its time was over before it had an item"],
    });
  });

  it("ends at its bound, with whatever the child has started", async () => {
    const began = Date.now();
    const s = await runStage(
      `plan("a", "b"); begin("a"); const c = spawn("sleep", ["1000"]); say({ say: "progress", item: "a", text: "pid " + c.pid }); await hang();`,
      3,
    );
    expect(Date.now() - began).toBeLessThan(10_000);
    expect([s.status, ...statuses(s)]).toEqual(["cut", "cut", "cut"]);
    const pid = Number(/pid (\d+)/.exec(s.items[0]!.text)![1]);
    await sleep(200);
    const state = ((): string => {
      try {
        return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]![0]!;
      } catch {
        return "gone";
      }
    })();
    expect(["gone", "Z"]).toContain(state);
  });

  it("ends when it is told to", async () => {
    const s = await runStage('plan("a"); begin("a"); await hang();', 20, 1500);
    expect(s.status).toBe("cut");
  });
});

describe("statuses", () => {
  it("say ok only where something ran and nothing is missing", () => {
    const all: ItemStatus[] = ["waiting", "running", "ok", "failed", "absent", "hung", "died", "cut", "no time"];
    const item = (status: ItemStatus, optional: boolean): ItemRecord => ({ name: "", optional, status, seconds: 0, text: "" });
    for (const a of all)
      for (const b of all)
        for (const optional of [false, true]) {
          const s = { ...blank(), items: [item(a, false), item(b, optional)] };
          expect(statusOf(s)).toBe("waiting");
          close(s, 1);
          const ran = a === "ok" || b === "ok";
          const missing = !["ok", "absent"].includes(a) || !["ok", "absent", ...(optional ? ["waiting", "no time"] : [])].includes(b);
          expect(s.status === "ok", `${a} ${b} ${optional}: ${s.status}`).toBe(ran && !missing);
        }
  });
});

const row = (id: string, more: Partial<GpuRow>): GpuRow =>
  ({ id, ms: 1, flops: null, bytes: null, tokensPerSecond: null, cublas: null, copy: null, bitIdentical: true, speedup: null, peer: null, ...more }) as GpuRow; // prettier-ignore

describe("the summary", () => {
  const survey = (...of: Partial<StageRecord>[]): Survey => ({
    format: 1,
    version: "v",
    began: "t",
    seconds: WHOLE,
    dry: false,
    library: "l",
    peer: "p",
    stages: of.map((s, i) => ({ ...blank(`s${i}`), state: "over", status: "ok", ...s })),
    ended: { seconds: 1, how: "finished" },
  });
  const item = (name: string, data?: unknown, more: Partial<ItemRecord> = {}): ItemRecord => ({ name, optional: false, status: "ok", seconds: 1, text: "", data, ...more }); // prettier-ignore
  const measured = (r: GpuRow) => item(r.id, { row: r, peer: null, no: null, gpu: null });

  it("names what failed before what is slow", () => {
    const lines = advice(
      survey(
        { status: "failed", items: [item("probe", undefined, { status: "hung", text: "no sign of life for 4 s" })] },
        { status: "not run", notes: ["no device: none"] },
        { items: [item("slow", undefined, { seconds: 9 })] },
      ),
    );
    expect(lines[0]).toBe('Mend what failed in "s0": 1 of 1 items: probe (hung: no sign of life for 4 s)');
    expect(lines[1]).toBe('"s1" did not run: no device: none');
    expect(lines[2]).toMatch(/Slowest against its expectation: "s2", 9 s where 5 s were expected; most of it slow/);
  });

  it("orders gaps: behind PyTorch first, then far from what the machine can do", () => {
    const gaps = gapsOf([
      row("near", { flops: 788e9 * 0.9 }),
      row("far", { flops: 788e9 * 0.25 }),
      row("copy", { bytes: 4.3e9 * 0.5 }),
      row("behind", { speedup: 0.8, flops: 788e9 * 0.7, peer: { id: "a/b/c/d/sdpa" } as GpuRow["peer"] }),
    ]);
    expect(gaps.map((g) => [g.id, g.factor.toFixed(2), g.against])).toEqual([
      ["behind", "1.25", "PyTorch (sdpa)"],
      ["far", "4.00", "cuBLAS's rate"],
      ["copy", "2.00", "the rate of a copy"],
      ["near", "1.11", "cuBLAS's rate"],
    ]);
    const lines = advice(survey({ items: [measured(row("far", { flops: 788e9 * 0.25 }))] }));
    expect(lines.join("\n")).toContain("Largest gaps: far at 4.00× the time of cuBLAS's rate");
  });

  it("takes the strongest peer of a case that was measured more than once", () => {
    const twice = [row("a", {}), row("a", { speedup: 2 }), row("a", { speedup: 0.5 }), row("a", { speedup: 3 })];
    expect(rowsOf(survey({ items: twice.map(measured) })).map((r) => r.speedup)).toEqual([0.5]);
  });

  it("says which value of a flag won", () => {
    const of = (ratio: number, i: number) =>
      item(`x${i}`, { flag: "F", values: ["1", "2"], case: `c${i}`, ms: [1, ratio], ratio, same: ratio < 1.1, no: null });
    expect(advice(survey({ items: [0.9, 0.95].map(of) })).join()).toMatch(/F: 2 wins .*faster in 2, slower in 0 of 2/);
    expect(advice(survey({ items: [1.1, 1].map(of) })).join()).toMatch(/F: 1 wins .*other bits in 1/);
    expect(advice(survey({ items: [0.9, 1.1].map(of) })).join()).toMatch(/F: depends on the case/);
  });

  it("does not take an emulated time for one", () => {
    const s = survey({ items: [item("x", { row: row("far", { flops: 1 }), peer: null, no: "emulated: not a measurement" })] });
    expect(advice(s).join()).not.toContain("gaps");
    expect(markdown(s)).not.toContain("## Floors");
  });
});

describe("the tables of the survey", () => {
  it("hold every variable that the library and the trainer read, as a comparison or with a reason", () => {
    const read = ["csrc/cuda", "lib/tensor"].flatMap((folder) =>
      readdirSync(folder, { recursive: true, encoding: "utf8" })
        .filter((f) => /\.(cu|cuh|cc|h|ts)$/.test(f))
        .flatMap((f) => [...readFileSync(join(folder, f), "utf8").matchAll(/"(ESFT_CUDA_[A-Z_]+)"/g)].map((m) => m[1]!)),
    );
    const known = new Set([...flags.map((f) => f.name), ...Object.keys(notCompared)]);
    expect([...new Set(read)].filter((name) => !known.has(name))).toEqual([]);
    expect([...known].filter((name) => !read.includes(name))).toEqual([]);
  });

  it("compare flags on cases that exist", () => {
    const ids = new Set(gpuCases(false).map((c) => c.id));
    for (const flag of flags) for (const id of flag.cases) expect(ids).toContain(id);
  });

  it("leave the last stage time", () => {
    expect(WHOLE - stages.reduce((n, s) => n + (s.seconds ?? 0), 0)).toBeGreaterThanOrEqual(30);
    expect(stages.filter((s) => s.seconds === null).map((s) => s.name)).toEqual([stages.at(-1)!.name]);
    for (const s of stages) expect(s.expected).toBeLessThanOrEqual(s.seconds ?? Infinity);
  });
});
