// The ESFT curve of a family fixture: losses, gradient norms, what moved and how far, logits afterwards.

import { relative, relativeL2, relativeToMovement } from "../compare.ts";
import { assemble, batchOf } from "../model.ts";
import type { Fixture } from "./fixture.ts";

/** @param maxSteps ends the curve early (emulation); what it ends at is then not compared */
export async function checkEsft({ checks, limits, model, golden, numbers }: Fixture, maxSteps: number): Promise<void> {
  const { esft, batches } = golden;
  const training = model.trainExperts(esft.experts, esft.optimizer);
  for (let step = 0; step < Math.min(esft.steps, maxSteps); step++) {
    const early = step < 5;
    const loss = await training.backward(batchOf(batches[step % batches.length]!));
    const norm = await training.update();
    const label = early ? "ESFT losses 1-5" : "ESFT losses 6-20";
    checks.add(label, relative(loss, esft.losses[step]!), early ? limits.curveFirstFive : limits.curve, `step ${step}`);
    checks.add("ESFT grad norms", relative(norm, esft.grad_norms[step]!), early ? limits.normsFirstFive : limits.norms, `step ${step}`);
  }
  const { trained, frozen } = await model.moved();
  const different = [...esft.moved.filter((n) => !trained.includes(n)), ...trained.filter((n) => !esft.moved.includes(n))];
  checks.add("moved tensors", different.length, 0, different.join(" "));
  checks.add("frozen tensors", frozen.length, 0, frozen.join(" "));
  if (maxSteps >= esft.steps) {
    for (const tensor of trained) {
      const shape = numbers.shape(`esft.${tensor}`);
      const [now, start] = [await model.parts(tensor, "now"), await model.parts(tensor, "stored")];
      const error = relativeToMovement(assemble(shape, now), await numbers.f32(`esft.${tensor}`), assemble(shape, start));
      checks.add("trained weights", error, limits.movement, tensor);
    }
    const { logits } = await model.observe(batchOf(batches[0]));
    checks.add("ESFT logits", relativeL2(logits, await numbers.f32("esft.logits")), limits.trainedLogits);
  }
  model.endTraining();
}
