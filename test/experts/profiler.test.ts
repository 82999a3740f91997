// Profiling a model: sums add up, an interrupted profile goes on to the bits of an uninterrupted one, others are refused. No GPU.
// Alone: npx vitest run test/experts/profiler.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { KernelError } from "../../lib/errors.ts";
import { ExpertCounts } from "../../lib/experts/counting.ts";
import { Profile } from "../../lib/experts/profile.ts";
import { Dataset } from "../../lib/data/dataset.ts";
import { shuffledIndices } from "../../lib/data/shuffle.ts";
import { profileExamples } from "../../lib/experts/profiler.ts";
import type { ProfileProgress } from "../../lib/experts/profiler.ts";
import { modelSpec } from "../../lib/model/families/index.ts";
import type { ModelSpec } from "../../lib/model/spec.ts";
import { Transformer } from "../../lib/model/transformer.ts";
import { Parameters } from "../../lib/model/weights/parameters.ts";
import { MoeModel } from "../../lib/moe_model.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

let root: string;
let model: MoeModel;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-profiler-"));
  await writeTinyModel(join(root, "model"), tinyDeepseek);
  model = await MoeModel.fromPretrained(join(root, "model"), { threads: 2 });
});
afterAll(async () => {
  model.dispose();
  await rm(root, { recursive: true, force: true });
});

afterEach(() => vi.restoreAllMocks());

const rows = (seed = 1): Dataset => Dataset.fromRows(toyRows(60, seed));
const options = { tokens: 900, batchTokens: 64, data: { maxLength: 64 } } as const;
const text = (p: Profile): string => JSON.stringify(p.toJSON());

