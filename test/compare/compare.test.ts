// Comparisons as a whole, on a tiny model: what they find, that a killed one ends in the same bytes, and what is reused. No GPU.
// Alone: npx vitest run test/compare/compare.test.ts

import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { readSealedJson, sealedJson } from "../../lib/files/sealed.ts";
import { compare, compareSchema, readComparison } from "../../lib/index.ts";
import type { CompareProgress, Comparison, PlanInput } from "../../lib/index.ts";
import { cli, scratch, spawnCli, writeRows } from "../cli/support.ts";
import { toyRows } from "../support/tiny_model.ts";
import { smallPlan, writePlan } from "./support.ts";

const root = scratch();
let plan: PlanInput;
let at: (name: string) => string;
let straight: Comparison;
const progress: CompareProgress[] = [];

const bytesOf = (name: string): string => readFileSync(join(at(name), "compare.json"), "utf8");
const changedAt = (name: string, id: string): number => statSync(join(at(name), "cells", id, "adapter.safetensors")).mtimeMs;
const adapters = (name: string): Record<string, number> =>
  Object.fromEntries(straight.result.cells.map(({ id }) => [id, changedAt(name, id)]));
const again = async (given: PlanInput, name = "straight"): Promise<{ found: Comparison; notes: string[] }> => {
  const notes: string[] = [];
  return { found: await compare(given, { out: at(name), onNote: (text) => notes.push(text) }), notes };
};

beforeAll(async () => {
  ({ plan, at } = await smallPlan(root));
  straight = await compare(plan, { out: at("straight"), onProgress: (p) => progress.push(p) });
});

describe("a comparison of 2 methods × 2 rates × 2 seeds on one task", () => {
  it("is written as its schema says", async () => {
    expect(compareSchema.parse(JSON.parse(bytesOf("straight")))).toEqual(straight.result);
    expect(await readComparison(at("straight"))).toEqual(straight);
    expect(straight.result.cells.map(({ id }) => id)).toEqual(
      ["esft", "lora"].flatMap((m) => ["1e-3", "1e-2"].flatMap((lr) => [1, 2].map((seed) => `sums/${m}/lr-${lr}/seed-${seed}`))),
    );
  });

  it("chooses rates by validation, and evaluates test rows for those alone", () => {
    const { cells, choices } = straight.result;
    for (const { method, lr, candidates } of choices) {
      const best = candidates.reduce((a, b) => (b.validationLoss!.mean < a.validationLoss!.mean ? b : a));
      expect([method, lr]).toEqual([method, best.lr]);
    }
    for (const cell of cells) {
      expect(cell.validation).not.toBeNull();
      const chosen = choices.some(({ method, lr }) => method === cell.method && lr === cell.lr);
      expect([cell.chosen, cell.test !== null, cell.others !== null, cell.answers !== null]).toEqual([chosen, chosen, chosen, chosen]);
    }
  });

  it("with rates chosen by the first seed, runs the others at those alone, to the same figures", async () => {
    const told: string[] = [];
    const { result } = await compare(
      { ...plan, rateSeeds: 1 },
      { out: at("first"), onProgress: ({ cellsDone, cells }) => told.push(`${cellsDone}/${cells}`) },
    );
    expect(told.at(-1)).toBe("6/6");
    expect(result.choices.flatMap(({ candidates }) => candidates.map((c) => c.validationLoss!.n))).toEqual([1, 1, 1, 1]);
    expect(result.cells.filter((c) => c.seed === 2).map(({ chosen, test }) => [chosen, test !== null])).toEqual([
      [true, true],
      [true, true],
    ]);
    const before = new Map(straight.result.cells.map((c) => [c.id, c]));
    for (const { chosen: _c, test: _t, others: _o, answers: _a, ...cell } of result.cells) expect(before.get(cell.id)).toMatchObject(cell);
    expect(result.rule).toContain("with the first seed");
  });

  it("goes on where a further seed diverged at the rate that the first one chose", async () => {
    const first = await readComparison(at("first"));
    const { id } = first.result.cells.find((c) => c.seed === 2 && c.method === "lora")!;
    const dir = join(at("first"), "cells", id);
    const { value } = await readSealedJson(join(dir, "record.json"));
    const record = value as { readonly trained: object };
    const trained = { ...record.trained, diverged: "not finite", adapter: null, adapterBytes: null, counted: null, times: null };
    writeFileSync(join(dir, "record.json"), sealedJson({ ...record, trained, evaluations: {} }));
    for (const name of ["adapter.json", "adapter.safetensors"]) rmSync(join(dir, name));
    const { found } = await again({ ...plan, rateSeeds: 1 }, "first");
    const cell = found.result.cells.find((c) => c.id === id);
    expect(cell).toMatchObject({ diverged: "not finite", chosen: true, validation: null, test: null, others: null, answers: null });
    expect(found.result.choices).toEqual(first.result.choices);
    expect(found.result.summary.find((r) => r.method === "lora")!.values["test.loss"]!.n).toBe(1);
    expect(found.result.rule).toContain("a rate with one of these seeds that diverged is not chosen");
  });

  it("tells what trains, and what it takes", () => {
    const [esft, lora] = ["esft", "lora"].map((method) => straight.result.cells.find((c) => c.method === method)!);
    for (const cell of [esft!, lora!]) {
      expect(cell.stateBytes! / (16 * cell.trainedParameters!)).toBeGreaterThanOrEqual(1); // each tensor begins on a line of the cache
      expect(cell.stateBytes! / (16 * cell.trainedParameters!)).toBeLessThan(1.1);
      expect(cell.trainedShare).toBeCloseTo(cell.trainedParameters! / straight.result.model.parameters, 12);
      expect(cell.steps).toBe(6);
      const times = straight.times.cells[cell.id]!;
      expect(times.secondsPerStep).toBeCloseTo(times.stepSeconds / 6, 12);
      expect(times.tokensPerSecond).toBeCloseTo(cell.tokens! / times.stepSeconds, 6);
      expect(times.trainSeconds).toBeGreaterThan(times.stepSeconds);
    }
    expect(esft!.adapterBytes).toBe(2 * esft!.trainedParameters!); // bf16
    expect(esft!.coverageFrom).toBe("training");
    expect(esft!.coverage).toBeGreaterThan(0.4);
    expect([lora!.coverage, lora!.experts]).toEqual([null, null]);
    expect(straight.result.cells.filter((c) => c.method === "esft").map((c) => c.tokens)).toEqual(
      straight.result.cells.filter((c) => c.method === "lora").map((c) => c.tokens),
    );
  });

  it("has the base's row, and pairs every two methods", () => {
    const { base, summary, differences, cells } = straight.result;
    expect(summary.map(({ task, method }) => [task, method])).toEqual([["sums", "base"], ["sums", "esft"], ["sums", "lora"]]); // prettier-ignore
    expect(summary[0]!.values["test.loss"]).toEqual({ mean: base.tasks["sums"]!.test.loss, sd: null, n: 1 });
    const pair = differences.find(({ a, b, measure }) => a === "esft" && b === "lora" && measure === "test.loss")!;
    const loss = (method: string): number[] => cells.filter((c) => c.method === method && c.chosen).map((c) => c.test!.loss);
    const [d1, d2] = loss("esft").map((x, i) => x - loss("lora")[i]!);
    expect(pair.mean).toBeCloseTo((d1! + d2!) / 2, 12);
    expect(pair.high! - pair.mean).toBeCloseTo((12.706204736174694 * Math.abs(d1! - d2!)) / 2, 9); // t · sd / √2, sd = |d1 − d2| / √2
    expect(differences.some(({ a, b }) => a === "lora" && b === "base")).toBe(true);
  });

  it("tells its progress over the whole plan", () => {
    expect(progress[0]).toMatchObject({ id: "base", cellsDone: 0, cells: 8, etaSeconds: null });
    expect(progress.at(-1)!.cellsDone).toBe(8);
    expect(progress.at(-1)!.etaSeconds).toBeGreaterThanOrEqual(0);
    const done = progress.map((p) => p.cellsDone);
    expect(done).toEqual([...done].sort((a, b) => a - b));
  });

  it("writes tables for people", () => {
    const text = readFileSync(join(at("straight"), "compare.md"), "utf8");
    expect(text).toMatch(/^\| base \| – \| \d/m);
    expect(text).toMatch(/^\| esft − lora \| test loss \| [−+]\d/m);
  });
});

