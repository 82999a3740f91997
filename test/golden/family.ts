// Checks one family fixture (a tiny checkpoint with numbers computed by Hugging Face) against this project, end to end:
// routing, hidden states, logits, loss, packed documents, every gradient, the ESFT curve, what moved, greedy tokens.
// Tolerances: an f32 implementation differs from f64 by at most these (relative L2 unless said).

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openCheckpoint } from "../../lib/io/checkpoint.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import type { TensorSlice } from "../../lib/io/tensor_slice.ts";
import { sliceKey } from "../../lib/io/tensor_slice.ts";
import { hostBatch, shiftLabels } from "../../lib/model/batch.ts";
import type { HostBatch } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { Parameters } from "../../lib/model/parameters.ts";
import { moeOf } from "../../lib/model/spec.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import type { Device, Tensor } from "../../lib/tensor.ts";
import { AdamW } from "../../lib/train/optimizer.ts";

export const tolerance = {
  logits: 3e-6,
  hidden: 3e-6,
  weights: 3e-6,
  loss: 2e-6,
  gradient: 1e-5,
  curveFirstFive: 2e-5,
  curve: 5e-4,
  movement: 3e-3,
} as const;

export interface Check {
  readonly name: string;
  /** Worst error, or a count of mismatches. */
  readonly error: number;
  readonly limit: number;
  readonly detail: string;
  readonly ok: boolean;
}

export interface FixtureReport {
  readonly name: string;
  readonly checks: readonly Check[];
  readonly failure?: string;
  readonly ok: boolean;
}

interface GoldenJson {
  readonly batches: readonly { input_ids: number[][]; labels: number[][] }[];
  readonly loss: number;
  readonly moe_layers: readonly number[];
  readonly packed: { documents: { input_ids: number[]; labels: number[] }[]; loss: number; supervised: number };
  readonly esft: {
    readonly experts: Readonly<Record<string, number[]>>;
    readonly optimizer: { lr: number; betas: [number, number]; eps: number; weight_decay: number; clip_norm: number };
    readonly steps: number;
    readonly losses: readonly number[];
    readonly grad_norms: readonly number[];
    readonly moved: readonly string[];
  };
  readonly generation: { prompt: number[]; tokens: number[]; smallest_margin: number };
}

/** ‖a − b‖ / ‖b‖; when b is all zero, ‖a‖. */
export function relativeL2(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
}

function batchOf(batch: { input_ids: number[][]; labels: number[][] }): HostBatch {
  return hostBatch(batch.input_ids.map((ids, i) => ({ ids, targets: shiftLabels(batch.labels[i]!) })));
}

class Checks {
  readonly list: Check[] = [];
  private worst = new Map<string, Check>();
  add(name: string, error: number, limit: number, detail = ""): void {
    const ok = error <= limit; // NaN fails
    const before = this.worst.get(name);
    const check = { name, error, limit, detail, ok };
    if (!before || (before.ok && !ok) || (before.ok === ok && !(error <= before.error))) {
      this.worst.set(name, check);
    }
  }
  report(): Check[] {
    return [...this.worst.values()];
  }
}

export async function checkFamily(device: Device, dir: string, name: string): Promise<FixtureReport> {
  const checks = new Checks();
  let transformer: Transformer | null = null;
  let params: Parameters | null = null;
  try {
    const golden = JSON.parse(await readFile(join(dir, "golden.json"), "utf8")) as GoldenJson;
    const numbers = await openSafetensors(join(dir, "golden.safetensors"));
    const expected = async (tensor: string): Promise<Float32Array> => {
      const bytes = await numbers.read(tensor);
      return new Float32Array(bytes.slice().buffer);
    };
    const expectedIds = async (tensor: string): Promise<Int32Array> => new Int32Array((await numbers.read(tensor)).slice().buffer);
    const checkpoint = await openCheckpoint(dir);
    const spec = modelSpec(checkpoint.config as Record<string, unknown>, join(dir, "config.json"));
    params = await Parameters.load(device, spec, checkpoint);
    transformer = new Transformer(spec, device, params);

    await checkForward(checks, transformer, golden, expected, expectedIds);
    await checkPacked(checks, transformer, golden, expected);
    await checkGeneration(checks, transformer, golden);
    await checkGradients(checks, transformer, golden, numbers.tensors.keys(), expected);
    await checkEsft(checks, transformer, golden, expected);
    const list = checks.report();
    return { name, checks: list, ok: list.every((c) => c.ok) };
  } catch (error) {
    return { name, checks: checks.report(), failure: error instanceof Error ? error.message : String(error), ok: false };
  } finally {
    transformer?.dispose();
    params?.dispose();
  }
}

