// Whole steps of a DeepSeek-V2-Lite configuration with random weights: ESFT of the hottest experts of every layer (as a profile of this
// batch selects them), forward, loss, backward, clipping and AdamW; and the forward of a profile.
//
// The checkpoint on disk is a file of holes in the real layout (31 GB that occupy nothing); the weights are made on the device.

import { mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import type { HostBatch } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import type { BaseParameter as Parameter } from "../../lib/model/weights/parameter.ts";
import { moeLayers, moeOf, parameterShapes } from "../../lib/model/spec.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import * as ops from "../../lib/ops.ts";
import { AdamW } from "../../lib/train/optimizer.ts";
import type { Buffers, GpuCase, Work } from "./case.ts";
import { hottest } from "./routing.ts";
import type { Shapes } from "./shapes.ts";

const STD = 0.02; // what transformers draws from for a new model

async function writeHoles(dir: string, config: Readonly<Record<string, unknown>>): Promise<void> {
  await writeFile(join(dir, "config.json"), JSON.stringify(config));
  const header: Record<string, unknown> = {};
  let at = 0;
  for (const { ref, shape } of parameterShapes(modelSpec(config, "config.json"))) {
    const bytes = 2 * shape.reduce((a, b) => a * b, 1);
    header[ref.name] = { dtype: "BF16", shape, data_offsets: [at, at + bytes] };
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

async function setup(b: Buffers, step: Shapes["step"], mode: "esft" | "forward"): Promise<Work> {
  const { device } = b;
  const dir = await mkdtemp(join(tmpdir(), "esft-bench-"));
  const config = { model_type: "deepseek_v2", hidden_act: "silu", topk_method: "greedy", norm_topk_prob: false, ...step.config };
  await writeHoles(dir, config);
  const checkpoint = await openCheckpoint(dir);
  const spec = modelSpec(checkpoint.config, dir);
  const params = await Parameters.load(device, spec, checkpoint);
  const places = new Map<Parameter, number>();
  const fill = (p: Parameter): void => {
    const place = places.get(p) ?? b.place;
    places.set(p, place);
    if (p.role === "norm") ops.fill(device, { x: p.base, value: 1 });
    else b.fillNormal(p.base, STD, place);
  };
  for (const p of params.all()) fill(p);
  const model = new Transformer(spec, device, params);
  const host = randomBatch(step.batch, step.seq, spec.vocab);
  const tokens = step.batch * step.seq;
  const experts = await profile(b, model, spec, host, step.trained);
  const trainedRowShare = experts.share;
  const end = async (): Promise<void> => {
    model.dispose();
    params.dispose();
    await rm(dir, { recursive: true, force: true });
  };
  if (mode === "forward") {
    const xf = model.forward(host);
    return { run: () => void model.forward(host), eagerOnly: true, outputs: [xf], tokens, facts: { trainedRowShare }, dispose: end };
  }
  const keys = [...experts.sets].flatMap(([l, ids]) =>
    ids.flatMap((e) => Object.values(moeOf(spec, l)!.experts[e]!).map((ref) => sliceKey(ref))),
  );
  const state = params.train(keys);
  const optimizer = new AdamW(device, state, { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1 });
  let staged = model.stage(host);
  return {
    before: () => {
      staged = model.stage(host);
    },
    run: () => {
      model.resetLoss();
      optimizer.zeroGrad();
      model.forwardBackwardStaged(staged, 1 / host.supervised);
      optimizer.step(1e-5);
    },
    outputs: [],
    state: [state.master, state.grad],
    reset: () => {
      for (const p of params.all().filter((q) => q.trains)) {
        fill(p);
        ops.cast(device, { x: p.base, y: p.master! });
      }
      for (const x of [state.grad, state.m, state.v]) ops.fill(device, { x, value: 0 });
      optimizer.steps = 0;
    },
    tokens,
    facts: { trainedRowShare, trainedParameters: state.size },
    dispose: async () => {
      optimizer.dispose();
      await end();
    },
  };
}

/** The hottest experts of every layer on this batch, and the share of the routed rows that meets them. */
async function profile(b: Buffers, model: Transformer, spec: ModelSpec, host: HostBatch, n: number) {
  const layers = moeLayers(spec);
  const sums = new Map(
    layers.map((l) => {
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

export function gpuStepCases({ step }: Shapes): GpuCase[] {
  return (["esft", "forward"] as const).map((mode) => ({
    id: `step/${step.name}/bf16/${mode}`,
    headline: true,
    alone: true,
    setup: (b) => setup(b, step, mode),
  }));
}
