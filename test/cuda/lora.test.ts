// LoRA on the device "cuda": a run's losses are those of the CPU in f32 up to bf16 rounding, frozen weights stay the file's, and the
// adapter gives the trained loss when it is applied. Alone: npx vitest run test/cuda/lora.test.ts

import { expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { MoeModel } from "../../lib/index.ts";
import type { TrainEvent } from "../../lib/index.ts";
import { toyRows } from "../support/tiny_model.ts";
import { open, patience, same, tinyCheckpoint, train, withCudaModel } from "./model.ts";

withCudaModel("LoRA on cuda", () => {
  const at = tinyCheckpoint();
  const losses = (events: readonly TrainEvent[]): number[] =>
    events.flatMap((e) => (e.type === "step" || e.type === "eval" ? [e.loss] : []));
  const more = { method: { type: "lora", rank: 4, targets: "linear,router" } as const, optimizer: { lr: 1e-2 } };

  it(
    "trains as the CPU does, and its adapter applies",
    async () => {
      await using gpu = await open(at("model"));
      const found = losses(await train(gpu, at("gpu"), more));
      await using cpu = await MoeModel.fromPretrained(at("model"), { device: "cpu" });
      const want = losses(await train(cpu, at("cpu"), more));
      expect(want.at(-1)!).toBeLessThan(want[0]! - 0.3);
      found.forEach((loss, i) => expect(Math.abs(loss - want[i]!), `loss ${i}`).toBeLessThan(0.01));

      const rows = Dataset.fromRows(toyRows(6, 9));
      const loss = async (model: MoeModel): Promise<number> => (await model.evaluate(rows, { maxLength: 32 })).loss;
      const base = await loss(gpu);
      for (const p of gpu.params.all()) {
        const bytes = await gpu.checkpoint.read(p.ref.name);
        if (p.base.dtype === p.stored) expect(same(new Uint8Array(await p.value.readBytes()), bytes), p.key).toBe(true);
      }
      await gpu.applyAdapter(at("cpu"));
      await cpu.applyAdapter(at("cpu"));
      expect(Math.abs((await loss(gpu)) - (await loss(cpu)))).toBeLessThan(0.01);
      gpu.removeAdapter();
      expect(await loss(gpu)).toBe(base);
    },
    patience,
  );
});