async function checkForward(
  checks: Checks,
  model: Transformer,
  golden: GoldenJson,
  expected: (name: string) => Promise<Float32Array>,
  expectedIds: (name: string) => Promise<Int32Array>,
): Promise<void> {
  const host = batchOf(golden.batches[0]!);
  const hidden = new Map<number, Promise<Float32Array>>();
  const routes = new Map<number, { ids: Promise<Int32Array>; weights: Promise<Float32Array>; k: number }>();
  const logits = model.logits(host, {
    onHidden: (i, x) => hidden.set(i, x.readF32()),
    onRoute: (l, ids, weights) => routes.set(l, { ids: ids.readI32(), weights: weights.readF32(), k: ids.shape[1]! }),
  });
  checks.add("logits", relativeL2(await logits.readF32(), await expected("logits")), tolerance.logits);
  logits.dispose();
  for (const [i, x] of hidden) checks.add("hidden", relativeL2(await x, await expected(`hidden.${i}`)), tolerance.hidden, `hidden.${i}`);
  const layers = [...routes.keys()];
  checks.add("sparse layers", layers.join() === golden.moe_layers.join() ? 0 : 1, 0, `found ${layers.join()}`);
  for (const [l, route] of routes) {
    const ids = await route.ids;
    const weights = await route.weights;
    sortSlots(ids, weights, route.k);
    const wantIds = await expectedIds(`router.${l}.ids`);
    let flips = 0;
    for (let i = 0; i < wantIds.length; i++) if (ids[i] !== wantIds[i]) flips++;
    checks.add("routing", flips, 0, `layer ${l}`);
    checks.add("weights", relativeL2(weights, await expected(`router.${l}.weights`)), tolerance.weights, `layer ${l}`);
  }
  model.resetLoss();
  model.evaluate(host);
  const { loss } = await model.readLoss();
  checks.add("loss", Math.abs(loss / host.supervised / golden.loss - 1), tolerance.loss);
}

/** Orders the K slots of each token by ascending id, as the fixtures store them. */
function sortSlots(ids: Int32Array, weights: Float32Array, k: number): void {
  for (let t = 0; t < ids.length; t += k) {
    const order = Array.from({ length: k }, (_, j) => [ids[t + j]!, weights[t + j]!] as const).sort((a, b) => a[0] - b[0]);
    order.forEach(([id, w], j) => {
      ids[t + j] = id;
      weights[t + j] = w;
    });
  }
}

async function checkPacked(
  checks: Checks,
  model: Transformer,
  golden: GoldenJson,
  expected: (name: string) => Promise<Float32Array>,
): Promise<void> {
  const { documents, loss, supervised } = golden.packed;
  const ids: number[] = [];
  const targets: number[] = [];
  const docStart: number[] = [];
  for (const d of documents) {
    const start = ids.length;
    ids.push(...d.input_ids);
    targets.push(...shiftLabels(d.labels));
    docStart.push(...d.input_ids.map(() => start));
  }
  const host = hostBatch([{ ids, targets, docStart }]);
  checks.add("packed supervised", Math.abs(host.supervised - supervised), 0);
  const logits = model.logits(host);
  checks.add("packed logits", relativeL2(await logits.readF32(), await expected("packed.logits")), tolerance.logits);
  logits.dispose();
  model.resetLoss();
  model.evaluate(host);
  checks.add("packed loss", Math.abs((await model.readLoss()).loss / supervised / loss - 1), tolerance.loss);
}

async function checkGeneration(checks: Checks, model: Transformer, golden: GoldenJson): Promise<void> {
  const { prompt, tokens } = golden.generation;
  const ids = [...prompt];
  while (ids.length < tokens.length) {
    const logits = await model.lastLogits(hostBatch([{ ids, targets: ids.map(() => -100) }]));
    ids.push(logits.reduce((best, x, i) => (x > logits[best]! ? i : best), 0));
  }
  checks.add("greedy tokens", tokens.filter((t, i) => ids[i] !== t).length, 0);
}

