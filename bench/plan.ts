// How near esft plan is to what a run then takes: bytes and seconds, estimated and measured in turns.
//
//   npx tsx bench/plan.ts [--rounds N] [--threads N] [--olmoe DIR]
//
// Models: examples/embedded, and a random checkpoint in the shape of OLMoE-1B-7B with 2 layers (written to DIR, 1.7 GB, if it is not there).
// A round measures the machine anew, then trains a few steps; the columns are medians over the rounds with their spread.
// "device" is what the addon has accounted for, "RSS" the whole process with the mapped weights that it has touched.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MoeModel, plan } from "../lib/index.ts";
import type { PlanMethod } from "../lib/plan/candidates.ts";
import { native } from "../lib/native.ts";
import { table } from "../lib/format.ts";
import { writeOlmoe } from "./olmoe_model.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    threads: { type: "string" },
    olmoe: { type: "string" },
    steps: { type: "string", default: "6" },
  },
});
const threads = values.threads === undefined ? undefined : Number(values.threads);
const STEPS = Number(values.steps);
const root = join(import.meta.dirname, "..");
const out = mkdtempSync(join(tmpdir(), "esft-bench-plan-"));

interface Setting {
  readonly model: string;
  readonly dir: string;
  readonly data: string;
  readonly template: string;
  readonly maxLength: number;
  readonly rowsPerStep: number;
}

const median = (xs: readonly number[]): number => [...xs].sort((a, b) => a - b)[xs.length >> 1]!;
const spread = (xs: readonly number[]): string => `${((100 * (Math.max(...xs) - Math.min(...xs))) / median(xs)).toFixed(0)} %`;

async function measure({ dir, data, template, maxLength, rowsPerStep }: Setting, method: PlanMethod, round: number) {
  const rows = { rowsPerStep, steps: STEPS, threads, device: "cpu" as const };
  const { best } = await plan(dir, { ...rows, data, memory: 1e12, method, dataOptions: { maxLength, template }, cached: false });
  const choice = best[0]!;
  const { bytes, microBatch } = choice;
  await using model = await MoeModel.fromPretrained(dir, { device: "cpu", threads });
  const before = native.externalMemory();
  let [peak, resident] = [0, 0];
  const seconds: number[] = [];
  const E = choice.experts === null ? 0 : Math.round(choice.experts / model.spec.layers.length);
  const chosen = Object.fromEntries(model.spec.layers.map((_, l) => [l, Array.from({ length: E }, (_, i) => i)]));
  const run = model.train({
    data: {
      file: data,
      maxLength,
    },
    method: (method === "esft"
      ? {
          type: "esft",
          experts: chosen,
        }
      : method) as never,
    steps: STEPS,
    rowsPerStep,
    microBatch,
    evalFraction: 0,
    outDir: join(out, `${method}-${round}-${Math.random().toString(36).slice(2)}`),
  });
  for await (const event of run) {
    peak = Math.max(peak, native.externalMemory() - before);
    resident = Math.max(resident, process.memoryUsage.rss());
    if (event.type === "step" && event.step > 1) seconds.push(event.seconds);
  }
  await run.result;
  const device = bytes.trained + bytes.gradients + bytes.optimizer + bytes.activations;
  return { device, peak, total: bytes.total, resident, estimated: choice.time!.secondsPerStep, taken: median(seconds) };
}

const text = join(out, "rows.jsonl");
writeFileSync(text, Array.from({ length: 64 }, (_, i) => JSON.stringify({ prompt: "Tell.", completion: "the house by the sea has a door and a lamp ".repeat(60 + (i % 7)) })).join("\n")); // prettier-ignore
const olmoe = values.olmoe ?? join(tmpdir(), "esft-olmoe-2");
await writeOlmoe(olmoe, { num_hidden_layers: 2 });
await cp(join(root, "examples/embedded/tokenizer.json"), join(olmoe, "tokenizer.json"));
await cp(join(root, "examples/embedded/tokenizer_config.json"), join(olmoe, "tokenizer_config.json"));
const embedded = join(root, "examples/embedded");
const settings: Setting[] = [
  {
    model: "embedded",
    dir: embedded,
    data: join(embedded, "data/booking.train.jsonl"),
    template: "tokenizer",
    maxLength: 256,
    rowsPerStep: 8,
  },
  { model: "olmoe-2", dir: olmoe, data: text, template: "esft", maxLength: 512, rowsPerStep: 2 },
];
const found: (string | number)[][] = [];
for (const setting of settings)
  for (const method of setting.model === "embedded" ? (["esft", "lora", "full"] as const) : (["esft", "lora"] as const)) {
    const rounds: Awaited<ReturnType<typeof measure>>[] = [];
    for (let r = 0; r < Number(values.rounds); r++) {
      rounds.push(await measure(setting, method, r));
      console.error(`${setting.model} ${method} ${r + 1}: ${JSON.stringify(rounds.at(-1))}`);
    }
    const of = (key: keyof (typeof rounds)[number]): number[] => rounds.map((x) => x[key]);
    const error = (a: keyof (typeof rounds)[number], b: keyof (typeof rounds)[number]): string =>
      `${(100 * (median(of(a)) / median(of(b)) - 1)).toFixed(1)} %`;
    const MB = (key: keyof (typeof rounds)[number]): string => (median(of(key)) / 1e6).toFixed(1);
    const ms = (key: keyof (typeof rounds)[number]): string => (1000 * median(of(key))).toFixed(1);
    found.push([
      `${setting.model} ${method}`,
      MB("device"),
      MB("peak"),
      error("device", "peak"),
      MB("total"),
      MB("resident"),
      error("total", "resident"),
      ms("estimated"),
      spread(of("estimated")),
      ms("taken"),
      spread(of("taken")),
      error("estimated", "taken"),
    ]);
  }
console.log(table(["", "device MB", "peak", "error", "total MB", "RSS", "error", "ms/step", "spread", "taken", "spread", "error"], found));
rmSync(out, { recursive: true, force: true });
process.exit(0);