describe("profileExamples", () => {
  it("counts every token's experts and keeps exact sums", async () => {
    const whole = await model.profile(rows(), options);
    expect(whole.tokens).toBeGreaterThanOrEqual(900);
    expect(whole.layers).toEqual([1, 2]);
    for (const layer of whole.layers) {
      const { counts, tokens, gateSums } = whole.layer(layer);
      expect(counts.reduce((a, b) => a + b)).toBe(3 * tokens);
      expect(gateSums.every((g) => g >= 0)).toBe(true);
      expect(whole.layerMass(layer)).toBeLessThanOrEqual(1 + 1e-6);
    }
    expect(text(await model.profile(rows(), options))).toBe(text(whole));
  });

  it("interrupted after any batch and resumed from its file, ends in the same bits", async () => {
    const whole = await model.profile(rows(), options);
    for (const stops of [[1], [3], [2, 5, 6]]) {
      let resume: Profile | null = null;
      let batches = 0;
      for (const stop of [...stops, Number.POSITIVE_INFINITY]) {
        const interrupt = new AbortController();
        const path = join(root, "partial.json");
        const running = model.profile(rows(), {
          ...options,
          resume,
          signal: interrupt.signal,
          partialEvery: 1,
          onPartial: (state) => state.save(path),
          onProgress: () => ++batches >= stop && interrupt.abort(),
        });
        if (stop === Number.POSITIVE_INFINITY) expect(text(await running)).toBe(text(whole));
        else {
          await expect(running).rejects.toMatchObject({ code: "ERR_ABORTED" });
          resume = await Profile.load(path);
        }
      }
    }
  });

  it("refuses a partial profile of other data, another order or another model", async () => {
    const partials: Profile[] = [];
    await model.profile(rows(), { ...options, partialEvery: 1, onPartial: async (p) => void partials.push(p) });
    const resume = partials[1]!;
    await expect(model.profile(rows(2), { ...options, resume })).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringMatching(/other data or options/) as string,
    });
    await expect(model.profile(rows(), { ...options, seed: 2, resume })).rejects.toMatchObject({ code: "ERR_CONFIG" });
    const { format: _f, version: _v, ...data } = resume.toJSON();
    const foreign = new Profile({ ...data, model: { fingerprint: "0" } });
    await expect(model.profile(rows(), { ...options, resume: foreign })).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringMatching(/another model/) as string,
    });
    await expect(model.profile(rows(), { ...options, tokens: 0 })).rejects.toMatchObject({ code: "ERR_CONFIG", where: { key: "tokens" } });
  });

  it("stops with the example that reaches the wanted tokens, however many fit a batch", async () => {
    const { examples } = await model.encode(rows(), options.data);
    for (const [seed, tokens, batchTokens] of [[1, 100, 4096], [1, 101, 4096], [2, 100, 64], [2, 333, 4096]] as const) {
      const order = shuffledIndices(examples.length, seed, 0);
      let [want, sequences] = [0, 0];
      while (want < tokens) want += examples.size(order[sequences++]!);
      const { data } = await model.profile(rows(), { ...options, tokens, seed, batchTokens });
      expect([data.sequences, data.seed, data.layers.map((l) => l.tokens)]).toEqual([sequences, seed, [want, want]]);
    }
    const all = await model.profile(rows(), { ...options, tokens: 1e6 });
    expect([all.data.sequences, all.tokens]).toEqual([60, [...examples].reduce((n, e) => n + e.inputIds.length, 0)]);
  }); // prettier-ignore

  it("scores other examples with another seed", async () => {
    const of = async (seed: number) => JSON.stringify((await model.profile(rows(), { ...options, tokens: 100, seed })).data.layers);
    const [one, two] = [await of(1), await of(2)];
    expect(one).not.toBe(two);
    expect(await of(1)).toBe(one);
  });

  it("cuts long examples at the end, and a partial profile of another length is refused", async () => {
    const short = { ...options, data: { maxLength: 16 } };
    const { examples } = await model.encode(rows(), options.data);
    expect((await model.profile(rows(), { ...short, tokens: 1e6 })).tokens).toBe(
      [...examples].reduce((n, e) => n + Math.min(16, e.inputIds.length), 0),
    );
    const partials: Profile[] = [];
    await model.profile(rows(), { ...options, partialEvery: 1, onPartial: async (p) => void partials.push(p) });
    await expect(model.profile(rows(), { ...short, resume: partials[0]! })).rejects.toThrow(/other data or options/);
  });

  it("says what was measured, on what, and how far it is", async () => {
    const { examples } = await model.encode(rows(), options.data);
    const { transformer } = model;
    const all = [...examples].reduce((n, e) => n + e.inputIds.length, 0);
    let now = 0;
    vi.spyOn(performance, "now").mockImplementation(() => (now += 500)); // half a second from one look at the clock to the next
    const prepare = vi.spyOn(transformer, "prepare");
    const run = async (more: object = {}) => {
      const told: ProfileProgress[] = [];
      const asked = { tokens: 1e6, seed: 1, maxLength: 64, onProgress: (p: ProfileProgress) => told.push(p) };
      const done = await profileExamples(transformer, examples, { ...asked, ...more });
      return { done, told };
    };
    const { done, told } = await run();
    expect(told).toEqual([{ done: all, total: all, tokensPerSecond: 2 * all, etaSeconds: 0 }]);
    expect(done.data).toMatchObject({ source: "model", seed: 1, normTopkProb: false, topK: 3, experts: 8, sequences: 60 });
    for (const key of ["model", "data", "resume"] as const) expect(done.data[key]).toBeUndefined();
    for (const l of done.data.layers) expect([l.topK, l.experts]).toEqual([undefined, undefined]); // those of the profile
    const named = { model: { name: "m", fingerprint: "f" }, data: { name: "d", sha256: "s" } };
    const partials: Profile[] = [];
    const onPartial = async (p: Profile): Promise<void> => void partials.push(p);
    const some = await run({ ...named, tokens: 300, batchTokens: 1, onPartial, partialEvery: 3 });
    expect(some.done.data).toMatchObject(named);
    expect(prepare.mock.calls).toEqual([
      [4096, false],
      [64, false],
    ]); // an example is never cut in two
    const total = some.done.tokens;
    expect(some.told.every((p) => p.total === total && p.done <= total)).toBe(true);
    some.told.forEach((p, i) => {
      const seconds = 0.5 * (i + 1);
      expect([p.tokensPerSecond, p.etaSeconds]).toEqual([p.done / seconds, (total - p.done) / (p.done / seconds)]);
    });
    expect(partials.map((p) => p.tokens)).toEqual(some.told.flatMap((p, i) => (i % 3 === 2 ? [p.done] : [])));
    // As many tokens as were scored are enough.
    expect((await run({ tokens: total, batchTokens: 1 })).done.data.sequences).toBe(some.done.data.sequences);
    // Taken up, the rate is that of what is measured now.
    const rest = await run({ ...named, tokens: 300, batchTokens: 1, resume: partials[0]! });
    expect(rest.told[0]!.tokensPerSecond).toBe((rest.told[0]!.done - partials[0]!.tokens) / 0.5);
    expect(text(rest.done)).toBe(text(some.done));
    await expect(run({ model: { fingerprint: "g" }, tokens: 300, resume: partials[0]! })).rejects.toMatchObject({
      code: "ERR_CONFIG",
      where: { key: "resume", expected: "g", found: "f" },
    });
    await expect(run({ tokens: 300, resume: some.done })).rejects.toThrow(/other data or options/); // a whole one is not gone on with
  });

  it("runs as many examples at once as fit the tokens, in its order, cut at the end", async () => {
    const { examples } = await model.encode(rows(), options.data);
    const order = shuffledIndices(examples.length, 1, 0);
    const forward = vi.spyOn(model.transformer, "forward");
    for (const [maxLength, batchTokens] of [[64, 64], [16, 32], [16, 48], [16, 40]] as const) {
      forward.mockClear();
      await profileExamples(model.transformer, examples, { tokens: 1e6, seed: 1, maxLength, batchTokens });
      const wanted: number[][] = [];
      for (const i of order) {
        const ids = [...examples.get(i).inputIds].slice(0, maxLength);
        const last = wanted.at(-1);
        if (last && last.length + ids.length <= batchTokens) last.push(...ids);
        else wanted.push(ids);
      }
      expect(forward.mock.calls.map(([host]) => [...host.ids])).toEqual(wanted);
    }
  }); // prettier-ignore

  it("is refused by its options, by models without experts, and by what is not finite", async () => {
    const { examples } = await model.encode(rows(), options.data);
    const { transformer } = model;
    const run = (more: object, of: Transformer = transformer) =>
      profileExamples(of, examples, { tokens: 200, seed: 1, maxLength: 64, ...more });
    for (const key of ["tokens", "maxLength", "batchTokens", "partialEvery"])
      for (const value of [0, 1.5, -1, NaN])
        await expect(run({ [key]: value })).rejects.toMatchObject({ code: "ERR_CONFIG", where: { key } });
    expect((await run({ tokens: 1, batchTokens: 1, partialEvery: 1, onPartial: async () => undefined })).data.sequences).toBe(1);
    const dense = {
      spec: { ...transformer.spec, layers: transformer.spec.layers.filter((l) => l.mlp.kind !== "moe") },
    } as unknown as Transformer;
    await expect(run({}, dense)).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringMatching(/needs a Mixture-of-Experts model; this deepseek_v2/) as string,
    });
    const partial = vi.fn(async () => undefined);
    await expect(run({ signal: AbortSignal.abort(), onPartial: partial })).rejects.toMatchObject({
      code: "ERR_ABORTED",
      message: "profiling was aborted",
    });
    expect(partial).toHaveBeenCalledTimes(1);
    await expect(run({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "ERR_ABORTED" });
    const refusal = new KernelError("topk_route: logits must be finite", { where: { op: "topk_route" } });
    vi.spyOn(model.device, "synchronize").mockRejectedValueOnce(refusal);
    await expect(run({})).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
      message: expect.stringMatching(/^profile: a router's input is not finite/) as string,
    });
    const bad = new Map([[1, { counts: Array<number>(8).fill(0), gateSums: [0, 0, 0, 0, 0, 0, 0, 0] }], [2, { counts: [], gateSums: [0, NaN] }]]); // prettier-ignore
    vi.spyOn(ExpertCounts.prototype, "read").mockResolvedValueOnce(bad);
    await expect(run({})).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
      message: expect.stringMatching(/gate weights of layer 2 are not finite/) as string,
      where: { layer: 2 },
    });
  });

  it("layers with other numbers of experts keep their own sums, saved and taken up like any", async () => {
    // Layer 2 with its first five experts and two per token, from the same checkpoint.
    const spec = modelSpec(tinyDeepseek, "config.json");
    const layers = spec.layers.map((l, i) => {
      if (i !== 2 || l.mlp.kind !== "moe") return l;
      return { ...l, mlp: { ...l.mlp, topK: 2, experts: l.mlp.experts.slice(0, 5), router: { ...l.mlp.router, rows: [0, 5] as const } } };
    });
    const uneven: ModelSpec = { ...spec, layers };
    const params = await Parameters.load(model.device, uneven, model.checkpoint);
    const transformer = new Transformer(uneven, model.device, params);
    const { examples } = await model.encode(rows(), options.data);
    const run = (more: object = {}) =>
      profileExamples(transformer, examples, { tokens: 900, batchTokens: 64, seed: 1, maxLength: 64, ...more });
    try {
      const whole = await run();
      expect([...whole.layout]).toEqual([[1, 8], [2, 5]]); // prettier-ignore
      expect([whole.expertCount, whole.topK(1), whole.topK(2), whole.data.topK, whole.data.experts]).toEqual([13, 3, 2, 3, 8]);
      const [one, two] = [whole.layer(1), whole.layer(2)];
      expect(one.counts.reduce((a, b) => a + b)).toBe(3 * one.tokens);
      expect(two.counts.reduce((a, b) => a + b)).toBe(2 * two.tokens);
      expect(whole.scores(2, { score: "token" }).reduce((a, b) => a + b)).toBeCloseTo(1, 12);
      const path = join(root, "uneven.json");
      await run({ partialEvery: 3, onPartial: (p: Profile) => p.save(path) });
      expect(text(await run({ resume: await Profile.load(path) }))).toBe(text(whole));
    } finally {
      transformer.dispose();
      params.dispose();
    }
  });
});
