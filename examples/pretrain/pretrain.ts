// Pretrains the embedded model by this project's own full fine-tuning path and writes it as a Hugging Face checkpoint.
//
//   npx tsx examples/pretrain/build_corpus.ts            text, once
//   npx tsx examples/pretrain/init.ts --out out/pretrain/init
//   npx tsx examples/pretrain/pretrain.ts [--steps 1500] [--resume] [--precision bf16] [--out examples/embedded]
//
// Every token is learned, prompts too: a small model needs the signal.

import { createReadStream } from "node:fs";
import { copyFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { ExampleBuilder } from "../../lib/data/examples.ts";
import type { Examples } from "../../lib/data/examples.ts";
import { mergeAdapter, MoeModel, openCheckpoint } from "../../lib/index.ts";
import type { Row } from "./domains/types.ts";
import { rowEncoder } from "./encode_row.ts";

const { values } = parseArgs({
  options: {
    corpus: { type: "string", default: "out/pretrain" },
    init: { type: "string", default: "out/pretrain/init" },
    run: { type: "string", default: "out/pretrain/run" },
    out: { type: "string", default: "out/pretrain/model" },
    steps: { type: "string", default: "1500" },
    lr: { type: "string", default: "2e-3" },
    rows: { type: "string", default: "16" },
    balance: { type: "string", default: "0.02" },
    precision: { type: "string", default: "f32" },
    resume: { type: "boolean", default: false },
  },
});

async function examples(file: string): Promise<Examples> {
  const encoder = await rowEncoder("examples/embedded");
  const builder = new ExampleBuilder();
  let line = 0;
  for await (const text of createInterface({ input: createReadStream(file) })) {
    const { ids, labels } = await encoder.encode(JSON.parse(text) as Row, { learnPrompts: true });
    builder.add({ inputIds: ids, labels }, ++line);
  }
  return builder.build(file);
}

const rows = await examples(join(values.corpus, "train.jsonl"));
const files = (await readdir(join(values.corpus, "validation"))).filter((f) => /^[a-z_]+\.jsonl$/.test(f)).sort();
const heldOut = new ExampleBuilder();
for (const f of files) {
  const part = await examples(join(values.corpus, "validation", f));
  for (let i = 0; i < Math.min(40, part.length); i++) heldOut.add(part.get(i), i + 1);
}
const model = await MoeModel.fromPretrained(values.init, { precision: values.precision === "bf16" ? "bf16" : "f32" });
const stop = new AbortController();
process.once("SIGINT", () => stop.abort(new Error("interrupted")));
const run = model.train({
  data: { rows, maxLength: 256, onOverflow: "truncateRight" },
  evalData: heldOut.build(null),
  method: { type: "full" },
  outDir: values.run,
  resume: values.resume,
  signal: stop.signal,
  steps: Number(values.steps),
  rowsPerStep: Number(values.rows),
  microBatch: Number(values.rows),
  seed: 1,
  evalEvery: 100,
  saveEvery: 250,
  keep: "last",
  adapterDtype: "f32",
  auxLoss: Number(values.balance),
  optimizer: { lr: Number(values.lr), beta2: 0.95, weightDecay: 0.05, clipNorm: 1, schedule: "cosine", warmupSteps: 50, minLrRatio: 0.05 },
});
for await (const e of run) {
  if (e.type === "step" && (e.step % 10 === 0 || e.step <= 5))
    console.log(
      `step ${e.step}/${e.steps}  loss ${e.loss.toFixed(4)}  acc ${e.accuracy.toFixed(3)}  norm ${e.gradNorm.toFixed(2)}  ${Math.round(e.tokensPerSecond)} tok/s  eta ${Math.round(e.etaSeconds)} s`,
    );
  else if (e.type !== "step") console.log(JSON.stringify(e));
}
const result = await run.result;
if (result.adapter) {
  const base = await openCheckpoint(values.init);
  const report = await mergeAdapter(base, result.adapter, values.out, { overwrite: true });
  console.log(`merged ${report.tensors} tensors into ${values.out}: ${report.ok ? "verified" : "NOT VERIFIED"}`);
  for (const f of ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
    await copyFile(join("examples/embedded", f), join(values.out, f));
}
model.dispose();
