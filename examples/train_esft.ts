// ESFT from TypeScript, on the embedded model: profile, select, train, evaluate, save, merge.
//   npx tsx examples/train_esft.ts [out/example]

import { join } from "node:path";
import { Dataset, mergeAdapter, MoeModel } from "../lib/index.ts"; // in your project: from "esft"

const out = process.argv[2] ?? "out/example";
const folder = join(import.meta.dirname, "embedded");
const data = Dataset.fromFile(join(folder, "data/booking.train.jsonl"));
const test = Dataset.fromFile(join(folder, "data/booking.test.jsonl"));

await using model = await MoeModel.fromPretrained(folder, { device: "auto" });
const before = await model.evaluate(test);

const profile = await model.profile(data, { tokens: 20_000, seed: 1 });
const experts = profile.select({ score: "token", p: 0.4 }); // pure, instant
console.log(`${experts.count} of ${profile.expertCount} experts train`);

const stop = new AbortController();
process.once("SIGINT", () => stop.abort()); // a checkpoint, then the run stops; resume: true goes on
const run = model.train({
  data,
  method: { type: "esft", experts },
  steps: 40,
  rowsPerStep: 2, // rows of 1024 tokens, each holding several conversations that do not see each other
  optimizer: { lr: 1e-3, schedule: "cosine", warmupSteps: 5 },
  outDir: join(out, "run"),
  resume: true,
  signal: stop.signal,
});
for await (const event of run)
  if (event.type === "step" && event.step % 10 === 0) console.log(event.step, event.loss, event.tokensPerSecond);

const { adapter } = await run.result; // null when it was interrupted
if (adapter) {
  await model.applyAdapter(adapter);
  const after = await model.evaluate(test);
  console.log(`held-out loss ${before.loss.toFixed(3)} → ${after.loss.toFixed(3)}`);
  await adapter.save(join(out, "adapter"));
  const report = await mergeAdapter(model.checkpoint, adapter, join(out, "merged"), { overwrite: true });
  console.log(`merged: ${report.untouched} of ${report.tensors} tensors bit-equal to the base, verified on disk`);
}
