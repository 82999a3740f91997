// The same run twice gives the same bits: adapter, losses, gradient norms; stopped and resumed too. On a GPU 200 steps, on emulation 4.
// Alone: npx vitest run test/cuda/determinism.test.ts

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import type { TrainEvent } from "../../lib/index.ts";
import { open, patience, tinyCheckpoint, train, withCudaModel } from "./model.ts";

const numbers = (events: readonly TrainEvent[]) =>
  events.flatMap((e) => (e.type === "step" ? [[e.step, e.loss, e.gradNorm, e.coverage]] : e.type === "eval" ? [[e.step, e.loss]] : []));

withCudaModel("determinism on cuda", () => {
  const at = tinyCheckpoint();
  const adapter = (run: string): Promise<Buffer> => readFile(join(at(run), "adapter.safetensors"));

  it(
    "two runs, and one that was interrupted, deliver the same bits",
    async () => {
      const model = await open(at("model"));
      const steps = model.device.info.emulated ? 4 : 200;
      const first = await train(model, at("a"), { steps });
      const again = await train(model, at("b"), { steps });
      await train(model, at("c"), { steps: Math.floor(steps / 2) });
      await model[Symbol.asyncDispose]();
      const other = await open(at("model"));
      const rest = await train(other, at("c"), { steps, resume: true });
      await other[Symbol.asyncDispose]();

      const losses = first.flatMap((e) => (e.type === "step" ? [e.loss] : []));
      expect(losses.length).toBe(steps);
      expect(losses.every(Number.isFinite)).toBe(true);
      expect(losses.at(-1)!).toBeLessThan(losses[0]!);
      expect(numbers(again)).toEqual(numbers(first));
      expect(numbers(rest).filter(([step]) => step! > steps / 2)).toEqual(numbers(first).filter(([step]) => step! > steps / 2));
      const bytes = await adapter("a");
      expect(Buffer.compare(await adapter("b"), bytes)).toBe(0);
      expect(Buffer.compare(await adapter("c"), bytes)).toBe(0);
    },
    patience,
  );
});
