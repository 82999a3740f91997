// Does anything leak: npm run leaks [-- --steps N] [--adapters N] [--models N] [--aborted N]
//   --steps     training steps of one run (10000)
//   --adapters  times an adapter is applied and removed (10000)
//   --models    times a model is opened and closed (1000)
//   --aborted   runs that are aborted in a step (1000)
//
// Tiny models. Between repetitions it looks at resident memory, V8's heap, the memory that V8 was told of, open file handles and
// threads. What follows the warm-up may rise by no more than test/support/leaks.ts allows. 0 leaves a part out. Exit 1 when something
// grows. Linux only.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { Dataset, ExpertSet, MoeModel } from "../lib/index.ts";
import type { TrainRequest } from "../lib/index.ts";
import { flat, Gauge, growth } from "../test/support/leaks.ts";
import type { Quantity } from "../test/support/leaks.ts";
import { tinyDeepseek, tinyOlmoe, toyRows, writeTinyModel } from "../test/support/tiny_model.ts";
import { stop } from "./run.ts";

const { values } = parseArgs({
  options: {
    steps: { type: "string", default: "10000" },
    adapters: { type: "string", default: "10000" },
    models: { type: "string", default: "1000" },
    aborted: { type: "string", default: "1000" },
  },
});
if (process.platform !== "linux") stop("leaks", "it reads /proc, which only Linux has");
const count = (text: string): number => (/^\d+$/.test(text) ? Number(text) : stop("leaks", `expected a number, received "${text}"`));

const folder = mkdtempSync(path.join(tmpdir(), "esft-leaks-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const dir = path.join(folder, "model");
const open = (adapter?: string): Promise<MoeModel> => MoeModel.fromPretrained(dir, { device: "cpu", threads: 2, adapter });

const experts = new ExpertSet({ layers: [[1, { ranked: [0, 3] }]] });
const request = (outDir: string, more: Partial<TrainRequest> = {}): TrainRequest => ({
  data: { rows: Dataset.fromRows(toyRows(40)), maxLength: 64 },
  method: { type: "esft", experts },
  outDir: path.join(folder, outDir),
  rowsPerStep: 2,
  evalEvery: 0,
  keep: "last",
  ...more,
});

let failed = false;
function report(name: string, repetitions: number, gauge: Gauge, seconds: number): void {
  const shown = (quantity: Quantity, value: number): string =>
    quantity === "handles" || quantity === "threads"
      ? value.toFixed(Number.isInteger(value) ? 0 : 1)
      : `${(value / 2 ** 20).toFixed(2)} MB`;
  console.log(`${name}: ${repetitions}, ${gauge.samples.length} looks, ${seconds.toFixed(0)} s`);
  for (const [key, g] of Object.entries(growth(gauge.samples))) {
    const quantity = key as Quantity;
    const line = `${shown(quantity, g.first)} → ${shown(quantity, g.last)}, rise ${shown(quantity, g.rise)} (flat up to ${shown(quantity, flat[quantity])})`;
    console.log(`  ${g.flat ? "flat " : "GROWS"} ${quantity.padEnd(9)} ${line}`);
    failed ||= !g.flat;
  }
}

async function part(name: string, repetitions: number, work: (gauge: Gauge) => Promise<void>): Promise<void> {
  if (repetitions === 0) return;
  if (repetitions < 20) stop("leaks", `${name}: expected at least 20 repetitions, for a line through them, received ${repetitions}`);
  const gauge = new Gauge(repetitions);
  const started = Date.now();
  await work(gauge);
  report(name, repetitions, gauge, (Date.now() - started) / 1000);
}

await writeTinyModel(dir, tinyDeepseek);
const olmoe = path.join(folder, "olmoe");
await writeTinyModel(olmoe, tinyOlmoe);

await part("training steps", count(values.steps), async (gauge) => {
  await using model = await open();
  const steps = count(values.steps);
  for await (const event of model.train(request("long", { steps, saveEvery: Math.max(1, Math.floor(steps / 20)) })))
    if (event.type === "step") await gauge.again();
});

await part("adapters applied and removed", count(values.adapters), async (gauge) => {
  await using model = await open();
  await model.train(request("adapter", { steps: 1 })).result;
  for (let i = 0; i < count(values.adapters); i++) {
    await model.applyAdapter(path.join(folder, "adapter"));
    model.removeAdapter();
    await gauge.again();
  }
});

await part("models opened and closed", count(values.models), async (gauge) => {
  const rows = Dataset.fromRows(toyRows(4));
  for (let i = 0; i < count(values.models); i++) {
    {
      await using model = i % 2 === 0 ? await open() : await MoeModel.fromPretrained(olmoe, { device: "cpu", threads: 2 });
      if (i % 4 === 0) await model.evaluate(rows, { maxLength: 64 });
    }
    await gauge.again();
  }
});

await part("aborted runs", count(values.aborted), async (gauge) => {
  await using model = await open();
  for (let i = 0; i < count(values.aborted); i++) {
    const abort = new AbortController();
    const run = model.train(request("aborted", { steps: 50, saveEvery: 1000, signal: abort.signal }));
    for await (const event of run) if (event.type === "step" && event.step > i % 3) abort.abort();
    await run.result;
    rmSync(path.join(folder, "aborted"), { recursive: true, force: true });
    await gauge.again();
  }
});

process.exitCode = failed ? 1 : 0;
