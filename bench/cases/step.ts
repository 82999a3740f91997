// Whole training steps of models with random weights: forward, loss (every position supervised), backward, clipping and AdamW, of ESFT
// or of every parameter; and the forward of a profile.
//
// Where the device reads the mapped checkpoint, that is written with random values and the first experts of every layer train, as the
// peer numbers them. Elsewhere the checkpoint is a file of holes in the real layout (31 GB that occupy nothing), the weights are made
// on the device, and the experts that a profile of this batch finds hottest train.

import { mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { fullTrainable } from "../../lib/methods/full.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import type { HostBatch } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { moeLayers, moeOf, parameterShapes } from "../../lib/model/spec.ts";
import type { DeltaAttentionSpec, ModelSpec } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import type { BaseParameter } from "../../lib/model/weights/parameter.ts";
import { Parameters as Weights } from "../../lib/model/weights/parameters.ts";
import * as ops from "../../lib/ops.ts";
import { Tensor } from "../../lib/tensor.ts";
import { AdamW } from "../../lib/train/optimizer.ts";
import type { Backend } from "../../test/ops/perf.ts";
import { sizeOf } from "../../test/ops/host.ts";
import { hottest } from "../../test/ops/routes.ts";
import { tensorsOf, writeTinyModel } from "../../test/support/tiny_model.ts";
import type { Buffers } from "./buffers.ts";
import { precisionOf, tiny } from "./case.ts";
import type { BenchCase, Work } from "./case.ts";
import { deepseekV2, families, olmoe } from "./families.ts";
import type { Config } from "./families.ts";

const STD = 0.02; // what transformers draws from for a new model

type Mode = "esft" | "full" | "forward";
interface StepSizes extends Record<string, number | Config> {
  /** Documents and their length. */
  readonly batch: number;
  readonly seq: number;
  /** Experts per layer that ESFT trains. */
  readonly trained: number;
  readonly config: Config;
}

async function writeHoles(dir: string, config: Config): Promise<void> {
  await writeFile(join(dir, "config.json"), JSON.stringify(config));
  const header: Record<string, unknown> = {};
  let at = 0;
  for (const { name, shape } of tensorsOf(modelSpec(config, "config.json"))) {
    const bytes = 2 * sizeOf(shape);
    header[name] = { dtype: "BF16", shape, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  const text = JSON.stringify(header);
  const padded = Buffer.from(text + " ".repeat((8 - (text.length % 8)) % 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  await using file = await open(join(dir, "model.safetensors"), "w");
  await file.write(Buffer.concat([length, padded]));
  await file.truncate(8 + padded.length + at);
}

/** Loads without reading: the file is one hole, 31 GB of zeros that would travel for nothing, and every weight is filled afterwards. */
async function loadUnread(...args: Parameters<typeof Weights.load>): Promise<Weights> {
  const { copyFromMap } = Tensor.prototype;
  Tensor.prototype.copyFromMap = () => undefined;
  try {
    return await Weights.load(...args);
  } finally {
    Tensor.prototype.copyFromMap = copyFromMap;
  }
}

/** Random text of `batch` documents, every position supervised. */
function randomBatch(batch: number, seq: number, vocab: number): HostBatch {
  let state = 7;
  const token = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocab);
  };
  return hostBatch(
    Array.from({ length: batch }, () => {
      const ids = Int32Array.from({ length: seq + 1 }, token);
      return { ids: ids.subarray(0, seq), targets: ids.subarray(1) };
    }),
  );
}

/** The hottest experts of every layer on this batch, and the share of the routed rows that meets them. */
async function profile(b: Buffers, model: Transformer, host: HostBatch, n: number) {
  const { spec } = model;
  const sums = new Map(
    moeLayers(spec).map((l) => {
      const E = moeOf(spec, l)!.experts.length;
      return [l, { counts: b.empty("i64", [E]), gateSums: b.empty("f64", [E]) }] as const;
    }),
  );
  model.forward(host, { onRoute: (l, ids, weights) => ops.countExperts(b.device, { ids, weights, ...sums.get(l)! }) });
  const sets = new Map<number, number[]>();
  let [met, all] = [0, 0];
  for (const [l, { counts }] of sums) {
    const rows = Array.from(await counts.readI64(), Number);
    const ids = hottest(rows, n);
    sets.set(l, ids);
    met += ids.reduce((sum, e) => sum + rows[e]!, 0);
    all += rows.reduce((x, y) => x + y, 0);
  }
  return { sets, share: met / all };
}

/** Of the experts of these sets. */
const keysOf = (spec: ModelSpec, sets: ReadonlyMap<number, readonly number[]>): string[] =>
  parameterShapes(spec).flatMap(({ ref, role, layer, expert }) =>
    role === "expert" && sets.get(layer)?.includes(expert ?? -1) ? [sliceKey(ref)] : [],
  );

async function setup(b: Buffers, { batch, seq, trained, config }: StepSizes, mode: Mode, id: string): Promise<Work> {
  const { device } = b;
  const mapped = device.info.hostMemory;
  const dir = await mkdtemp(join(tmpdir(), "esft-bench-"));
  if (mapped) await writeTinyModel(dir, config, { tokenizer: false });
  else await writeHoles(dir, config);
  const checkpoint = await openCheckpoint(dir);
  const spec = modelSpec(checkpoint.config, dir);
  const params = await (mapped ? Weights.load(device, spec, checkpoint) : loadUnread(device, spec, checkpoint));
  const places = new Map<BaseParameter, number>();
  const fill = (p: BaseParameter): void => {
    const place = places.get(p) ?? b.place;
    places.set(p, place);
    if (p.role === "norm") ops.fill(device, { x: p.base, value: 1 });
    else b.fillNormal(p.base, STD, place);
  };
  if (!mapped) for (const p of params.all()) fill(p);
  const model = new Transformer(spec, device, params, precisionOf(id));
  const host = randomBatch(batch, seq, spec.vocab);
  const end = async (): Promise<void> => {
    model.dispose();
    params.dispose();
    await rm(dir, { recursive: true, force: true });
  };
  const found = mapped ? null : await profile(b, model, host, trained);
  const facts = found ? { trainedRowShare: found.share } : {};
  if (mode === "forward") {
    const xf = model.forward(host);
    return { run: () => void model.forward(host), eagerOnly: true, outputs: [xf], facts, dispose: end };
  }
  const first = new Map(moeLayers(spec).map((l) => [l, Array.from({ length: trained }, (_, e) => e)]));
  const state = model.train({ keys: mode === "full" ? fullTrainable(spec).keys : keysOf(spec, found?.sets ?? first) });
  const optimizer = new AdamW(device, state, { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1 });
  let staged = model.stage(host);
  return {
    before: () => {
      staged = model.stage(host);
      model.setGradScale(1 / host.supervised);
      optimizer.prepare(1e-5);
    },
    run: () => {
      model.resetLoss();
      model.forwardBackwardStaged(staged, {}, false);
      optimizer.update();
    },
    outputs: [],
    state: [state.master, state.grad],
    reset: () => {
      for (const p of params.all().filter((q) => q.trains)) {
        if (!mapped) fill(p);
        ops.cast(device, { x: p.base, y: p.master! });
      }
      for (const x of [state.grad, state.m, state.v]) ops.fill(device, { x, value: 0 });
      optimizer.steps = 0;
    },
    facts: { ...facts, trainedParameters: state.size },
    dispose: async () => {
      optimizer.dispose();
      await end();
    },
  };
}

/** As the performance rows of gated_delta_rule count them. */
function deltaFlops({ heads, keyHeads, keyDim, valueDim }: DeltaAttentionSpec, tokens: number): { forward: number; backward: number } {
  const flops = (states: number, triangles: number): number =>
    2 * tokens * (heads * (states * keyDim * valueDim + triangles * 32 * valueDim) + keyHeads * 64 * keyDim);
  return { forward: flops(3, 2), backward: flops(8, 9) };
}

/**
 * FLOPs of products: forward 1, dX 1, dW 1 where trained. ESFT has no backward below the first MoE layer, and its experts count at
 * an even share of the rows.
 */
function stepFlops({ batch, seq, trained, config }: StepSizes, mode: Mode): number {
  const spec = modelSpec(config, "config.json");
  const first = Math.min(...moeLayers(spec));
  const attention = spec.layers.map(({ attention: a }) => {
    if (a.kind === "delta") return deltaFlops(a, batch * seq);
    if (a.kind === "conv") return { forward: 0, backward: 0 };
    const [qk, v, window] = a.kind === "heads" ? [a.headDim, a.headDim, a.window] : [a.nopeDim + a.ropeDim, a.vDim, 0];
    const chunk = a.kind === "heads" ? Math.min(a.chunk ?? seq, seq) : seq;
    const seen = window > 0 && window < seq ? window * (2 * seq - window) : seq * chunk; // twice the pairs of query and key
    return { forward: batch * seen * a.heads * (qk + v), backward: batch * seen * a.heads * (3 * qk + 2 * v) };
  });
  let flops = 0;
  const tied = sliceKey(spec.head) === sliceKey(spec.embedding);
  for (const { role: own, layer, shape, part } of parameterShapes(spec)) {
    const role = own === "embedding" && tied ? "head" : own;
    if (role === "embedding" || role === "norm" || role === "selectionBias" || shape.length !== 2) continue;
    const moe = moeOf(spec, layer);
    const share = role === "expert" && moe ? moe.topK / moe.experts.length : 1;
    const one = 2 * batch * seq * sizeOf(shape) * share;
    const [forward, dx] = role === "head" ? [mode !== "forward", mode !== "forward"] : [true, mode === "full" || layer > first];
    const trains = mode === "full" ? 1 : mode === "esft" && role === "expert" && moe ? trained / moe.experts.length : 0;
    // Of the first layer that trains, the rows of trained experts alone pass down.
    const partial = mode === "esft" && layer === first && part === "down" ? trains : 0;
    flops += one * (Number(forward) + (mode === "forward" ? 0 : dx ? 1 : partial) + trains);
  }
  attention.forEach((a, l) => {
    flops += a.forward + (mode === "full" || (mode === "esft" && l > first) ? a.backward : 0);
  });
  return flops;
}

const v2lite = {
  ...deepseekV2,
  hidden_size: 2048,
  intermediate_size: 10944,
  moe_intermediate_size: 1408,
  num_hidden_layers: 27,
  num_attention_heads: 16,
  num_key_value_heads: 16,
  n_routed_experts: 64,
  n_shared_experts: 2,
  num_experts_per_tok: 6,
  first_k_dense_replace: 1,
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  vocab_size: 102400,
  max_position_embeddings: 4096,
} as const;

function stepCase(on: Backend, name: string, dtype: "f32" | "bf16", mode: Mode, full: StepSizes, shrink: boolean): BenchCase {
  const sizes = shrink ? tiny(full) : full;
  const id = `step/${name}/${dtype}/${mode}`;
  return {
    id,
    on,
    sizes,
    headline: true,
    alone: on === "cuda",
    cost: () => ({ flops: stepFlops(sizes, mode), tokens: sizes.batch * sizes.seq }),
    setup: (b) => setup(b, sizes, mode, id),
  };
}

export function stepCases(shrink: boolean): BenchCase[] {
  const cpu = (
    [
      ["olmoe", olmoe],
      ["deepseek-v2", deepseekV2],
    ] as const
  ).flatMap(([name, config]) =>
    (["f32", "bf16"] as const).flatMap((dtype) =>
      (["esft", "full", "forward"] as const).map((mode) =>
        stepCase("cpu", name, dtype, mode, { batch: 8, seq: 512, trained: 5, config }, shrink),
      ),
    ),
  );
  const cuda = (["esft", "forward"] as const).map((mode) =>
    stepCase("cuda", "deepseek-v2-lite", "bf16", mode, { batch: 2, seq: 4096, trained: 5, config: v2lite }, shrink),
  );
  const others = families.map(([name, config]) => stepCase("cpu", name, "f32", "esft", { batch: 8, seq: 512, trained: 5, config }, shrink));
  return [...cpu, ...others, ...cuda];
}