describe("going on", () => {
  it("killed at any place and begun again, it ends in the same bytes", async () => {
    const file = writePlan(at("plan.json"), plan);
    const args = ["compare", file, "--out", at("killed")];
    const cells = (): number => straight.result.cells.filter(({ id }) => existsSync(at(`killed/cells/${id}/events.jsonl`))).length;
    const places = [
      () => existsSync(at("killed/profiles/sums/record.json")),
      () => cells() >= 4 && existsSync(at("killed/cells/sums/esft/lr-1e-2/seed-2/checkpoint")),
      () => existsSync(at("killed/cells/sums/esft/lr-1e-2/seed-1/sums.answers.jsonl")),
    ];
    for (const reached of places) {
      const run = spawnCli(args);
      while (!reached() && run.running()) await new Promise((r) => setTimeout(r, 2));
      run.kill("SIGKILL");
      await run.done;
    }
    const { code, err } = await cli(args);
    expect([code, err]).toEqual([0, expect.anything()]);
    expect(bytesOf("killed")).toBe(bytesOf("straight"));
  }, 120_000);

  it("interrupted, it says how it goes on", async () => {
    const stop = new AbortController();
    const args = ["compare", writePlan(at("plan.json"), plan), "--out", at("interrupted")];
    const { code, err } = await cli(args, { signal: stop.signal, onErr: (text) => text.includes("cells  ") && stop.abort() });
    expect([code, err]).toEqual([130, expect.stringMatching(/interrupted keeps what was reached; the same command goes on.*\ninterrupted\n$/)]); // prettier-ignore
    expect((await cli(args)).code).toBe(0);
    expect(bytesOf("interrupted")).toBe(bytesOf("straight"));
  });

  it("reuses every cell when nothing changed", async () => {
    const before = adapters("straight");
    const bytes = bytesOf("straight");
    const { notes } = await again({ ...plan, threads: 2, saveEvery: 3 });
    expect([notes, adapters("straight"), bytesOf("straight")]).toEqual([[], before, bytes]);
  });

  it("computes what a larger plan has more, and evaluates what is new", async () => {
    const before = adapters("straight");
    const [esft, lora] = plan.methods;
    const others = [...plan.others!, { name: "more", file: writeRows(at("more.jsonl"), toyRows(4, 9)) }];
    const { found, notes } = await again({ ...plan, others, methods: [esft!, { ...lora!, lr: [0.001, 0.01, 0.02] }] });
    expect([notes, adapters("straight")]).toEqual([[], before]);
    expect(found.result.cells).toHaveLength(10);
    expect(found.result.cells.filter((c) => c.chosen).every((c) => c.others!["more"] !== undefined)).toBe(true);
    await again(plan);
    expect(bytesOf("straight")).toBe(bytesOf("killed"));
  });

  it("trains again what an option or a file changed, and that alone", async () => {
    const before = adapters("straight");
    const [esft, lora] = plan.methods;
    const changed = await again({ ...plan, methods: [{ ...esft!, optimizer: { weightDecay: 0.2 } }, lora!] });
    expect(changed.notes.filter((n) => n.includes("trained again"))).toHaveLength(4);
    expect(changed.notes[0]).toMatch(/^sums\/esft\/lr-1e-3\/seed-1 is trained again: optimizer\.weightDecay changed/);
    const after = adapters("straight");
    for (const [id, time] of Object.entries(before)) expect([id, after[id] === time]).toEqual([id, id.includes("/lora/")]);

    const test = readFileSync(at("test.jsonl"));
    writeRows(at("test.jsonl"), toyRows(8, 33));
    const { found, notes } = await again(plan).then(() => again(plan));
    expect(notes).toEqual([]);
    expect(found.result.base.tasks["sums"]!.test).not.toEqual(straight.result.base.tasks["sums"]!.test);
    expect(found.result.base.tasks["sums"]!.validation).toEqual(straight.result.base.tasks["sums"]!.validation);
    writeFileSync(at("test.jsonl"), test);
    await again(plan);
    expect(bytesOf("straight")).toBe(bytesOf("killed"));

    const train = readFileSync(at("train.jsonl"));
    writeRows(at("train.jsonl"), toyRows(40, 44));
    const redone = await again(plan);
    expect(redone.notes.filter((n) => n.includes("rows.sha256"))).toHaveLength(8);
    writeFileSync(at("train.jsonl"), train);
  });

  it("an adapter that was deleted is delivered again where it is needed", async () => {
    rmSync(join(at("killed"), "cells/sums/lora/lr-1e-2/seed-1/adapter.json"));
    await again(plan, "killed");
    expect(existsSync(join(at("killed"), "cells/sums/lora/lr-1e-2/seed-1/adapter.json"))).toBe(true);
  });
});

