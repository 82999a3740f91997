// npx tsx bench/decode_cost.ts [--threads N] [--rounds N]: what a token costs as the experts that it does not visit get more, and as the
// cache grows. Random weights in OLMoE's form (D 512, F 256, 8 experts a token, 4 layers, bf16): experts 16, 64 and 256; then 64 experts after
// 16 to 4,000 tokens, beside the bytes that such a token reads.

import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MoeModel } from "../lib/moe_model.ts";
import { writeOlmoe } from "./olmoe_model.ts";

const { values } = parseArgs({ options: { threads: { type: "string", default: "2" }, rounds: { type: "string", default: "5" } } });
const [threads, rounds] = [Number(values.threads), Number(values.rounds)];
const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;
const [D, F, K, L, V] = [512, 256, 8, 4, 8192];
const sizes = {
  hidden_size: D,
  intermediate_size: F,
  num_attention_heads: 8,
  num_key_value_heads: 8,
  num_experts_per_tok: K,
  vocab_size: V,
};

const models = new Map<number, MoeModel>();
for (const experts of [16, 64, 256]) {
  const dir = join(tmpdir(), `esft-olmoe-cost-${experts}`);
  await writeOlmoe(dir, { ...sizes, num_experts: experts });
  models.set(experts, await MoeModel.fromPretrained(dir, { device: "cpu", threads, precision: "bf16", checkWeights: false }));
}

/** Milliseconds from token to token, after a prompt of so many. */
async function gap(model: MoeModel, depth: number): Promise<number> {
  const prompt = Array.from({ length: depth }, (_, i) => ((i + 1) * 7919) % V);
  const gaps: number[] = [];
  let last = 0;
  for await (const _piece of model.generate(prompt, { maxTokens: 64, stopIds: [] })) {
    const now = performance.now();
    if (last > 0) gaps.push(now - last);
    last = now;
  }
  return median(gaps);
}
const depths = [16, 500, 1000, 2000, 4000];
const byExperts = new Map([...models.keys()].map((e) => [e, [] as number[]]));
const byDepth = new Map(depths.map((d) => [d, [] as number[]]));
for (let i = -1; i < rounds; i++) {
  for (const [experts, model] of models) {
    const ms = await gap(model, 16);
    if (i >= 0) byExperts.get(experts)!.push(ms);
  }
  for (const depth of depths) {
    const ms = await gap(models.get(64)!, depth);
    if (i >= 0) byDepth.get(depth)!.push(ms);
  }
}
const weights = (experts: number): number => 2 * (L * (4 * D * D + experts * D + K * 3 * D * F) + V * D);
for (const [experts, ms] of byExperts)
  console.log(`${experts} experts: ${median(ms).toFixed(3)} ms a token, ${(weights(experts) / 1e6).toFixed(1)} MB read`);
for (const [depth, ms] of byDepth)
  console.log(
    `after ${depth} tokens: ${median(ms).toFixed(3)} ms a token, ${((weights(64) + 2 * 2 * L * D * (depth + 32)) / 1e6).toFixed(1)} MB read`,
  );
for (const model of models.values()) await model[Symbol.asyncDispose]();
