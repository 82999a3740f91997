// Logits of base + adapter on some rows, for peft_check.py: npx tsx bench/peer/peft_logits.ts BASE ADAPTER [TOKENS] > LOGITS.json

import { hostBatch } from "../../lib/model/batch.ts";
import { MoeModel } from "../../lib/moe_model.ts";

const [base, adapter, tokens = "20"] = process.argv.slice(2);
if (base === undefined || adapter === undefined) {
  console.error("usage: npx tsx bench/peer/peft_logits.ts BASE ADAPTER [TOKENS]");
  process.exit(2);
}
await using model = await MoeModel.fromPretrained(base, { device: "cpu", adapter });
const ids = [1, 2].map((row) => Array.from({ length: Number(tokens) }, (_, t) => (row * 31 + t * 13 + 5) % model.spec.vocab));
using logits = model.transformer.logits(hostBatch(ids.map((row) => ({ ids: row, targets: row.map(() => -100) }))));
console.log(JSON.stringify({ ids, logits: [...(await logits.readF32())] }));
