// Checks one method fixture (an adapter on a tiny base) against this project: routing, logits, loss, adapter gradients, 20 steps of
// training, what the adapter became, that the base did not move. Bounds: golden/methods/README.md, "Tolerances".

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { PERFT_VARIANTS } from "../../lib/methods/perft_options.ts";
import type { PerftOptions } from "../../lib/methods/perft_options.ts";
import { maxDifference, NotServed, relative, relativeL2, relativeToMovement, report } from "./compare.ts";
import type { Checks, Report } from "./compare.ts";
import { batchOf, TestModel } from "./model.ts";
import type { Device, GoldenBatch, GoldenOptimizer, Pass, Routes, Training } from "./model.ts";
import { openNumbers } from "./numbers.ts";
import type { Numbers } from "./numbers.ts";

export interface MethodGolden {
  readonly base: string;
  readonly method: string;
  readonly variant: string;
  readonly hyper: {
    readonly r: number;
    readonly alpha: number | null;
    readonly scaling: number;
    readonly dropout?: number;
    readonly aux_loss_coef?: Readonly<Record<"base_router" | "peft_router", number>>;
    /** Of PERFT. */
    readonly adapter?: "lora" | "parallel";
    readonly N?: number | null;
    readonly K?: number | null;
    readonly gate_weights?: string;
  };
  readonly moe_layers: readonly number[];
  readonly batches: readonly [GoldenBatch, ...GoldenBatch[]];
  readonly loss: number;
  readonly without_adapter?: { readonly loss: number; readonly max_abs_logit_difference: number };
  readonly training: {
    readonly optimizer: GoldenOptimizer;
    readonly steps: number;
    readonly losses: readonly number[];
    readonly grad_norms: readonly number[];
    readonly loss_after?: number;
  };
  readonly zero_gradients?: readonly string[];
}

const limits = {
  /** max |difference| */
  logits: 2e-5,
  weights: 5e-6,
  /** relative */
  loss: 1e-6,
  losses: 1e-5,
  norms: 1e-4,
  /** relative L2 per tensor */
  gradient: 1e-5,
  /** relative to the movement of the tensor */
  final: 2e-4,
} as const;

/** A base with a method on it, as far as a fixture sees it. */
export interface MethodModel {
  readonly base: TestModel;
  /** The adapter's tensors train, from the fixture's first values. */
  begin(optimizer: GoldenOptimizer): Training;
  /** Routing of routers that the method added, in a forward that `observe` has just made; null where it adds none. */
  readonly addedRoutes: (() => Promise<ReadonlyMap<number, Routes>>) | null;
}

/** What the project makes of a fixture's adapter. @throws NotServed the method, or what it is put on */
async function openMethod(base: TestModel, golden: MethodGolden, adapter: Numbers): Promise<MethodModel> {
  const { method, variant, hyper } = golden;
  if ((hyper.dropout ?? 0) !== 0) throw new NotServed(`method ${method} with dropout`);
  const tensors = new Map<string, { shape: readonly number[]; values: Float32Array }>();
  for (const name of adapter.names) tensors.set(name, { shape: adapter.shape(name), values: await adapter.f32(name) });
  if (method === "lora") {
    const attachments = base.lora(tensors, hyper.scaling);
    return { base, begin: (optimizer) => base.trainAttached(attachments, optimizer), addedRoutes: null };
  }
  if (method !== "perft") throw new NotServed(`method ${method} ${variant}`);
  const attachments = base.observed(base.perft(perftOptions(variant, hyper), tensors));
  return { base, begin: (optimizer) => base.trainAttached(attachments, optimizer), addedRoutes: () => base.addedRoutes() };
}

function perftOptions(variant: string, hyper: MethodGolden["hyper"]): PerftOptions {
  const { r: rank, alpha, adapter: form, N, K, gate_weights: gate, aux_loss_coef: aux } = hyper;
  const known = PERFT_VARIANTS.find((v) => v === variant);
  if (!known || (gate !== undefined && gate !== "own" && gate !== "base_slot")) throw new NotServed(`method perft ${variant} ${gate}`);
  const routed = known === "R";
  return {
    variant: known,
    rank,
    form,
    ...(alpha === null ? {} : { alpha }),
    ...(routed || known === "D" ? { adapters: N ?? undefined } : {}),
    ...(routed
      ? { adaptersPerToken: K ?? undefined, balanceLoss: aux?.peft_router, ...(gate === "base_slot" ? { compat: "perft-2024" } : {}) }
      : {}),
    baseBalanceLoss: aux?.base_router,
  };
}

