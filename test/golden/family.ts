// Checks one family fixture (a tiny checkpoint with numbers computed by Hugging Face) against this project, end to end:
// routing, hidden states, logits, loss, packed documents, every gradient, the ESFT curve, what moved, greedy tokens.
//
// Tolerances are relative L2 unless said. On an f32 device they are what an f32 implementation differs from f64 by. On a device
// with bf16 activations every stored activation is off by up to 2⁻⁹, and a router's near-tie may fall the other way: tokens that
// see such a flip are compared by loss only, the others by bf16's own error. Gradients are compared with those of the CPU device
// (f32, held to the fixture's numbers itself) for a loss over tokens that see no flip.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import type { TensorSlice } from "../../lib/files/slice.ts";
import { sliceKey } from "../../lib/files/slice.ts";
import { hostBatch, shiftLabels } from "../../lib/model/batch.ts";
import type { HostBatch } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { moeOf } from "../../lib/model/spec.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Device } from "../../lib/tensor.ts";
import type { Tensor } from "../../lib/tensor.ts";
import { AdamW } from "../../lib/train/optimizer.ts";

export interface Tolerance {
  readonly logits: number;
  readonly hidden: number;
  /** Gate weights. */
  readonly weights: number;
  /** Of all tokens, those beside flips included. */
  readonly loss: number;
  readonly gradient: number;
  /** Of norms (sums over tokens that nearly cancel) and of clipped projections (a value at the edge passes gradient or not). */
  readonly looseGradient: number;
  readonly curveFirstFive: number;
  readonly curve: number;
  readonly normsFirstFive: number;
  readonly norms: number;
  /** Error of the trained weights over their movement. */
  readonly movement: number;
  /** ESFT logits: after training. */
  readonly trainedLogits: number;
  /** Largest difference between the gate weights of two experts that may change places; 0: none may. */
  readonly nearTie: number;
}
export const tolerance: Readonly<Record<"f32" | "bf16", Tolerance>> = {
  f32: {
    logits: 3e-6,
    hidden: 3e-6,
    weights: 3e-6,
    loss: 2e-6,
    gradient: 1e-5,
    looseGradient: 1e-5,
    curveFirstFive: 2e-5,
    curve: 5e-4,
    normsFirstFive: 1e-4,
    norms: 1e-2,
    movement: 3e-3,
    trainedLogits: 3e-3,
    nearTie: 0,
  },
  bf16: {
    logits: 2.5e-2,
    hidden: 2.5e-2,
    weights: 2.5e-2,
    loss: 3e-2,
    gradient: 8e-2,
    looseGradient: 0.3,
    curveFirstFive: 1e-2,
    curve: 5e-2,
    normsFirstFive: 5e-2,
    norms: 0.15,
    movement: 0.5,
    trainedLogits: 0.15,
    nearTie: 2e-2,
  },
};

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

/** One model of a fixture on one device. */
async function openModel(device: Device, dir: string): Promise<Transformer> {
  const checkpoint = await openCheckpoint(dir);
  const spec = modelSpec(checkpoint.config as Record<string, unknown>, join(dir, "config.json"));
  return new Transformer(spec, device, await Parameters.load(device, spec, checkpoint));
}

/** @param maxSteps ends the ESFT curve early (emulation); what it ends at is then not compared */
export async function checkFamily(device: Device, dir: string, name: string, maxSteps = Infinity): Promise<FixtureReport> {
  const limits = tolerance[device.info.activationDtype];
  const checks = new Checks();
  const open: { dispose(): void }[] = [];
  try {
    const golden = JSON.parse(await readFile(join(dir, "golden.json"), "utf8")) as GoldenJson;
    const numbers = await openSafetensors(join(dir, "golden.safetensors"));
    const expected = async (tensor: string): Promise<Float32Array> => {
      const bytes = await numbers.read(tensor);
      return new Float32Array(bytes.slice().buffer);
    };
    const model = await openModel(device, dir);
    open.unshift(model, model.params);
    let twin = model; // exact where the device is
    if (limits.nearTie > 0) {
      const cpu = new Device({ kind: "cpu" });
      open.push(cpu);
      twin = await openModel(cpu, dir);
      open.unshift(twin, twin.params);
    }
    const fixture: Fixture = { checks, limits, model, twin, golden, expected };
    await checkForward(fixture, async (tensor) => new Int32Array((await numbers.read(tensor)).slice().buffer));
    await checkPacked(fixture);
    await checkGeneration(fixture);
    if (twin === model) await checkGradients(fixture, numbers.tensors.keys());
    else await checkGradientsOfTwin(fixture);
    await checkEsft(fixture, maxSteps);
    const list = checks.report();
    return { name, checks: list, ok: list.every((c) => c.ok) };
  } catch (error) {
    return { name, checks: checks.report(), failure: error instanceof Error ? error.message : String(error), ok: false };
  } finally {
    for (const o of open) o.dispose();
  }
}

