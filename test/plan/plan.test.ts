// Budget → plan: the memory that it states is the run's own, what does not fit is told, the ops of a step are those of its pass. No GPU.
// Alone: npx vitest run test/plan

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { bestOptions, Device, MoeModel, plan, Tensor } from "../../lib/index.ts";
import type { PlanChoice } from "../../lib/index.ts";
import { memoryBytes } from "../../lib/cli/plan.ts";
import { costOf, evenLoads } from "../../lib/plan/cost.ts";
import { Shadow, ShadowList } from "../../lib/plan/trace.ts";
import { writeRows } from "../cli/support.ts";
import { tinyOlmoe, toyRows, writeTinyModel } from "../support/tiny_model.ts";

let root = "";
let dir = "";
let data = "";
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "esft-plan-"));
  dir = join(root, "model");
  data = writeRows(join(root, "rows.jsonl"), toyRows(24));
  await writeTinyModel(dir, tinyOlmoe);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const asked = { memory: 4e9, device: "cpu", threads: 1, rowsPerStep: 4, steps: 2, dataOptions: { maxLength: 64 }, time: false } as const;

/** Bytes of tensors that own memory, at their most. */
class Accounts implements Disposable {
  peak = 0;
  private live = 0;
  private readonly held = new Map<Tensor, number>();
  constructor() {
    const { empty } = Device.prototype;
    const { dispose } = Tensor.prototype;
    const taken = (t: Tensor): Tensor => {
      this.held.set(t, t.bytes);
      this.live += t.bytes;
      this.peak = Math.max(this.peak, this.live);
      return t;
    };
    const given = (t: Tensor): void => {
      this.live -= this.held.get(t) ?? 0;
      this.held.delete(t);
    };
    vi.spyOn(Device.prototype, "empty").mockImplementation(function (this: Device, ...args) {
      return taken(empty.apply(this, args));
    });
    vi.spyOn(Tensor.prototype, "dispose").mockImplementation(function (this: Tensor) {
      given(this);
      dispose.call(this);
    });
  }
  [Symbol.dispose](): void {
    vi.restoreAllMocks();
  }
}

async function run(choice: PlanChoice, method: unknown, out: string) {
  await using model = await MoeModel.fromPretrained(dir, { device: "cpu", threads: 1 });
  using accounts = new Accounts();
  let start = null as null | { stateBytes: number; activationBytes: number; hostBytes: number };
  const { rowsPerStep, microBatch, maxLength } = choice;
  const training = model.train({
    data: { file: data, maxLength },
    method: method as never,
    steps: 2,
    rowsPerStep,
    microBatch,
    outDir: join(root, out),
  });
  for await (const event of training) if (event.type === "start") start = event;
  await training.result;
  return { start: start!, peak: accounts.peak };
}

it("states the memory that a run then states and takes", async () => {
  for (const [method, options] of [
    ["lora", { type: "lora" }],
    ["full", "full"],
  ] as const) {
    const [choice] = (await plan(dir, { ...asked, data, method })).best;
    const { bytes } = choice!;
    const { start, peak } = await run(choice!, options, method);
    expect(bytes.activations).toBe(start.activationBytes);
    expect(start.hostBytes).toBe(bytes.host + bytes.data);
    const state = bytes.trained + bytes.gradients + bytes.optimizer;
    expect(start.stateBytes - state).toBeGreaterThanOrEqual(0); // rounded up to whole cache lines, for each tensor
    expect(start.stateBytes).toBeLessThan(state * 1.05 + 65536);
    // What the addon has accounted for: beside the plan the batch's vectors, rotary tables and counters.
    expect(peak).toBeGreaterThanOrEqual(start.stateBytes + bytes.activations);
    expect(peak).toBeLessThan((start.stateBytes + bytes.activations) * 1.05 + 262144);
  }
}, 120_000);

it("turns the batch down before it gives up, and says what does not fit", async () => {
  const all = await plan(dir, { ...asked, data });
  expect(all.best.map((c) => c.method)).toEqual(["esft", "lora", "perft"]);
  expect(all.assumptions.join()).toMatch(/no profile/);
  const widest = (await plan(dir, { ...asked, data, method: "full" })).best[0]!;
  expect(widest.microBatch).toBe(4);
  const tight = await plan(dir, { ...asked, data, method: "full", memory: widest.bytes.total + 5e6 - widest.bytes.activations / 2 });
  expect(tight.best.length + tight.unfit.length).toBe(1);
  const none = await plan(dir, { ...asked, data, memory: 1e6 });
  expect(none.best).toEqual([]);
  expect(bestOptions(none)).toBeNull();
  expect(none.unfit[0]!.reason).toMatch(/too much; most of it/);
  expect(bestOptions(all)).toMatchObject({ rowsPerStep: 4, microBatch: 4, data: { maxLength: 64 } });
}, 120_000);

it("measures the machine for the ops of a step", async () => {
  process.env["XDG_CACHE_HOME"] = join(root, "cache");
  const first = await plan(dir, { ...asked, data, method: "esft", time: true });
  expect(first.calibrationSeconds).toBeGreaterThan(0);
  const { time } = first.best[0]!;
  expect(time!.secondsPerStep).toBeGreaterThan(0);
  expect(time!.steps).toBe(2);
  expect((await plan(dir, { ...asked, data, method: "esft", time: true })).calibrationSeconds).toBeLessThan(first.calibrationSeconds);
}, 120_000);

it("counts products by their rows", () => {
  const rows = { pairs: 10, supervised: 3, loads: evenLoads };
  const [a, b, c] = [new Shadow("f32", [8, 4]), new Shadow("bf16", [6, 4]), new Shadow("f32", [8, 6])];
  expect(costOf({ op: "gemm", values: { a, b, c } }, rows)).toEqual({ flops: 2 * 8 * 4 * 6, bytes: 4 * 32 + 2 * 24 + 4 * 48 });
  const w = new ShadowList(Array.from({ length: 4 }, () => b), 0); // prettier-ignore
  const grouped = { x: a, w, offsets: new Shadow("i32", [5]), y: c };
  expect(costOf({ op: "grouped_gemm_nt", values: grouped }, rows).flops).toBe(2 * 8 * 24);
  expect(costOf({ op: "grouped_gemm_nt", values: { ...grouped, groups: [0, 1] } }, rows).flops).toBe(2 * 4 * 24);
});

it("reads memory as people write it", () => {
  expect(["24GB", "16 GiB", "800mb", "5e9", "1000"].map((t) => { try { return memoryBytes(t); } catch { return "refused"; } })) // prettier-ignore
    .toEqual([24e9, 2 ** 34, 800e6, "refused", 1000]);
});
