// Checks one family fixture (a tiny checkpoint with numbers computed by Hugging Face) against this project, end to end: routing,
// hidden states, logits, loss, packed documents, every gradient, the ESFT curve, what moved, greedy tokens. Bounds: families/fixture.ts.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { report } from "./compare.ts";
import type { Report } from "./compare.ts";
import { checkEsft } from "./families/esft.ts";
import { toleranceOf } from "./families/fixture.ts";
import type { Fixture, GoldenJson } from "./families/fixture.ts";
import { checkForward, checkGeneration, checkPacked } from "./families/forward.ts";
import { checkGradients, checkGradientsOfTwin } from "./families/gradients.ts";
import { Device, TestModel } from "./model.ts";
import { openNumbers } from "./numbers.ts";

/** @param maxSteps ends the ESFT curve early (emulation); what it ends at is then not compared */
export function checkFamily(device: Device, dir: string, maxSteps = Infinity): Promise<Report> {
  return report(async (checks) => {
    const open: { dispose(): void }[] = [];
    try {
      const golden = JSON.parse(await readFile(join(dir, "golden.json"), "utf8")) as GoldenJson;
      const numbers = await openNumbers(join(dir, "golden.safetensors"));
      const model = await TestModel.open(device, dir);
      open.unshift(model);
      const limits = toleranceOf(model.spec.modelType, device.info.activationDtype);
      let twin = model; // exact where the device is
      if (limits.nearTie > 0) {
        const cpu = new Device({ kind: "cpu" });
        open.push(cpu);
        twin = await TestModel.open(cpu, dir);
        open.unshift(twin);
      }
      const fixture: Fixture = { checks, limits, model, twin, golden, numbers };
      await checkForward(fixture);
      await checkPacked(fixture);
      await checkGeneration(fixture);
      if (twin === model) await checkGradients(fixture);
      else await checkGradientsOfTwin(fixture);
      await checkEsft(fixture, maxSteps);
    } finally {
      for (const o of open) o.dispose();
    }
  });
}
