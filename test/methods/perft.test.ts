// PERFT as a method: what each variant brings, first values, a run from start to adapter (resumed, on any number of threads, applied
// again), and what is refused. The mathematics: seams.test.ts and the fixtures of the published code. No GPU.
// Run alone: npx vitest run test/methods/perft.test.ts

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Adapter } from "../../lib/adapter/adapter.ts";
import { Dataset } from "../../lib/data/dataset.ts";
import { attachmentsOf } from "../../lib/methods/attachments.ts";
import { perftTrainable } from "../../lib/methods/perft.ts";
import type { PerftOptions } from "../../lib/methods/perft_options.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { MoeModel } from "../../lib/moe_model.ts";
import type { TrainEvent } from "../../lib/train/events.ts";
import type { TrainRequest } from "../../lib/train/request.ts";
import { tinyDeepseek, tinyOlmoe, toyRows, writeTinyModel } from "../support/tiny_model.ts";

// Three layers: one dense, two with 8 experts; width 48.
const deepseek = modelSpec(tinyDeepseek, "config.json");
const make = (options: Partial<PerftOptions>, seed = 1) => perftTrainable(deepseek, { variant: "R", rank: 4, ...options }, seed);
const shapes = (options: Partial<PerftOptions>): Map<string, readonly number[]> =>
  new Map(make(options).attachments!.parameters.map((p) => [p.key, p.shape]));

describe("what a variant brings", () => {
  it.each([
    [{ variant: "R" }, 4, true],
    [{ variant: "R", adapters: 7, adaptersPerToken: 3 }, 7, true],
    [{ variant: "E" }, 8, false],
    [{ variant: "D" }, 2, false],
    [{ variant: "D", adapters: 5 }, 5, false],
    [{ variant: "S" }, 1, false],
    [{ variant: "S", form: "parallel" }, 1, false],
  ] as const)("%j", (options, adapters, router) => {
    const found = shapes(options);
    const expected = [1, 2].flatMap((l) => [
      ...Array.from({ length: adapters }, (_, j) => [`perft.layers.${l}.adapters.${j}.A`, `perft.layers.${l}.adapters.${j}.B`]).flat(),
      ...(router ? [`perft.layers.${l}.router`] : []),
    ]);
    expect([...found.keys()]).toEqual(expected);
    expect(found.get("perft.layers.1.adapters.0.A")).toEqual([4, 48]);
    expect(found.get("perft.layers.2.adapters.0.B")).toEqual([48, 4]);
    if (router) expect(found.get("perft.layers.2.router")).toEqual([adapters, 48]);
    const { keys, parameters, lowestLayer } = make(options);
    expect([keys, parameters, lowestLayer]).toEqual([[], 2 * (adapters * 2 * 4 * 48 + (router ? adapters * 48 : 0)), 1]);
  });

  it("counts of OLMoE-1B-7B are those of the paper's table", () => {
    const olmoe = modelSpec({ ...tinyOlmoe, num_hidden_layers: 16, hidden_size: 2048, num_attention_heads: 16, num_key_value_heads: 16, num_experts: 64, num_experts_per_tok: 8, intermediate_size: 1024 }, "config.json"); // prettier-ignore
    const count = (options: Partial<PerftOptions>): string =>
      (perftTrainable(olmoe, { variant: "S", rank: 4, ...options }, 1).parameters / 1e6).toFixed(2);
    expect(count({})).toBe("0.26");
    expect(count({ variant: "R", adapters: 2, adaptersPerToken: 1 })).toBe("0.59");
    expect(count({ variant: "R", rank: 16 })).toBe("4.33");
    expect(count({ variant: "E" })).toBe("16.78");
    expect(count({ variant: "E", rank: 16 })).toBe("67.11");
  });

  it("first values: A as asked, B zero, the router small; those of the released code with compat", () => {
    const deviation = (options: Partial<PerftOptions>, key: string): number => {
      const x = make(options)
        .attachments!.parameters.find((p) => p.key === `perft.layers.1.${key}`)!
        .initial();
      return Math.hypot(...x) / Math.sqrt(x.length);
    };
    expect(deviation({}, "adapters.0.A")).toBeCloseTo(1 / Math.sqrt(48 * 3), 1);
    expect(deviation({ init: "perft" }, "adapters.0.A") / Math.sqrt(2 / 4)).toBeCloseTo(1, 0);
    expect(deviation({}, "adapters.0.B")).toBe(0);
    expect(deviation({}, "router") / 0.02).toBeCloseTo(1, 0);
    expect(deviation({ compat: "perft-2024" }, "adapters.0.A") / Math.sqrt(2 / 4)).toBeCloseTo(1, 0);
    expect(deviation({ compat: "perft-2024" }, "adapters.0.B") / 1e-6).toBeCloseTo(1, 0);
  });
});

