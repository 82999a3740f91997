// Re-allocation of ranks: the rule on numbers, columns that are kept and grown, options, and runs whose budget stays, whose function does
// not jump where an expert gets ranks, which resume to the same bits on any number of threads, and whose adapters load, merge and export.
// No GPU. Run alone: npx vitest run test/methods/reallocation.test.ts

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { mergeAdapter } from "../../lib/convert/merge.ts";
import { savePeftAdapter } from "../../lib/convert/peft_write.ts";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { MoeModel } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import type { LoraTraining } from "../../lib/methods/lora.ts";
import type { LoraOptions } from "../../lib/methods/lora_targets.ts";
import { compact, contributions, grow, keptColumns } from "../../lib/methods/rank_columns.ts";
import { isDue, movesOf } from "../../lib/methods/reallocation.ts";
import { hostBatch } from "../../lib/model/batch.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { Device } from "../../lib/tensor.ts";
import { Reallocator } from "../../lib/train/reallocator.ts";
import { tempDir } from "../support/fixture.ts";
import { normals, tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

const spec = modelSpec(tinyDeepseek, "config.json"); // layers 1 and 2 have 8 experts
const root = tempDir();
const at = (...names: string[]): string => join(root, ...names);
beforeAll(() => writeTinyModel(at("model"), tinyDeepseek));

const rules = { ratio: 0.25, columns: 2, minRank: 0, maxRank: 8 };

describe("who gives to whom", () => {
  it("the least important to the most important, one to one, within the ratio", () => {
    const importance = [0.3, 0.1, 0.2, 0.9, 0.8, 0.4, 0.5, 0.6];
    expect(movesOf(importance, new Array<number>(8).fill(4), rules)).toEqual([
      { from: 1, to: 3, columns: 2 },
      { from: 2, to: 4, columns: 2 },
    ]);
  });
  it("within the lowest and the highest rank; an expert without any stays without", () => {
    expect(movesOf([0, 1, 2, 9], [0, 1, 4, 7], { ...rules, ratio: 0.5 })).toEqual([{ from: 1, to: 3, columns: 1 }]); // 0 is pruned
    expect(movesOf([0, 1, 2, 9], [4, 4, 4, 8], rules)).toEqual([{ from: 0, to: 2, columns: 2 }]); // 3 is full
    expect(movesOf([9, 1], [0, 4], rules)).toEqual([]); // what was pruned gets nothing
    expect(movesOf([0, 9], [2, 4], { ...rules, minRank: 1 })).toEqual([{ from: 0, to: 1, columns: 1 }]);
  });
  it("where importance is the same nothing moves; ties go to the lower id", () => {
    expect(movesOf([1, 1, 1, 1], [4, 4, 4, 4], rules)).toEqual([]);
    expect(movesOf([0, 0, 5, 5], [4, 4, 4, 4], rules)).toEqual([{ from: 0, to: 2, columns: 2 }]);
  });
  it("the budget stays whatever happens", () => {
    const normal = normals(5);
    const ranks = new Array<number>(16).fill(5);
    for (let round = 0; round < 200; round++) {
      const importance = ranks.map(() => Math.abs(normal()));
      for (const { from, to, columns } of movesOf(importance, ranks, { ratio: 0.5, columns: 3, minRank: 1, maxRank: 9 })) {
        expect(columns).toBeGreaterThan(0);
        ranks[from]! -= columns;
        ranks[to]! += columns;
      }
      expect(ranks.reduce((a, b) => a + b, 0)).toBe(80);
      expect(Math.min(...ranks)).toBeGreaterThanOrEqual(1);
      expect(Math.max(...ranks)).toBeLessThanOrEqual(9);
    }
  });
  it("is due after the warm-up, then every so often", () => {
    const due = [...new Array<number>(12).keys()].filter((n) => isDue({ warmup: 3, every: 4 }, n));
    expect(due).toEqual([3, 7, 11]);
  });
});

describe("columns", () => {
  const make = (live: number) => {
    const normal = normals(3);
    const [columns, input, out] = [6, 10, 7];
    const a = Float32Array.from({ length: columns * input }, (_, i) => (i < live * input ? normal() : 0));
    const b = Float32Array.from({ length: out * columns }, (_, i) => (i % columns < live ? normal() : 0));
    return { a, b, columns, in: input, out };
  };
  const product = ({ a, b, columns, in: input, out }: ReturnType<typeof make>, of: readonly number[]): number[] =>
    Array.from({ length: out * input }, (_, i) =>
      of.reduce((sum, k) => sum + b[Math.floor(i / input) * columns + k]! * a[k * input + (i % input)]!, 0),
    );

  it("those that add most are kept, in their order; the rest is zeros", () => {
    const all = make(5);
    all.b.forEach((_, i) => (all.b[i]! *= [1, 0.01, 1, 0.02, 1, 0][i % 6]!));
    const kept = keptColumns(contributions(all, 5), 3);
    expect(kept).toEqual([0, 2, 4]);
    const before = product(all, kept);
    compact(all, kept);
    expect(product(all, [0, 1, 2])).toEqual(before);
    expect([...all.a.subarray(3 * 10)].every((x) => x === 0)).toBe(true);
    expect([...all.b].filter((_, i) => i % 6 >= 3).every((x) => x === 0)).toBe(true);
    expect(keptColumns([1, 1, 1], 2)).toEqual([0, 1]);
    compact(all, []);
    expect([...all.a, ...all.b].every((x) => x === 0)).toBe(true);
  });

  it("new rows are orthogonal to those before, as long as they are, the same for the same seed and name", () => {
    const all = make(3);
    const again = make(3);
    const other = make(3);
    const before = product(all, [0, 1, 2, 3, 4, 5]);
    grow(all, 3, 6, 1, "name");
    grow(again, 3, 6, 1, "name");
    grow(other, 3, 6, 1, "another");
    expect(all.a).toEqual(again.a);
    expect(all.a).not.toEqual(other.a);
    expect(product(all, [0, 1, 2, 3, 4, 5])).toEqual(before);
    const row = (k: number): Float32Array => all.a.subarray(k * 10, (k + 1) * 10);
    const dot = (x: Float32Array, y: Float32Array): number => x.reduce((sum, v, i) => sum + v * y[i]!, 0);
    const mean = [0, 1, 2].reduce((sum, k) => sum + Math.sqrt(dot(row(k), row(k))), 0) / 3;
    for (let k = 3; k < 6; k++) {
      expect(Math.sqrt(dot(row(k), row(k)))).toBeCloseTo(mean, 5);
      for (let j = 0; j < k; j++) expect(Math.abs(dot(row(k), row(j))) / mean ** 2).toBeLessThan(1e-6);
    }
  });

  it("rows that depend on one another span less, and a full rank is reached", () => {
    const all = make(3);
    all.a.copyWithin(10, 0, 10);
    const wide = { ...all, in: 10, a: Float32Array.from({ length: 100 }, (_, i) => all.a[i] ?? 0), columns: 10 };
    grow(wide, 3, 10, 1, "full");
    expect(wide.a.every((x) => Number.isFinite(x))).toBe(true);
    expect(Math.hypot(...wide.a.subarray(90))).toBeGreaterThan(0.1);
  });
});

describe("options", () => {
  const make = (more: Partial<LoraOptions & LoraTraining>) =>
    loraTrainable(spec, { rank: 4, targets: ["experts"], reallocate: "epng", ...more }, 1);
  it("say their usual values; memory is that of the highest rank", () => {
    const { options, reallocation, attachments, parameters, allocated } = make({});
    expect(options).toMatchObject({ reallocate: "epng", reallocateWarmup: 50, reallocateEvery: 50, reallocateColumns: 1, minRank: 0, maxRank: 8 }); // prettier-ignore
    expect(make({ reallocate: "dr" }).options).toMatchObject({ reallocate: "dr", minRank: 1 });
    expect([...reallocation!.layers].map(([layer, experts]) => [layer, experts.length, experts[0]!.matrices.length])).toEqual([[1, 8, 3], [2, 8, 3]]); // prettier-ignore
    expect(attachments!.parameters.every((p) => Math.min(...p.shape) === 8)).toBe(true);
    expect(parameters).toBe(loraTrainable(spec, { rank: 4, targets: ["experts"] }, 1).parameters);
    expect(allocated).toBe(2 * parameters);
    const plain = loraTrainable(spec, { rank: 4, targets: ["experts"] }, 1).attachments!.parameters[0]!.initial();
    const wide = attachments!.parameters[0]!.initial();
    expect([...wide.subarray(0, plain.length)]).toEqual([...plain]);
    expect(wide.subarray(plain.length).every((x) => x === 0)).toBe(true);
  });
  it.each<[string, Partial<LoraOptions & LoraTraining>, string, RegExp]>([
    ["no experts", { targets: ["attention"] }, "reallocate", /no target names any: add "experts"/],
    [
      "several ranks",
      { ranks: { down_proj: 2 } },
      "reallocate",
      /needs one rank and one alpha for all routed experts, found the rank 4 .* and 2 beside/,
    ],
    ["several factors", { alphas: { down_proj: 3 } }, "reallocate", /found the factor 2 .* and 0.75 beside/],
    ["a rank that leaves no room", { rank: 24 }, "rank", /must be below 24, the least side/],
    ["the usual lowest rank at rank 1", { rank: 1, reallocate: "dr" }, "minRank", /below the rank 1 .* found the usual 1/],
    ["one expert a layer", { experts: new ExpertSet({ layers: [[1, { ranked: [3] }]] }) }, "reallocate", /every layer has one alone/],
    ["a highest rank that is none", { maxRank: 4 }, "maxRank", /above the rank 4/],
    ["a highest rank that no matrix has", { maxRank: 25 }, "maxRank", /at most 24/],
    ["a lowest rank that is none", { minRank: 4 }, "minRank", /below the rank 4/],
    ["no warm-up", { reallocateWarmup: 0 }, "reallocateWarmup", />= 1, found 0/],
    ["half an update", { reallocateEvery: 1.5 }, "reallocateEvery", />= 1, found 1.5/],
    ["a decay of 1", { reallocateDecay: 1 }, "reallocateDecay", /< 1, found 1/],
    ["more than half", { reallocateRatio: 0.6 }, "reallocateRatio", /<= 0.5, found 0.6/],
    ["no columns", { reallocateColumns: 0 }, "reallocateColumns", />= 1, found 0/],
  ])("%s is refused", (_what, more, key, message) => {
    expect(() => make(more)).toThrow(message);
    expect(() => make(more)).toThrow(expect.objectContaining({ code: "ERR_CONFIG", where: expect.objectContaining({ key: `method.${key}` }) })); // prettier-ignore
  });
});

const method = { type: "lora", rank: 4, targets: "experts,attention", reallocateWarmup: 2, reallocateEvery: 2, reallocateColumns: 2, maxRank: 7 } as const; // prettier-ignore
const request = (out: string, more: Partial<TrainRequest> = {}): TrainRequest => ({
  data: { rows: Dataset.fromRows(toyRows(40)), maxLength: 32 },
  method: { ...method, reallocate: "epng" },
  outDir: at(out),
  steps: 7,
  rowsPerStep: 4,
  evalFraction: 0,
  keep: "last",
  optimizer: { lr: 2e-2 },
  ...more,
});

async function run(out: string, more: Partial<TrainRequest> = {}, threads = 2, stopAfter = Infinity): Promise<TrainEvent[]> {
  await using model = await MoeModel.fromPretrained(at("model"), { device: "cpu", threads });
  const stop = new AbortController();
  const events: TrainEvent[] = [];
  for await (const event of model.train({ ...request(out, more), signal: stop.signal })) {
    events.push(event);
    if (event.type === "step" && event.step === stopAfter) stop.abort();
  }
  return events;
}
const bytes = (out: string): Buffer => readFileSync(at(out, "adapter.safetensors"));

describe.each(["epng", "dr"] as const)("a run of %s", (reallocate) => {
  const more = (): Partial<TrainRequest> => ({ method: { ...method, reallocate } });

  it("moves ranks within the budget, tells it, and resumes to the same bits on one thread", async () => {
    const events = await run(reallocate, more());
    const told = events.filter((e) => e.type === "reallocate");
    expect(told.map((e) => e.step)).toEqual([3, 5, 7]);
    for (const { ranks, columns } of told) {
      expect(columns).toBeGreaterThan(0);
      for (const own of Object.values(ranks)) {
        expect(own.reduce((a, b) => a + b, 0)).toBe(8 * 4);
        expect([Math.min(...own) >= (reallocate === "dr" ? 1 : 0), Math.max(...own) <= 7]).toEqual([true, true]);
      }
    }
    expect(events.find((e) => e.type === "start")).toMatchObject({ reallocation: { kind: reallocate, rank: 4, maxRank: 7 } });
    const adapter = await Adapter.load(at(reallocate));
    const { ranks } = told.at(-1)!;
    expect(adapter.method).toMatchObject({ type: "lora", rank: 4, reallocate, expertRanks: ranks });
    expect(adapter.training).toMatchObject({ reallocations: told.map((e) => ({ step: e.step - 1, columns: e.columns })) });
    for (const [layer, own] of Object.entries(ranks))
      own.forEach((rank, expert) => {
        const key = `lora.model.layers.${layer}.mlp.experts.${expert}.up_proj.weight.A`;
        expect(adapter.attached.get(key)?.shape).toEqual(rank === 0 ? undefined : [rank, 48]);
      });
    // Interrupted right where ranks are moved and in between, on one thread.
    for (const [i, stop] of [2, 5].entries()) {
      await run(`${reallocate}-${i}`, { ...more(), saveEvery: 1 }, 1, stop);
      const rest = await run(`${reallocate}-${i}`, { ...more(), saveEvery: 1, resume: true }, 1);
      expect(rest.filter((e) => e.type === "reallocate").map((e) => e.step)).toEqual([3, 5, 7].filter((s) => s > stop));
      expect(bytes(`${reallocate}-${i}`)).toEqual(bytes(reallocate));
      const log = readFileSync(at(`${reallocate}-${i}`, "events.jsonl"), "utf8").split("\n").filter((line) => line.includes('"reallocate"')); // prettier-ignore
      expect(log.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual([3, 5, 7]);
    }
  }, 120_000);

  it("its adapter gives the trained loss, merges, and is a folder of PEFT", async () => {
    const base = await openCheckpoint(at("model"));
    const adapter = await Adapter.load(at(reallocate));
    expect((await mergeAdapter(base, adapter, at(`${reallocate}-merged`))).ok).toBe(true);
    await savePeftAdapter(adapter, base, at(`${reallocate}-peft`), { layout: "per-expert" });
    const ids = Array.from({ length: 24 }, (_, t) => (t * 37) % 500);
    const logits = async (dir: string, beside?: string): Promise<Float32Array> => {
      await using model = await MoeModel.fromPretrained(dir, { device: "cpu", ...(beside === undefined ? {} : { adapter: beside }) });
      using out = model.transformer.logits(hostBatch([{ ids, targets: ids.map(() => -100) }]));
      return out.readF32();
    };
    const apart = (x: Float32Array, y: Float32Array): number => Math.max(...x.map((v, i) => Math.abs(v - y[i]!)));
    const [beside, peft, before] = [await logits(at("model"), at(reallocate)), await logits(at("model"), at(`${reallocate}-peft`)), await logits(at("model"))]; // prettier-ignore
    expect(apart(beside, peft)).toBeLessThan(1e-5);
    expect(apart(beside, before)).toBeGreaterThan(1e-3);
  }, 60_000);
});

it("the best adapter has the ranks of its step", async () => {
  const events = await run("best", { keep: "best", evalFraction: 0.2, evalEvery: 1, optimizer: { lr: 0.3 }, steps: 6 });
  const best = events.findLast((e) => e.type === "eval" && e.best)!.step;
  const adapter = await Adapter.load(at("best"));
  expect(adapter.training).toMatchObject({ step: best });
  const last = events.filter((e) => e.type === "reallocate" && e.step <= best).at(-1) as { ranks: Record<string, number[]> } | undefined;
  const wanted = last?.ranks ?? { 1: new Array<number>(8).fill(4), 2: new Array<number>(8).fill(4) };
  expect((adapter.method as unknown as { expertRanks: unknown }).expertRanks).toEqual(wanted);
}, 60_000);

it("a run that goes on is the straight run: ranks move before an update, not after the last one", async () => {
  const more = { keep: "best", evalFraction: 0.2, evalEvery: 1, optimizer: { lr: 0.05, schedule: "constant" } } as const;
  const evals = (events: readonly TrainEvent[]) => events.flatMap((e) => (e.type === "eval" ? [[e.step, e.loss]] : []));
  const straight = await run("straight", { ...more, steps: 6 });
  const first = await run("parts", { ...more, steps: 4 });
  const rest = await run("parts", { ...more, steps: 6, resume: true });
  expect([...evals(first), ...evals(rest)]).toEqual(evals(straight));
  expect(bytes("parts")).toEqual(bytes("straight"));
  const log = readFileSync(at("parts", "events.jsonl"), "utf8").split("\n").filter((line) => line.includes('"reallocate"')); // prettier-ignore
  expect(log.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual([3, 5]);
}, 60_000);

it("a best adapter from before a re-allocation is delivered with the ranks that it has", async () => {
  const more = { keep: "best", evalFraction: 0.2, evalEvery: 1, optimizer: { lr: 0.05, schedule: "constant" } } as const;
  const first = await run("kept", { ...more, steps: 4 });
  const best = first.findLast((e) => e.type === "eval" && e.best)!.step;
  expect(best).toBe(4); // where one is due
  await run("kept", { ...more, steps: 5, resume: true });
  expect((await Adapter.load(at("kept"))).training?.["step"]).toBe(4);
}, 60_000);

it("a run that would end before the first re-allocation is refused", async () => {
  await expect(run("short", { steps: 2 })).rejects.toThrow(/reallocateWarmup 2 leaves no re-allocation within 2 steps/);
  const alone = { ...request("alone"), method: { type: "lora", targets: "experts", maxRank: 9 } as const };
  await using model = await MoeModel.fromPretrained(at("model"), { device: "cpu" });
  await expect(model.train(alone).result).rejects.toThrow(
    /method.maxRank: expected with reallocate only \(epng or dr\), found no reallocate/,
  );
});

it("averages are those of plain sums; the function does not jump where ranks are got; what was pruned has no effect", async () => {
  const device = new Device({ kind: "cpu", threads: 2 });
  const params = await Parameters.load(device, spec, await openCheckpoint(at("model")));
  const model = new Transformer(spec, device, params);
  const made = loraTrainable(
    spec,
    { rank: 4, targets: ["experts"], reallocate: "dr", reallocateDecay: 0.8, minRank: 0, reallocateColumns: 4 },
    1,
  );
  const state = model.train(made);
  const reallocator = new Reallocator(model, state, made.reallocation!);
  try {
    for (const [i, p] of state.parameters.entries()) {
      // Live columns alone, as a run has them.
      const normal = normals(i);
      const [isA, columns] = [p.key.endsWith(".A"), p.shape[1]!];
      p.master!.write(Float32Array.from({ length: p.shape[0]! * columns }, (_, j) => ((isA ? Math.floor(j / columns) : j % columns) < 4 ? 0.1 * normal() : 0))); // prettier-ignore
    }
    const ids = Array.from({ length: 30 }, (_, t) => (t * 97) % 2000);
    const host = hostBatch([{ ids, targets: ids.map((_, t) => ids[t + 1] ?? -100) }]);
    const [gate, gradient] = [new Map<string, number>(), new Map<string, number>()];
    for (let update = 0; update < 3; update++) {
      reallocator.reset();
      const routed: { layer: number; ids: Promise<Int32Array>; weights: Promise<Float32Array> }[] = [];
      const onRoute: typeof reallocator.observe = (layer, of, weights) => {
        reallocator.observe(layer, of, weights);
        routed.push({ layer, ids: of.readI32(), weights: weights.readF32() });
      };
      model.forwardBackward(host, (update + 1) / host.supervised, ids.length, { onRoute }, false);
      reallocator.submit();
      reallocator.average(await reallocator.read(), ids.length);
      const sums = new Map<string, number>();
      for (const { layer, ids: of, weights } of routed) {
        const w = await weights;
        (await of).forEach((e, i) => sums.set(`${layer} ${e}`, (sums.get(`${layer} ${e}`) ?? 0) + w[i]!));
      }
      for (const layer of [1, 2])
        for (let e = 0; e < 8; e++) {
          const key = `${layer} ${e}`;
          gate.set(key, 0.8 * (gate.get(key) ?? 0) + 0.2 * ((sums.get(key) ?? 0) / ids.length));
          const own = state.parameters.filter((p) => p.key.includes(`layers.${layer}.mlp.experts.${e}.`));
          let square = 0;
          for (const p of own) for (const g of await p.grad!.readF32()) square += g * g;
          gradient.set(key, 0.8 * (gradient.get(key) ?? 0) + 0.2 * (Math.sqrt(square) / 2));
        }
    }
    const found = reallocator.state;
    for (const layer of [1, 2])
      for (let e = 0; e < 8; e++) {
        expect(found.gate[layer]![e]).toBeCloseTo(gate.get(`${layer} ${e}`)!, 9);
        expect(found.gradient[layer]![e]! / gradient.get(`${layer} ${e}`)! - 1).toBeLessThan(1e-9);
      }
    const logits = async (): Promise<Float32Array> => {
      using out = model.logits(host);
      return out.readF32();
    };
    const live = (p: (typeof state.parameters)[number], value: number): Float32Array => {
      const [isA, columns] = [p.key.endsWith(".A"), p.shape[1]!];
      return Float32Array.from({ length: p.shape[0]! * columns }, (_, j) =>
        (isA ? Math.floor(j / columns) : j % columns) < 4 ? value : 0,
      );
    };
    for (const [i, p] of state.parameters.entries()) {
      using m = state.m.view(state.offsets[i]!, p.shape);
      m.write(live(p, 2));
    }
    const { ranks, columns } = await reallocator.reallocate(1);
    expect(columns).toBeGreaterThan(0);
    // Of givers, which lost all, exact zeros are left.
    const pruned = [1, 2].flatMap((layer) => ranks[layer]!.flatMap((r, e) => (r === 0 ? [`layers.${layer}.mlp.experts.${e}.`] : [])));
    expect(pruned.length).toBeGreaterThan(0);
    for (const [i, p] of state.parameters.entries()) {
      if (!pruned.some((name) => p.key.includes(name))) continue;
      using m = state.m.view(state.offsets[i]!, p.shape);
      for (const t of [p.master!, m])
        expect(
          (await t.readF32()).every((x) => x === 0),
          p.key,
        ).toBe(true);
    }
    const after = await logits();
    // Without the columns that were got, not a bit is another.
    for (const p of state.parameters) {
      const [, layer, e] = /layers\.(\d)\.mlp\.experts\.(\d)\./.exec(p.key)!.map(Number);
      if (ranks[layer!]![e!] !== 8 || !p.key.endsWith(".A")) continue;
      const values = await p.master!.readF32();
      expect(values.subarray(4 * p.shape[1]!).some((x) => x !== 0)).toBe(true);
      p.master!.write(values.map((x, j) => (j < 4 * p.shape[1]! ? x : 0)));
    }
    expect(await logits()).toEqual(after);
    for (const [i, p] of state.parameters.entries()) {
      const [, layer, e] = /layers\.(\d)\.mlp\.experts\.(\d)\./.exec(p.key)!.map(Number);
      if (ranks[layer!]![e!] !== 8) continue;
      using m = state.m.view(state.offsets[i]!, p.shape);
      expect(await m.readF32()).toEqual(live(p, 2)); // kept where they were, zeros for what is new
    }
  } finally {
    reallocator.dispose();
    model.dispose();
    params.dispose();
    device.dispose();
  }
}, 60_000);