describe("what is refused", () => {
  it("a directory of something else", async () => {
    writeRows(at("mine/rows.jsonl"), []);
    await expect(compare(plan, { out: at("mine") })).rejects.toThrow(/mine holds other files than a comparison's \(rows\.jsonl\)/);
  });
  it("but not what one that was killed as it began has left", async () => {
    writeRows(at("begun/.plan.json.tmp-0123abcd"), []);
    await expect(compare({ ...plan, model: at("none") }, { out: at("begun") })).rejects.toMatchObject({ code: "ERR_IO" });
  });
  it("a listener that is none", async () => {
    await expect(compare(plan, { out: at("new"), onNote: 3 as never })).rejects.toThrow("options.onNote: expected a function, found 3");
  });
  it("the model's directory", async () => {
    await expect(compare(plan, { out: at("model") })).rejects.toThrow(/apart from the model/);
  });
  it("files that are not there", async () => {
    await expect(compare({ ...plan, others: [{ name: "x", file: at("none.jsonl") }] }, { out: at("new") })).rejects.toMatchObject({
      code: "ERR_IO",
      message: expect.stringContaining("none.jsonl"),
    });
  });
});

describe("a rate that is too high", () => {
  it("is told, and another one is chosen", async () => {
    const lora = { name: "lora", method: { type: "lora", rank: 2 }, lr: [0.01, 1e30], optimizer: { clipNorm: 0 } } as const;
    const { found, notes } = await again({ ...plan, methods: [lora], seeds: [1] }, "diverged");
    const [, wild] = found.result.cells;
    expect(wild!.diverged).not.toBeNull();
    expect([wild!.validation, wild!.adapterBytes, wild!.chosen]).toEqual([null, null, false]);
    expect(found.result.choices[0]).toMatchObject({ lr: 0.01, candidates: [{ lr: 0.01 }, { lr: 1e30, validationLoss: null }] });
    expect(notes.join()).toContain("lr-1e+30/seed-1 diverged: ");
    expect((await again({ ...plan, methods: [lora], seeds: [1] }, "diverged")).notes).toEqual([]);
  });
});