describe("refuses", () => {
  it.each([
    [{ dropout: 1 }, "dropout", /dropout must be a number >= 0 and < 1, found 1/],
    [{ rank: 0 }, "rank", /rank must be an integer >= 1, found 0/],
    [{ rank: 49 }, "rank", /rank must be at most the model's width 48, found 49/],
    [{ alpha: 0 }, "alpha", /alpha must be a number > 0, found 0/],
    [{ alpha: 8, form: "parallel" }, "alpha", /parallel adapters have no factor/],
    [{ adapters: 0 }, "adapters", /adapters must be an integer >= 1/],
    [{ adapters: 2, adaptersPerToken: 3 }, "adaptersPerToken", /cannot visit 3 of 2 adapters/],
    [{ adaptersPerToken: 1.5 }, "adaptersPerToken", /integer/],
    [{ compat: "perft-2024", adaptersPerToken: 4 }, "adaptersPerToken", /the base router's 3/],
    [{ variant: "S", adapters: 2 }, "adapters", /adapters belongs to variant R and D, found it with S/],
    [{ variant: "D", adaptersPerToken: 2 }, "adaptersPerToken", /belongs to variant R, found it with D/],
    [{ variant: "E", balanceLoss: 0.1 }, "balanceLoss", /belongs to variant R/],
    [{ variant: "E", compat: "perft-2024" }, "compat", /belongs to variant R/],
    [{ balanceLoss: -1 }, "balanceLoss", /balanceLoss must be a number >= 0/],
    [{ baseBalanceLoss: NaN }, "baseBalanceLoss", /baseBalanceLoss must be a number >= 0/],
  ] as const)("%j", (options, key, message) => {
    expect(() => make(options)).toThrow(message);
    expect(() => make(options)).toThrow(expect.objectContaining({ code: "ERR_CONFIG", where: { key: `method.${key}` } }));
  });

  it("a model without sparse layers", () => {
    const dense = modelSpec({ ...tinyDeepseek, first_k_dense_replace: 3 }, "config.json");
    expect(() => perftTrainable(dense, { variant: "S", rank: 4 }, 1)).toThrow(/^PERFT needs a Mixture-of-Experts model/);
  });
});

describe("a run", () => {
  let root: string;
  const at = (name: string): string => join(root, name);
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), "esft-perft-"));
    await writeTinyModel(at("model"), tinyDeepseek);
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  const train = async (outDir: string, method: object, more: Partial<TrainRequest> = {}, threads = 2) => {
    await using model = await MoeModel.fromPretrained(at("model"), { device: "cpu", threads });
    const run = model.train({
      data: { rows: Dataset.fromRows(toyRows(40)), maxLength: 48 },
      method: { type: "perft", rank: 4, ...method } as TrainRequest["method"],
      outDir: at(outDir),
      steps: 6,
      rowsPerStep: 4,
      microBatch: 2,
      evalFraction: 0.2,
      keep: "last",
      optimizer: { lr: 1e-2 },
      ...more,
    });
    const events: TrainEvent[] = [];
    for await (const event of run) events.push(event);
    return { adapter: (await run.result).adapter as Adapter | null, events };
  };
  const bytes = (outDir: string): Promise<Buffer> => readFile(join(at(outDir), "adapter.safetensors"));

  it.each([
    ["R", { balanceLoss: 0.05, baseBalanceLoss: 0.02 }],
    ["R-released", { compat: "perft-2024", adapters: 3, adaptersPerToken: 1 }],
    ["E", { variant: "E", init: "perft" }],
    ["D", { variant: "D", form: "parallel" }],
    ["S", { variant: "S" }],
    ["R-dropout", { dropout: 0.3, balanceLoss: 0 }],
  ])("%s: resumed and on one thread, the same bytes; applied again, the same loss", async (name, method) => {
    const { adapter, events } = await train(`${name}-whole`, method);
    await train(`${name}-single`, method, {}, 1);
    expect(await bytes(`${name}-single`)).toEqual(await bytes(`${name}-whole`));
    await train(`${name}-parts`, method, { steps: 3 });
    await train(`${name}-parts`, method, { resume: true });
    expect(await bytes(`${name}-parts`)).toEqual(await bytes(`${name}-whole`));

    const steps = events.filter((e) => e.type === "step");
    const balance = steps.map((e) => e.balanceLoss ?? 0);
    // Two routers of K = 3 with 0.02 and one of K = 2 with 0.05 each: K where perfectly balanced.
    if (name === "R") expect(balance.every((x) => x > 0.02 * 3 + 0.05 * 2 - 1e-6 && x < 0.3)).toBe(true);
    else expect(balance.every((x) => (name === "R-released" ? x > 0.009 : x === 0))).toBe(true);
    expect(adapter!.method["dropout"]).toBe((method as { dropout?: number }).dropout);

    await using model = await MoeModel.fromPretrained(at("model"), { device: "cpu" });
    const held = Dataset.fromRows(toyRows(9, 5));
    const before = (await model.evaluate(held, { maxLength: 48 })).loss;
    await model.applyAdapter(at(`${name}-whole`));
    expect((await model.evaluate(held, { maxLength: 48 })).loss).not.toBe(before);
    model.removeAdapter();
    expect((await model.evaluate(held, { maxLength: 48 })).loss).toBe(before);
    expect(() => attachmentsOf(deepseek, { ...adapter!.method, rank: 5 } as never, adapter!.attached)).toThrow(/expected ".*" \[5, 48\]/);
    expect(() => attachmentsOf(deepseek, { ...adapter!.method, more: 1 } as never, adapter!.attached)).toThrow(
      /adapter.json, method: .*more/,
    );
  });
});
