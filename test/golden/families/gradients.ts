// Gradients of a family fixture: every tensor against the fixture's; on a device with bf16 activations against those of the exact
// twin, for a loss over tokens that see no flip.

import { hasGradient, moeOf } from "../../../lib/model/spec.ts";
import { l2, relative, relativeL2 } from "../compare.ts";
import { assemble, batchOf, restricted } from "../model.ts";
import type { TestModel } from "../model.ts";
import type { Fixture } from "./fixture.ts";
import { unflipped } from "./forward.ts";

const PREFIX = "grad.";
/**
 * A difference of this share of the whole gradient is rounding, whatever is left of a tensor's own: that of a router whose one weight per
 * token is renormalised to 1, or of a factor in front of a norm, cancels.
 */
const ROUNDING = 3e-8;

/** Every gradient under the name and in the layout of its checkpoint tensor. */
export async function checkGradients({ checks, limits, model, golden, numbers }: Fixture): Promise<void> {
  const training = model.trainAll();
  const loss = await training.backward(batchOf(golden.batches[0]));
  checks.add("training loss", relative(loss, golden.loss), limits.loss);
  const whole = l2(await Promise.all(training.parameters.map(async (p) => l2(await training.gradient(p.key)))));
  for (const entry of numbers.names.filter((name) => name.startsWith(PREFIX))) {
    const tensor = entry.slice(PREFIX.length);
    const want = await numbers.f32(entry);
    const role = model.roleOf(tensor);
    // Buffers have no gradient: selection biases, scalars of layers. Neither have parts that text never touches.
    if (role === undefined ? want.every((x) => x === 0) : !hasGradient(role)) continue;
    if (role === undefined) {
      checks.add("gradients", Number.POSITIVE_INFINITY, limits.gradient, `${tensor} is not a parameter`);
      continue;
    }
    const got = assemble(numbers.shape(entry), await model.parts(tensor, "gradient"));
    const error = got.length === want.length ? l2(got, want) : Number.POSITIVE_INFINITY;
    checks.add("gradients", error <= ROUNDING * whole ? 0 : relativeL2(got, want), limits.gradient, tensor);
  }
  model.endTraining();
}

/** Every gradient of a loss over tokens that see no flip, beside that of the exact twin. */
export async function checkGradientsOfTwin(fixture: Fixture): Promise<void> {
  const { checks, limits, model, twin, golden } = fixture;
  const whole = batchOf(golden.batches[0]);
  const clean = unflipped(fixture, whole, await model.observe(whole), (await twin.observe(whole)).routes);
  const host = restricted(whole, clean);
  checks.add("supervised tokens", host.supervised > 0 ? 0 : 1, 0);
  const [a, b] = [model.trainAll(), twin.trainAll()];
  checks.add("training loss", relative(await a.backward(host), await b.backward(host)), limits.loss / 10);
  // A tensor whose gradient nearly cancels is all rounding error: what counts is its part of the whole gradient.
  const parts: { key: string; loose: boolean; error: number; norm: number }[] = [];
  for (const p of a.parameters) {
    const want = await b.gradient(p.key);
    const got = await a.gradient(p.key);
    parts.push({
      key: p.key,
      loose: isLoose(model, p),
      error: l2(got, want),
      norm: l2(want),
    });
  }
  const mean = l2(parts.map((p) => p.norm)) / Math.sqrt(parts.length);
  for (const { key, loose, error, norm } of parts)
    checks.add(
      loose ? "gradients of norms and clipped" : "gradients",
      error / Math.max(norm, 0.1 * mean),
      loose ? limits.looseGradient : limits.gradient,
      key,
    );
  for (const m of [model, twin]) m.endTraining();
}

function isLoose({ spec }: TestModel, { role, layer }: { readonly role: string; readonly layer: number }): boolean {
  const attention = spec.layers[layer]?.attention;
  if (role === "router" && moeOf(spec, layer)?.rule.score === "sparseMixer") return true;
  return role === "norm" || (role === "attention" && attention?.kind === "heads" && attention.clip !== undefined);
}