interface Fixture {
  readonly checks: Checks;
  readonly limits: Tolerance;
  readonly model: Transformer;
  /** The same model computed exactly: `model` itself on an f32 device. */
  readonly twin: Transformer;
  readonly golden: GoldenJson;
  readonly expected: (name: string) => Promise<Float32Array>;
}

interface Pass {
  readonly logits: Float32Array;
  readonly hidden: ReadonlyMap<number, Float32Array>;
  readonly routes: ReadonlyMap<number, { ids: Int32Array; weights: Float32Array; k: number }>;
}

/** A forward with everything that can be seen of it; the slots of each token in the order of the experts' ids. */
async function observe(model: Transformer, host: HostBatch): Promise<Pass> {
  const hidden = new Map<number, Promise<Float32Array>>();
  const routes = new Map<number, { ids: Promise<Int32Array>; weights: Promise<Float32Array>; k: number }>();
  using logits = model.logits(host, {
    onHidden: (i, x) => hidden.set(i, x.readF32()),
    onRoute: (l, ids, weights) => routes.set(l, { ids: ids.readI32(), weights: weights.readF32(), k: ids.shape[1]! }),
  });
  const out = { logits: await logits.readF32(), hidden: new Map<number, Float32Array>(), routes: new Map() };
  for (const [i, x] of hidden) out.hidden.set(i, await x);
  for (const [l, { ids, weights, k }] of routes) {
    const route = { ids: await ids, weights: await weights, k };
    sortSlots(route.ids, route.weights, k);
    out.routes.set(l, route);
  }
  return out;
}

/** Tokens that see no flip: in no layer, of themselves or of an earlier token of their document. Every first flip must be a near-tie. */
function unflipped({ checks, limits }: Fixture, host: HostBatch, found: Pass, wanted: Pass["routes"]): boolean[] {
  const T = host.ids.length;
  const flipped: boolean[] = Array.from({ length: T }, () => false);
  const seen = (t: number): boolean => flipped.slice(host.docStart[t]!, t + 1).some(Boolean);
  for (const [l, { ids, weights, k }] of found.routes) {
    const want = wanted.get(l)!;
    const now: number[] = [];
    for (let t = 0; t < T; t++) {
      if (seen(t)) continue;
      const slots = Array.from({ length: k }, (_, j) => t * k + j);
      const lost = slots.filter((i) => !ids.subarray(t * k, (t + 1) * k).includes(want.ids[i]!));
      const gained = slots.filter((i) => !want.ids.subarray(t * k, (t + 1) * k).includes(ids[i]!));
      if (lost.length === 0) continue;
      now.push(t);
      // What is near a tie: the best of what left and the best of what came (of a whole group, where groups are chosen first).
      const gap = Math.abs(Math.max(...lost.map((i) => want.weights[i]!)) - Math.max(...gained.map((i) => weights[i]!)));
      checks.add("routing", limits.nearTie > 0 ? gap : 1, limits.nearTie, `layer ${l}, token ${t}`);
    }
    for (const t of now) flipped[t] = true;
  }
  const clean = flipped.map((_, t) => !seen(t));
  checks.add("routing", 0, limits.nearTie);
  checks.add("tokens beside a flip", 1 - clean.filter(Boolean).length / T, limits.nearTie > 0 ? 0.75 : 0);
  return clean;
}

/** Rows of a [T, n] array where `keep` says so. */
function rowsOf(values: Float32Array, keep: readonly boolean[]): Float32Array {
  const n = values.length / keep.length;
  return Float32Array.from(keep.flatMap((yes, t) => (yes ? [...values.subarray(t * n, (t + 1) * n)] : [])));
}

