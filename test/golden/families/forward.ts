// Forward passes of a family fixture: routing, hidden states, logits, loss, packed documents, greedy tokens.
//
// On a device with bf16 activations every stored activation is off by up to 2⁻⁹, and a router's near-tie may fall the other way:
// tokens that see such a flip are compared by loss only, the others by bf16's own error.

import { moeOf } from "../../../lib/model/spec.ts";
import { relative, relativeL2 } from "../compare.ts";
import { batchOf, packedBatch } from "../model.ts";
import type { HostBatch, Pass, Routes, TestModel } from "../model.ts";
import type { Fixture } from "./fixture.ts";

/** Tokens that see no flip: in no layer, of themselves or of an earlier token of their document. Every first flip must be a near-tie. */
export function unflipped(
  { checks, limits, model }: Fixture,
  host: HostBatch,
  found: Pass,
  wanted: ReadonlyMap<number, Routes>,
  mostFlipped = 0.75,
): boolean[] {
  const T = host.ids.length;
  const flipped: boolean[] = Array.from({ length: T }, () => false);
  const seen = (t: number): boolean => flipped.slice(host.docStart[t]!, t + 1).some(Boolean);
  for (const [l, { ids, weights, k }] of found.routes) {
    const want = wanted.get(l);
    if (want?.ids.length !== ids.length) {
      checks.add("routing", Number.POSITIVE_INFINITY, 0, `layer ${l}: found ${k} experts a token`);
      continue;
    }
    const now: number[] = [];
    for (let t = 0; t < T; t++) {
      if (seen(t)) continue;
      const slots = Array.from({ length: k }, (_, j) => t * k + j);
      const lost = slots.filter((i) => !ids.subarray(t * k, (t + 1) * k).includes(want.ids[i]!));
      const gained = slots.filter((i) => !want.ids.subarray(t * k, (t + 1) * k).includes(ids[i]!));
      if (lost.length === 0) continue;
      now.push(t);
      // A router with a selection bias chooses by sums that no weight tells, weights of SparseMixer are of those near alone, and others are
      // times a factor of their expert: there flips are only counted.
      if (limits.nearTie > 0 && hidesTies(model, l)) continue;
      // What is near a tie: the best of what left and the best of what came (of a whole group, where groups are chosen first).
      const gap = Math.abs(Math.max(...lost.map((i) => want.weights[i]!)) - Math.max(...gained.map((i) => weights[i]!)));
      checks.add("routing", limits.nearTie > 0 ? gap : 1, limits.nearTie, `layer ${l}, token ${t}`);
    }
    for (const t of now) flipped[t] = true;
  }
  const clean = flipped.map((_, t) => !seen(t));
  checks.add("routing", 0, limits.nearTie);
  checks.add("tokens beside a flip", 1 - clean.filter(Boolean).length / T, limits.nearTie > 0 ? mostFlipped : 0);
  return clean;
}

function hidesTies({ spec }: TestModel, layer: number): boolean {
  const moe = moeOf(spec, layer);
  return moe !== undefined && (moe.selectionBias !== undefined || moe.expertScale !== undefined || moe.rule.score === "sparseMixer");
}

/** Rows of a [T, n] array where `keep` says so. */
function rowsOf(values: Float32Array, keep: readonly boolean[]): Float32Array {
  const n = values.length / keep.length;
  return Float32Array.from(keep.flatMap((yes, t) => (yes ? [...values.subarray(t * n, (t + 1) * n)] : [])));
}

export async function checkForward(fixture: Fixture): Promise<void> {
  const { checks, limits, model, golden, numbers } = fixture;
  const host = batchOf(golden.batches[0]);
  const found = await model.observe(host);
  const layers = [...found.routes.keys()];
  checks.add("sparse layers", layers.join() === golden.moe_layers.join() ? 0 : 1, 0, `found ${layers.join()}`);
  const wanted = new Map<number, Routes>();
  for (const [l, { k }] of found.routes)
    wanted.set(l, { ids: await numbers.i32(`router.${l}.ids`), weights: await numbers.f32(`router.${l}.weights`), k });
  const clean = unflipped(fixture, host, found, wanted);
  const compare = (name: string, limit: number, got: Float32Array, want: Float32Array, detail = ""): void =>
    checks.add(name, relativeL2(rowsOf(got, clean), rowsOf(want, clean)), limit, detail);
  compare("logits", limits.logits, found.logits, await numbers.f32("logits"));
  const states = numbers.names.filter((name) => name.startsWith("hidden.")).length;
  checks.add("hidden states", Math.abs(found.hidden.size - states), 0, `found ${found.hidden.size}, expected ${states}`);
  for (const [i, x] of found.hidden) compare("hidden", limits.hidden, x, await numbers.f32(`hidden.${i}`), `hidden.${i}`);
  for (const [l, { weights }] of found.routes)
    compare("weights", limits.weights, weights, wanted.get(l)?.weights ?? new Float32Array(0), `layer ${l}`);
  checks.add("loss", relative(await model.loss(host), golden.loss), limits.loss);
}

export async function checkPacked(fixture: Fixture): Promise<void> {
  const { checks, limits, model, twin, golden, numbers } = fixture;
  const { documents, loss, supervised } = golden.packed;
  const host = packedBatch(documents);
  checks.add("packed supervised", Math.abs(host.supervised - supervised), 0);
  const found = await model.observe(host);
  const clean = unflipped(fixture, host, found, twin === model ? found.routes : (await twin.observe(host)).routes);
  const want = rowsOf(await numbers.f32("packed.logits"), clean);
  checks.add("packed logits", relativeL2(rowsOf(found.logits, clean), want), limits.logits);
  checks.add("packed loss", relative(await model.loss(host), loss), limits.loss);
}

/** Greedy tokens: one by one, or on a device whose logits are off by bf16's error, each after the fixture's own, ties aside. */
export async function checkGeneration(fixture: Fixture): Promise<void> {
  const { checks, limits, model, golden } = fixture;
  const { prompt, tokens } = golden.generation;
  if (limits.nearTie > 0) return checkChoices(fixture, prompt.length);
  const ids = [...prompt];
  while (ids.length < tokens.length) ids.push(await model.nextToken(ids));
  checks.add("greedy tokens", tokens.filter((t, i) => ids[i] !== t).length, 0);
}

/** Where another token is chosen, the exact logits of both are as near as the error of all logits lets them be. */
async function checkChoices(fixture: Fixture, from: number): Promise<void> {
  const { checks, limits, model, twin, golden } = fixture;
  const { tokens } = golden.generation;
  const host = batchOf({ input_ids: [tokens], labels: [tokens.map(() => -100)] });
  const [found, wanted] = [await model.observe(host), await twin.observe(host)];
  const clean = unflipped(fixture, host, found, wanted.routes, 1); // one document: all behind a flip
  const [got, exact] = [found.logits, wanted.logits];
  const V = exact.length / tokens.length;
  const size = Math.sqrt(exact.reduce((n, x) => n + x * x, 0) / exact.length);
  for (let t = from; t < tokens.length; t++) {
    const row = (logits: Float32Array): Float32Array => logits.subarray((t - 1) * V, t * V);
    const best = (logits: Float32Array): number => logits.reduce((b, x, i) => (x > logits[b]! ? i : b), 0);
    checks.add("greedy choices of the twin", best(row(exact)) === tokens[t] ? 0 : 1, 0, `token ${t}`);
    if (!clean[t - 1]) continue;
    const lost = row(exact)[tokens[t]!]! - row(exact)[best(row(got))]!;
    checks.add("greedy choices", lost / size, 4 * limits.logits, `token ${t}`);
  }
}