/** Gradient of a checkpoint tensor from its parameters (fused tensors: slices put together again). */
async function checkGradients(
  checks: Checks,
  model: Transformer,
  golden: GoldenJson,
  names: Iterable<string>,
  expected: (name: string) => Promise<Float32Array>,
): Promise<void> {
  const { params } = model;
  const host = batchOf(golden.batches[0]!);
  params.train(
    params
      .all()
      .filter((p) => p.role !== "selectionBias")
      .map((p) => p.key),
  );
  model.resetLoss();
  model.forwardBackward(host, 1 / host.supervised);
  checks.add("training loss", Math.abs((await model.readLoss()).loss / host.supervised / golden.loss - 1), tolerance.loss);
  const wanted = [...names].filter((n) => n.startsWith("grad.")).map((n) => n.slice("grad.".length));
  const byTensor = new Map<string, typeof params extends { all(): (infer P)[] } ? P[] : never>();
  for (const p of params.all()) byTensor.set(p.ref.name, [...(byTensor.get(p.ref.name) ?? []), p]);
  for (const name of wanted) {
    const want = await expected(`grad.${name}`);
    const parts = byTensor.get(name);
    if (!parts) {
      checks.add("gradients", Number.POSITIVE_INFINITY, tolerance.gradient, `${name} is not a parameter`);
      continue;
    }
    const got = new Float32Array(want.length);
    for (const p of parts) got.set(await p.grad!.readF32(), offsetOf(p.ref, p.shape, parts.length > 1 ? want.length : 0));
    checks.add("gradients", relativeL2(got, want), tolerance.gradient, name);
  }
  params.freeze();
}

function offsetOf(ref: TensorSlice, shape: readonly number[], total: number): number {
  if (total === 0) return 0;
  const cols = shape.slice(1).reduce((a, b) => a * b, 1);
  const perItem = ref.index === undefined ? 0 : Math.max(shape[0]!, ref.rows ? shape[0]! * 2 : shape[0]!) * cols;
  return (ref.index ?? 0) * perItem + (ref.rows?.[0] ?? 0) * cols;
}

function expertKeys(spec: ModelSpec, experts: Readonly<Record<string, number[]>>): string[] {
  return Object.entries(experts).flatMap(([layer, ids]) => {
    const moe = moeOf(spec, Number(layer))!;
    return ids.flatMap((e) => [moe.experts[e]!.gate, moe.experts[e]!.up, moe.experts[e]!.down].map(sliceKey));
  });
}

async function checkEsft(
  checks: Checks,
  model: Transformer,
  golden: GoldenJson,
  expected: (name: string) => Promise<Float32Array>,
): Promise<void> {
  const { params, device, spec } = model;
  const { esft } = golden;
  const { optimizer: o } = esft;
  const keys = expertKeys(spec, esft.experts);
  const state = params.train(keys);
  const optimizer = new AdamW(device, state, {
    beta1: o.betas[0],
    beta2: o.betas[1],
    eps: o.eps,
    weightDecay: o.weight_decay,
    clipNorm: o.clip_norm,
  });
  for (let step = 0; step < esft.steps; step++) {
    const host = batchOf(golden.batches[step % golden.batches.length]!);
    model.resetLoss();
    optimizer.zeroGrad();
    model.forwardBackward(host, 1 / host.supervised);
    optimizer.step(o.lr);
    const loss = (await model.readLoss()).loss / host.supervised;
    const limit = step < 5 ? tolerance.curveFirstFive : tolerance.curve;
    const label = step < 5 ? "ESFT losses 1-5" : "ESFT losses 6-20";
    checks.add(label, Math.abs(loss / esft.losses[step]! - 1), limit, `step ${step}`);
    checks.add(
      "ESFT grad norms",
      Math.abs((await optimizer.readNorm()) / esft.grad_norms[step]! - 1),
      step < 5 ? 1e-4 : 1e-2,
      `step ${step}`,
    );
  }
  const moved: string[] = [];
  for (const p of state.parameters) {
    const now = await p.master!.readF32();
    const base = await p.base.readF32();
    if (now.some((x, i) => !Object.is(x, base[i]))) moved.push(p.ref.name);
    if (p.ref.index !== undefined) continue; // fused: checked as logits below
    const want = await expected(`esft.${p.ref.name}`);
    const error = want.map((x, i) => now[i]! - x);
    const movement = want.map((x, i) => x - base[i]!);
    checks.add("trained weights", Math.hypot(...error) / Math.hypot(...movement), tolerance.movement, p.ref.name);
  }
  const unexpected = [...new Set(moved)].filter((n) => !esft.moved.includes(n));
  const still = esft.moved.filter((n) => !moved.includes(n));
  checks.add("moved tensors", unexpected.length + still.length, 0, [...unexpected, ...still].join(" "));
  const frozen = params.all().filter((p) => !state.parameters.includes(p) && p.value !== p.base);
  checks.add("frozen tensors", frozen.length, 0, frozen.map((p) => p.key).join(" "));
  const logits: Tensor = model.logits(batchOf(golden.batches[0]!));
  checks.add("ESFT logits", relativeL2(await logits.readF32(), await expected("esft.logits")), tolerance.movement);
  logits.dispose();
  optimizer.dispose();
  params.freeze();
}
