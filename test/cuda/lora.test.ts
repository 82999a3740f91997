// LoRA and PERFT on the device "cuda": a run's losses are those of the CPU in f32 up to bf16 rounding, frozen weights stay the file's, and the
// adapter gives the trained loss when it is applied. Alone: npx vitest run test/cuda/lora.test.ts

import { expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
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

  it(
    "gradient scores of experts are those of the CPU",
    async () => {
      const rows = Dataset.fromRows(toyRows(6, 9));
      const of = async (model: MoeModel): Promise<number[]> => {
        const p = await model.profile(rows, { tokens: 150, batchTokens: 64, data: { maxLength: 32 }, gradient: true });
        return p.layers.flatMap((layer) => [...p.scores(layer, { score: "gradient" })]);
      };
      await using gpu = await open(at("model"));
      await using cpu = await MoeModel.fromPretrained(at("model"), { device: "cpu" });
      const [found, want] = [await of(gpu), await of(cpu)];
      found.forEach((score, i) => expect(Math.abs(score - want[i]!), `expert ${i}`).toBeLessThan(0.03));
    },
    patience,
  );

  it(
    "in stages it trains as on the CPU",
    async () => {
      const method = { type: "lora", rank: 4, targets: "attention,experts" } as const;
      const stages = [{ targets: "attention", steps: 2 }, { targets: "experts", steps: 2 }]; // prettier-ignore
      const few = { ...more, steps: 4, method, stages };
      await using gpu = await open(at("model"));
      const found = losses(await train(gpu, at("gpu stages"), few));
      await using cpu = await MoeModel.fromPretrained(at("model"), { device: "cpu" });
      losses(await train(cpu, at("cpu stages"), few)).forEach((loss, i) =>
        expect(Math.abs(loss - found[i]!), `loss ${i}`).toBeLessThan(0.02),
      );
    },
    patience,
  );

  it.each([
    ["LoRA on the head, with dropout", { type: "lora", rank: 4, targets: "head", dropout: 0.1 }],
    [
      "LoRA of re-allocated ranks",
      { type: "lora", rank: 3, targets: "experts", reallocate: "dr", reallocateWarmup: 1, reallocateEvery: 1 },
    ],
    ["LoRA on routed experts", { type: "lora", rank: 4, targets: "experts" }],
    ["LoRA on gate over up, with dropout", { type: "lora", rank: 4, targets: "experts", expertTerms: "fused", dropout: 0.1 }],
    ["LoRA on some experts", { type: "lora", rank: 4, targets: "experts", experts: new ExpertSet({ layers: [[1, { ranked: [0, 3] }]] }) }],
    ["LoRA, routers straight through", { type: "lora", rank: 4, targets: "attention", router: "ste" }],
    ["condensers", { type: "full", condensers: 1, condenserRate: 1 }],
    ["PERFT-R", { type: "perft", variant: "R", rank: 4, adapters: 3, baseBalanceLoss: 0.01 }],
    ["PERFT-R as in 2024", { type: "perft", variant: "R", rank: 4, compat: "perft-2024" }],
    ["PERFT-E", { type: "perft", variant: "E", rank: 4 }],
    ["PERFT-D, parallel, with dropout", { type: "perft", variant: "D", rank: 4, form: "parallel", dropout: 0.1 }],
  ] as const)(
    "%s trains as on the CPU",
    async (name, method) => {
      // There the order of the base's weights decides on slots, and rounding on that order: steps are small, lest it be told by a few of them.
      const rate = name.endsWith("2024") ? { optimizer: { lr: 1e-3 } } : {};
      const few = { ...more, ...rate, steps: 3, method: method as TrainRequest["method"] };
      await using gpu = await open(at("model"));
      const found = losses(await train(gpu, at(`gpu ${name}`), few));
      await using cpu = await MoeModel.fromPretrained(at("model"), { device: "cpu" });
      const want = losses(await train(cpu, at(`cpu ${name}`), few));
      expect(found).toHaveLength(want.length);
      const bound = name.endsWith("2024") ? 0.05 : 0.02;
      found.forEach((loss, i) => expect(Math.abs(loss - want[i]!), `loss ${i}`).toBeLessThan(bound));
    },
    patience,
  );
});
