// npx tsx bench/decode.ts [--dir DIR] [--threads N] [--rounds N]: how fast answers are made, on random weights in the shape of OLMoE-1B-7B
// with 4 layers (3.4 GB bf16, written to DIR once): tokens per second of one answer and of eight together, of a prompt of 512, time to the
// first token, and the share of the memory's read bandwidth, measured between the rounds. One token reads every weight that it touches once.

import { existsSync, mkdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { writeSafetensors } from "../lib/files/safetensors_writer.ts";
import { MoeModel } from "../lib/moe_model.ts";
import { modelSpec } from "../lib/model/families/index.ts";
import { parameterShapes } from "../lib/model/spec.ts";
import { PeakMeter } from "./cpu/peak.ts";

const { values } = parseArgs({
  options: {
    dir: { type: "string" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
    tokens: { type: "string", default: "64" },
  },
});
const dir = values.dir ?? join(tmpdir(), "esft-olmoe-4-layers");
const [threads, rounds, tokens] = [Number(values.threads), Number(values.rounds), Number(values.tokens)];

const config = {
  model_type: "olmoe",
  architectures: ["OlmoeForCausalLM"],
  hidden_size: 2048,
  intermediate_size: 1024,
  num_hidden_layers: 4,
  num_attention_heads: 16,
  num_key_value_heads: 16,
  num_experts: 64,
  num_experts_per_tok: 8,
  norm_topk_prob: false,
  clip_qkv: null,
  hidden_act: "silu",
  attention_bias: false,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
  vocab_size: 8192,
  bos_token_id: 1,
  eos_token_id: 2,
};

/** Numbers like those of weights; the same ones again and again, which no kernel notices. */
async function writeModel(): Promise<void> {
  mkdirSync(dir, { recursive: true });
  const block = new Uint16Array(1 << 20);
  let state = 1;
  for (let i = 0; i < block.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    block[i] = 0x3c00 | ((state >>> 16) & 0x80ff) | ((state >>> 8) & 0x7f); // ±0.008 … 0.03
  }
  const bytes = new Uint8Array(block.buffer);
  const spec = modelSpec(config, "config.json");
  const entries = [...parameterShapes(spec)].map(({ ref, shape }) => {
    const size = 2 * shape.reduce((a, b) => a * b, 1);
    return {
      name: ref.name,
      dtype: "BF16" as const,
      shape,
      data: async function* () {
        for (let at = 0; at < size; at += bytes.length) yield bytes.subarray(0, Math.min(bytes.length, size - at));
      },
    };
  });
  await writeSafetensors(join(dir, "model.safetensors"), entries, { hash: false });
  await writeFile(join(dir, "config.json"), JSON.stringify(config));
}

const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;
const percentile = (xs: readonly number[], p: number): number =>
  xs.toSorted((a, b) => a - b)[Math.min(xs.length - 1, Math.floor(xs.length * p))]!;

if (!existsSync(join(dir, "config.json"))) await writeModel();
const meter = PeakMeter.start();
for (const precision of ["bf16", "f32"] as const) {
  await using model = await MoeModel.fromPretrained(dir, { device: "cpu", threads, precision, checkWeights: false });
  const { vocab, layers } = model.spec;
  const D = 2048;
  /** Bytes that one token reads: attention, chosen experts, head. */
  const perToken = 2 * (layers.length * (4 * D * D + 64 * D + 8 * 3 * D * 1024) + vocab * D);
  const prompt = (n: number, seed: number): number[] => Array.from({ length: n }, (_, i) => ((i + 1) * 7919 + seed * 104729) % vocab);
  const run = async (batch: number, promptTokens: number, maxTokens: number) => {
    const gaps: number[] = [];
    const begin = performance.now();
    const first: number[] = [];
    await Promise.all(
      Array.from({ length: batch }, async (_, b) => {
        let last = begin;
        for await (const _piece of model.generate(prompt(promptTokens, b), { maxTokens, stopIds: [] })) {
          const now = performance.now();
          if (last === begin) first.push(now - begin);
          else gaps.push(now - last);
          last = now;
        }
      }),
    );
    return { seconds: (performance.now() - begin) / 1000, first: median(first), gaps };
  };
  await run(1, 8, 8);
  const rows: { read: number; single: number; eight: number; prompt: number; first: number; p50: number; p99: number; trained: number }[] =
    [];
  for (let i = 0; i < rounds; i++) {
    const read = meter ? (await meter.sample(threads, 300)).read : Number.NaN;
    const one = await run(1, 8, tokens);
    const eight = await run(8, 8, tokens);
    const long = await run(1, 512, 1);
    const begin = performance.now();
    model.transformer.forward({ ids: Int32Array.from(prompt(512, 1)), positions: Int32Array.from({ length: 512 }, (_, t) => t), docStart: new Int32Array(512), targets: new Int32Array(512).fill(-100), supervised: 0 }); // prettier-ignore
    await model.device.synchronize();
    const forward = (performance.now() - begin) / 1000;
    rows.push({
      read,
      single: 1000 / median(one.gaps),
      eight: (8 * 1000) / median(eight.gaps),
      prompt: 512 / (long.first / 1000),
      trained: 512 / forward,
      first: one.first,
      p50: percentile(one.gaps, 0.5),
      p99: percentile(one.gaps, 0.99),
    });
  }
  const of = (key: keyof (typeof rows)[number]): number => median(rows.map((r) => r[key]));
  const share = median(rows.map((r) => (r.single * perToken) / 1e9 / r.read));
  console.log(
    `${precision}: one answer ${of("single").toFixed(1)} tokens/s = ${((of("single") * perToken) / 1e9).toFixed(1)} GB/s, ${(100 * share).toFixed(0)} % of the read bandwidth (${of("read").toFixed(1)} GB/s); ` +
      `eight together ${of("eight").toFixed(1)} tokens/s (${(of("eight") / of("single")).toFixed(2)} ×); prompt of 512 ${of("prompt").toFixed(0)} tokens/s ` +
      `(${((100 * of("prompt")) / of("trained")).toFixed(0)} % of the whole forward's ${of("trained").toFixed(0)}); first token after 8: ${of("first").toFixed(0)} ms, then p50 ${of("p50").toFixed(1)}, p99 ${of("p99").toFixed(1)} ms`,
  );
}
meter?.stop();
