// Whole training steps of random-weight models, the shapes of bench/peer/step.py: ESFT (5 of 32 experts per layer), full
// fine-tuning, and forward only (profiling). 8 × 512 tokens, every token supervised, AdamW, clipping included in our time.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../lib/files/checkpoint.ts";
import { hostBatch } from "../lib/model/batch.ts";
import { modelSpec } from "../lib/model/families/index.ts";
import { Parameters } from "../lib/model/weights/parameters.ts";
import { sliceKey } from "../lib/files/slice.ts";
import { moeLayers, moeOf } from "../lib/model/spec.ts";
import { Transformer } from "../lib/model/transformer.ts";
import type { Precision } from "../lib/ops.ts";
import type { Device } from "../lib/tensor.ts";
import { AdamW } from "../lib/train/optimizer.ts";
import { fullTrainable } from "../lib/methods/full.ts";
import { writeTinyModel } from "../test/support/tiny_model.ts";
import { uniform } from "./case.ts";
import type { BenchCase, Running } from "./case.ts";

const common = {
  hidden_size: 256,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 4,
  num_experts_per_tok: 4,
  max_position_embeddings: 2048,
  vocab_size: 8192,
  hidden_act: "silu",
  rope_theta: 10000,
  tie_word_embeddings: false,
  attention_bias: false,
  norm_topk_prob: false,
};
const configs = {
  olmoe: { ...common, model_type: "olmoe", intermediate_size: 128, num_experts: 32, clip_qkv: null, rms_norm_eps: 1e-5 },
  "deepseek-v2": {
    ...common,
    model_type: "deepseek_v2",
    intermediate_size: 512,
    moe_intermediate_size: 128,
    n_routed_experts: 32,
    n_shared_experts: 1,
    first_k_dense_replace: 0,
    q_lora_rank: null,
    kv_lora_rank: 128,
    qk_nope_head_dim: 64,
    qk_rope_head_dim: 32,
    v_head_dim: 64,
    topk_method: "greedy",
    routed_scaling_factor: 1,
    rms_norm_eps: 1e-6,
  },
} as const;
const ROWS = 8;
const LENGTH = 512;
const TRAINED = 5;

async function setup(
  device: Device,
  name: keyof typeof configs,
  mode: "esft" | "full" | "forward",
  precision: Precision,
): Promise<Running> {
  const dir = mkdtempSync(join(tmpdir(), "esft-bench-"));
  await writeTinyModel(dir, configs[name], { tokenizer: false });
  const checkpoint = await openCheckpoint(dir);
  const spec = modelSpec(checkpoint.config, dir);
  const params = await Parameters.load(device, spec, checkpoint);
  const model = new Transformer(spec, device, params, precision);
  const ids = Int32Array.from(uniform(ROWS * LENGTH, 4095), (x) => Math.floor(x + 4096));
  const rows = Array.from({ length: ROWS }, (_, r) => {
    const row = ids.subarray(r * LENGTH, (r + 1) * LENGTH);
    const targets = Int32Array.from(row, (_id, t) => (t + 1 < LENGTH ? row[t + 1]! : -100));
    return { ids: row, targets };
  });
  const host = hostBatch(rows);
  const dispose = (optimizer?: AdamW): void => {
    optimizer?.dispose();
    model.dispose();
    params.dispose();
    rmSync(dir, { recursive: true, force: true });
  };
  if (mode === "forward") return { run: () => void model.forward(host), dispose };
  const keys =
    mode === "full"
      ? fullTrainable(spec).keys
      : moeLayers(spec).flatMap((l) =>
          Array.from({ length: TRAINED }, (_, e) => Object.values(moeOf(spec, l)!.experts[e]!).map((ref) => sliceKey(ref))).flat(),
        );
  const optimizer = new AdamW(device, params.train(keys), { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1 });
  return {
    run: () => {
      model.resetLoss();
      optimizer.zeroGrad();
      model.forwardBackward(host, 1 / host.supervised);
      optimizer.step(1e-5);
    },
    dispose: () => dispose(optimizer),
  };
}

/** Same count as bench/peer/step.py prints; head, attention and router included. */
export function stepCases(): BenchCase[] {
  const cases: BenchCase[] = [];
  for (const name of ["olmoe", "deepseek-v2"] as const)
    for (const precision of ["f32", "bf16"] as const)
      for (const mode of ["esft", "full", "forward"] as const)
        cases.push({
          id: `step/${name}/${precision}/${mode}`,
          precision,
          tokens: ROWS * LENGTH,
          setup: (device) => setup(device, name, mode, precision),
        });
  return cases;
}