async function checkForward(fixture: Fixture, expectedIds: (name: string) => Promise<Int32Array>): Promise<void> {
  const { checks, limits, model, golden, expected } = fixture;
  const host = batchOf(golden.batches[0]!);
  const found = await observe(model, host);
  const layers = [...found.routes.keys()];
  checks.add("sparse layers", layers.join() === golden.moe_layers.join() ? 0 : 1, 0, `found ${layers.join()}`);
  const wanted = new Map<number, { ids: Int32Array; weights: Float32Array; k: number }>();
  for (const [l, { k }] of found.routes)
    wanted.set(l, { ids: await expectedIds(`router.${l}.ids`), weights: await expected(`router.${l}.weights`), k });
  const clean = unflipped(fixture, host, found, wanted);
  const compare = (name: string, limit: number, got: Float32Array, want: Float32Array, detail = ""): void =>
    checks.add(name, relativeL2(rowsOf(got, clean), rowsOf(want, clean)), limit, detail);
  compare("logits", limits.logits, found.logits, await expected("logits"));
  for (const [i, x] of found.hidden) compare("hidden", limits.hidden, x, await expected(`hidden.${i}`), `hidden.${i}`);
  for (const [l, { weights }] of found.routes) compare("weights", limits.weights, weights, wanted.get(l)!.weights, `layer ${l}`);
  model.resetLoss();
  model.evaluate(host);
  const { loss } = await model.readLoss();
  checks.add("loss", Math.abs(loss / host.supervised / golden.loss - 1), limits.loss);
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

async function checkPacked(fixture: Fixture): Promise<void> {
  const { checks, limits, model, twin, golden, expected } = fixture;
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
  const found = await observe(model, host);
  const clean = unflipped(fixture, host, found, twin === model ? found.routes : (await observe(twin, host)).routes);
  checks.add("packed logits", relativeL2(rowsOf(found.logits, clean), rowsOf(await expected("packed.logits"), clean)), limits.logits);
  model.resetLoss();
  model.evaluate(host);
  checks.add("packed loss", Math.abs((await model.readLoss()).loss / supervised / loss - 1), limits.loss);
}

async function checkGeneration({ checks, model, golden }: Fixture): Promise<void> {
  const { prompt, tokens } = golden.generation;
  const ids = [...prompt];
  while (ids.length < tokens.length) {
    const logits = await model.lastLogits(hostBatch([{ ids, targets: ids.map(() => -100) }]));
    ids.push(logits.reduce((best, x, i) => (x > logits[best]! ? i : best), 0));
  }
  checks.add("greedy tokens", tokens.filter((t, i) => ids[i] !== t).length, 0);
}

/** Gradient of a checkpoint tensor from its parameters (fused tensors: slices put together again). */
async function checkGradients({ checks, limits, model, golden, expected }: Fixture, names: Iterable<string>): Promise<void> {
  const { params } = model;
  const host = batchOf(golden.batches[0]!);
  params.train(trainableKeys(model));
  model.resetLoss();
  model.forwardBackward(host, 1 / host.supervised);
  checks.add("training loss", Math.abs((await model.readLoss()).loss / host.supervised / golden.loss - 1), limits.loss);
  const wanted = [...names].filter((n) => n.startsWith("grad.")).map((n) => n.slice("grad.".length));
  const byTensor = new Map<string, typeof params extends { all(): (infer P)[] } ? P[] : never>();
  for (const p of params.all()) byTensor.set(p.ref.name, [...(byTensor.get(p.ref.name) ?? []), p]);
  for (const name of wanted) {
    const want = await expected(`grad.${name}`);
    const parts = byTensor.get(name);
    if (!parts) {
      checks.add("gradients", Number.POSITIVE_INFINITY, limits.gradient, `${name} is not a parameter`);
      continue;
    }
    const got = new Float32Array(want.length);
    for (const p of parts) got.set(await p.grad!.readF32(), offsetOf(p.ref, p.shape, parts.length > 1 ? want.length : 0));
    checks.add("gradients", relativeL2(got, want), limits.gradient, name);
  }
  params.freeze();
}

const trainableKeys = ({ params }: Transformer): string[] =>
  params
    .all()
    .filter((p) => p.role !== "selectionBias")
    .map((p) => p.key);

function isLoose({ layers }: ModelSpec, { role, layer }: { role: string; layer: number }): boolean {
  const attention = layers[layer]?.attention;
  return role === "norm" || (role === "attention" && attention?.kind === "heads" && attention.clip !== undefined);
}

/** Every gradient of a loss over tokens that see no flip, beside that of the exact twin. */
async function checkGradientsOfTwin(fixture: Fixture): Promise<void> {
  const { checks, limits, model, twin, golden } = fixture;
  const whole = batchOf(golden.batches[0]!);
  const clean = unflipped(fixture, whole, await observe(model, whole), (await observe(twin, whole)).routes);
  const targets = whole.targets.map((target, t) => (clean[t] ? target : -100));
  const host = { ...whole, targets, supervised: targets.filter((t) => t >= 0).length };
  checks.add("supervised tokens", host.supervised > 0 ? 0 : 1, 0);
  for (const m of [model, twin]) {
    m.params.train(trainableKeys(m));
    m.resetLoss();
    m.forwardBackward(host, 1 / host.supervised);
  }
  const [a, b] = [await model.readLoss(), await twin.readLoss()];
  checks.add("training loss", Math.abs(a.loss / b.loss - 1), limits.loss / 10);
  // A tensor whose gradient nearly cancels is all rounding error: what counts is its part of the whole gradient.
  const parts: { key: string; loose: boolean; error: number; norm: number }[] = [];
  for (const p of model.params.state!.parameters) {
    const want = await twin.params.byName(p.key)!.grad!.readF32();
    const got = await p.grad!.readF32();
    parts.push({
      key: p.key,
      loose: isLoose(model.spec, p),
      error: Math.hypot(...got.map((x, i) => x - want[i]!)),
      norm: Math.hypot(...want),
    });
  }
  const mean = Math.hypot(...parts.map((p) => p.norm)) / Math.sqrt(parts.length);
  for (const { key, loose, error, norm } of parts)
    checks.add(
      loose ? "gradients of norms and clipped" : "gradients",
      error / Math.max(norm, 0.1 * mean),
      loose ? limits.looseGradient : limits.gradient,
      key,
    );
  for (const m of [model, twin]) m.params.freeze();
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

async function checkEsft({ checks, limits, model, golden, expected }: Fixture, maxSteps: number): Promise<void> {
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
  for (let step = 0; step < Math.min(esft.steps, maxSteps); step++) {
    const host = batchOf(golden.batches[step % golden.batches.length]!);
    model.resetLoss();
    optimizer.zeroGrad();
    model.forwardBackward(host, 1 / host.supervised);
    optimizer.step(o.lr);
    const loss = (await model.readLoss()).loss / host.supervised;
    const limit = step < 5 ? limits.curveFirstFive : limits.curve;
    const label = step < 5 ? "ESFT losses 1-5" : "ESFT losses 6-20";
    checks.add(label, Math.abs(loss / esft.losses[step]! - 1), limit, `step ${step}`);
    checks.add(
      "ESFT grad norms",
      Math.abs((await optimizer.readNorm()) / esft.grad_norms[step]! - 1),
      step < 5 ? limits.normsFirstFive : limits.norms,
      `step ${step}`,
    );
  }
  const moved: string[] = [];
  for (const p of params.all().filter((q) => q.trains)) {
    const now = await p.master!.readF32();
    const base = await params.storedValues(p);
    if (now.some((x, i) => !Object.is(x, base[i]))) moved.push(p.ref.name);
    if (p.ref.index !== undefined || maxSteps < esft.steps) continue; // fused: checked as logits below
    const want = await expected(`esft.${p.ref.name}`);
    const error = want.map((x, i) => now[i]! - x);
    const movement = want.map((x, i) => x - base[i]!);
    checks.add("trained weights", Math.hypot(...error) / Math.hypot(...movement), limits.movement, p.ref.name);
  }
  const unexpected = [...new Set(moved)].filter((n) => !esft.moved.includes(n));
  const still = esft.moved.filter((n) => !moved.includes(n));
  checks.add("moved tensors", unexpected.length + still.length, 0, [...unexpected, ...still].join(" "));
  const frozen = params.all().filter((p) => !p.trains && p.value !== p.base);
  checks.add("frozen tensors", frozen.length, 0, frozen.map((p) => p.key).join(" "));
  if (maxSteps >= esft.steps) {
    using logits: Tensor = model.logits(batchOf(golden.batches[0]!));
    checks.add("ESFT logits", relativeL2(await logits.readF32(), await expected("esft.logits")), limits.trainedLogits);
  }
  optimizer.dispose();
  params.freeze();
}
