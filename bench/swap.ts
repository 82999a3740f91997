// npx tsx bench/swap.ts [--dir DIR] [--threads N] [--rounds N]: how long it takes to compute with another resident adapter. An ESFT patch of
// 6 of 64 experts per layer (a tenth of the experts) on random weights in the shape of OLMoE-1B-7B with 4 layers; the time to read the
// patch's bytes once is measured between the rounds.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ExampleBuilder } from "../lib/data/examples.ts";
import { ExpertSet } from "../lib/experts/expert_set.ts";
import { MoeModel } from "../lib/moe_model.ts";
import { PeakMeter } from "./cpu/peak.ts";
import { writeOlmoe } from "./olmoe_model.ts";

const { values } = parseArgs({
  options: {
    dir: { type: "string", default: join(tmpdir(), "esft-olmoe-4-layers") },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "7" },
  },
});
const [threads, rounds] = [Number(values.threads), Number(values.rounds)];
const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;

await writeOlmoe(values.dir);
const out = mkdtempSync(join(tmpdir(), "esft-swap-"));
const meter = PeakMeter.start();
try {
  await using model = await MoeModel.fromPretrained(values.dir, { device: "cpu", threads, precision: "bf16", checkWeights: false });
  const experts = new ExpertSet({ layers: model.spec.layers.map((_, layer) => [layer, { ranked: [3, 7, 20, 31, 44, 63] }] as const) });
  const { vocab } = model.spec;
  const ids = Array.from({ length: 64 }, (_, i) => (i * 7919) % vocab);
  const builder = new ExampleBuilder();
  builder.add({ inputIds: ids, labels: ids }, 1);
  const outDir = join(out, "run");
  const method = { type: "esft", experts } as const;
  await model.train({ data: builder.build(null), method, steps: 1, rowsPerStep: 1, evalFraction: 0, outDir }).result;
  await model.adapters.add("patch", join(out, "run"));
  const { bytes } = model.adapters.list()[0]!;
  const token = {
    ids: Int32Array.of(5),
    positions: Int32Array.of(0),
    docStart: Int32Array.of(0),
    targets: Int32Array.of(-100),
    supervised: 0,
  };
  const pass = async (): Promise<Float32Array> => model.transformer.lastLogits(token);
  const rows: { swap: number; back: number; after: number; read: number; same: boolean }[] = [];
  const base = await pass();
  for (let i = 0; i < rounds; i++) {
    const read = meter ? bytes / ((await meter.sample(threads, 300)).read * 1e9) : Number.NaN;
    const t0 = performance.now();
    await pass();
    const t1 = performance.now();
    model.adapters.switchTo(model.adapters.groupOf("patch"));
    const t2 = performance.now();
    await pass();
    const t3 = performance.now();
    model.adapters.switchTo(null);
    const t4 = performance.now();
    const again = await pass();
    const same = again.every((x, j) => Object.is(x, base[j]));
    rows.push({ swap: t2 - t1, back: t4 - t3, after: t3 - t2 - (t1 - t0), read: 1000 * read, same });
  }
  const of = (key: "swap" | "back" | "after" | "read"): string => median(rows.map((r) => r[key])).toFixed(2);
  console.log(
    `a patch of ${(bytes / 1e6).toFixed(0)} MB: to it ${of("swap")} ms, back ${of("back")} ms, the next token ${of("after")} ms later than without; ` +
      `its bytes are read once in ${of("read")} ms; back again the base's bits: ${rows.every((r) => r.same) ? "yes" : "NO"}`,
  );
} finally {
  meter?.stop();
  rmSync(out, { recursive: true, force: true });
}