async function compareRoutes(
  checks: Checks,
  numbers: Numbers,
  kind: "router" | "peft_router",
  found: ReadonlyMap<number, Routes>,
): Promise<void> {
  const expected = numbers.names.filter((name) => name.startsWith(`${kind}.`) && name.endsWith(".ids"));
  checks.add(`${kind} layers`, Math.abs(expected.length - found.size), 0, `found ${[...found.keys()].join()}`);
  for (const [l, { ids, weights }] of found) {
    const want = await numbers.i32(`${kind}.${l}.ids`);
    checks.add(`${kind} ids`, ids.length === want.length ? ids.filter((id, i) => id !== want[i]).length : 1, 0, `layer ${l}`);
    checks.add(`${kind} weights`, maxDifference(weights, await numbers.f32(`${kind}.${l}.weights`)), limits.weights, `layer ${l}`);
  }
}

async function compareForward(checks: Checks, numbers: Numbers, golden: MethodGolden, model: MethodModel, bare: Pass): Promise<void> {
  const host = batchOf(golden.batches[0]);
  const found = await model.base.observe(host);
  checks.add("sparse layers", [...found.routes.keys()].join() === golden.moe_layers.join() ? 0 : 1, 0);
  await compareRoutes(checks, numbers, "router", found.routes);
  await compareRoutes(checks, numbers, "peft_router", (await model.addedRoutes?.()) ?? new Map());
  checks.add("logits", maxDifference(found.logits, await numbers.f32("logits")), limits.logits);
  if (golden.without_adapter) {
    const away = maxDifference(found.logits, bare.logits);
    checks.add("effect on logits", Math.abs(away - golden.without_adapter.max_abs_logit_difference), 2 * limits.logits);
  }
}

/** Loss and gradients of batch 0 before anything moved. */
async function compareGradients(checks: Checks, numbers: Numbers, golden: MethodGolden, training: Training): Promise<void> {
  checks.add("loss", relative(await training.backward(batchOf(golden.batches[0])), golden.loss), limits.loss);
  const wanted = numbers.names.filter((name) => name.startsWith("grad.")).map((name) => name.slice("grad.".length));
  const missing = [...new Set([...wanted, ...training.parameters.map((p) => p.key)])].filter(
    (name) => !wanted.includes(name) || !training.parameters.some((p) => p.key === name),
  );
  checks.add("adapter tensors", missing.length, 0, missing.join(" "));
  for (const name of wanted)
    checks.add("gradients", relativeL2(await training.gradient(name), await numbers.f32(`grad.${name}`)), limits.gradient, name);
  for (const name of golden.zero_gradients ?? []) {
    const gradient = await training.gradient(name);
    checks.add("zero gradients", gradient.filter((x) => x !== 0).length, 0, name);
  }
}

async function compareTraining(
  checks: Checks,
  numbers: Numbers,
  golden: MethodGolden,
  training: Training,
  start: ReadonlyMap<string, Float32Array>,
): Promise<void> {
  const { steps, losses, grad_norms, loss_after } = golden.training;
  const { batches } = golden;
  for (let step = 0; step < steps; step++) {
    const loss = await training.backward(batchOf(batches[step % batches.length]!));
    checks.add("losses", relative(loss, losses[step]!), limits.losses, `step ${step}`);
    checks.add("gradient norms", relative(await training.update(), grad_norms[step]!), limits.norms, `step ${step}`);
  }
  if (loss_after !== undefined) checks.add("loss after", relative(await training.backward(batchOf(batches[0])), loss_after), limits.losses);
  for (const [name, first] of start) {
    const want = await numbers.f32(`final.${name}`);
    checks.add("final tensors", relativeToMovement(await training.value(name), want, first), limits.final, name);
  }
}

export function checkMethod(device: Device, dir: string): Promise<Report> {
  return report(async (checks) => {
    const golden = JSON.parse(await readFile(join(dir, "golden.json"), "utf8")) as MethodGolden;
    if (device.info.activationDtype !== "f32") throw new NotServed("compared on devices that compute in f32: --device cpu");
    const numbers = await openNumbers(join(dir, "golden.safetensors"));
    const adapter = await openNumbers(join(dir, "adapter.safetensors"));
    const base = await TestModel.open(device, join(dir, golden.base));
    try {
      const model = await openMethod(base, golden, adapter);
      const host = batchOf(golden.batches[0]);
      const bare = await base.observe(host);
      if (golden.without_adapter) checks.add("loss of the base", relative(await base.loss(host), golden.without_adapter.loss), limits.loss);
      const training = model.begin(golden.training.optimizer);
      const start = new Map<string, Float32Array>();
      for (const name of adapter.names) start.set(name, await adapter.f32(name));
      await compareForward(checks, numbers, golden, model, bare);
      await compareGradients(checks, numbers, golden, training);
      await compareTraining(checks, numbers, golden, training, start);
      const { trained, frozen } = await base.moved();
      checks.add("base tensors", trained.length + frozen.length, 0, [...trained, ...frozen].join(" "));
      base.endTraining();
      checks.add("base restored", maxDifference((await base.observe(host)).logits, bare.logits), 0);
    } finally {
      base.dispose();
    }
  });
}
