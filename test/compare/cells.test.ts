// Cells on one model: what one of them comes to does not depend on those before it, and what stops a comparison leaves it to go on. No GPU.
// Alone: npx vitest run test/compare/cells.test.ts

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { Adapter, compare, MoeModel } from "../../lib/index.ts";
import type { CompareCell, Comparison, PlanInput } from "../../lib/index.ts";
import { scratch, writeRows } from "../cli/support.ts";
import { toyRows } from "../support/tiny_model.ts";
import { smallPlan } from "./support.ts";

const root = scratch();
let plan: PlanInput;
let at: (name: string) => string;
let found: Comparison;

beforeAll(async () => {
  const small = await smallPlan(root);
  ({ at } = small);
  const [task] = small.plan.tasks;
  const more = (name: string, seed: number): string => writeRows(at(`${name}.jsonl`), toyRows(12, seed));
  plan = {
    ...small.plan,
    tasks: [task!, { name: "more", train: more("m1", 11), validation: more("m2", 12), test: more("m3", 13), maxLength: 32 }],
    methods: [
      { name: "esft", method: { type: "esft", p: 0.3, score: "gradient" }, lr: 0.01 },
      { name: "full", method: "full", lr: 0.01 },
      { name: "lora-experts", method: { type: "lora", rank: 2, targets: "experts", topKPerLayer: 2 }, lr: 0.01 },
      { name: "perft", method: { type: "perft", rank: 2 }, lr: 0.01 },
    ],
    seeds: [1],
    steps: 3,
    keep: "best",
    evalEvery: 1,
    evaluation: { rows: 4 },
  };
  found = await compare(plan, { out: at("all") });
});

const by = ({ result }: Comparison): Record<string, CompareCell> => Object.fromEntries(result.cells.map((c) => [c.id, c]));

describe("cells on one model", () => {
  it("come to the same in another order, and alone", async () => {
    const turned = await compare({ ...plan, methods: plan.methods.toReversed() }, { out: at("turned") });
    expect(by(turned)).toEqual(by(found));
    const alone = await compare({ ...plan, methods: plan.methods.slice(3) }, { out: at("alone") });
    expect(by(alone)).toEqual(Object.fromEntries(Object.entries(by(found)).filter(([, c]) => c.method === "perft")));
  }, 60_000);

  it("are those of a method's own tasks", async () => {
    const [, full, , perft] = plan.methods;
    const told: string[] = [];
    const methods = [{ ...full!, tasks: ["more"] }, perft!];
    const { result, times } = await compare({ ...plan, methods }, {
      out: at("partly"),
      onProgress: ({ cellsDone, cells }) => told.push(`${cellsDone}/${cells}`),
    }); // prettier-ignore
    const ids = ["sums/perft", "more/full", "more/perft"].map((id) => `${id}/lr-1e-2/seed-1`);
    expect(by({ result, times })).toEqual(Object.fromEntries(ids.map((id) => [id, by(found)[id]])));
    expect([Object.keys(times.cells), told[0], told.at(-1)]).toEqual([ids, "0/3", "3/3"]);
    expect(result.choices.map(({ task, method }) => `${task}/${method}`)).toEqual(["sums/perft", "more/full", "more/perft"]);
    expect(result.summary.filter((r) => r.task === null).map((r) => r.method)).toEqual(["base", "perft"]);
  });

  it("are selected from profiles of the tasks that need one", async () => {
    const methods: PlanInput["methods"] = [{ name: "esft", method: { type: "esft", p: 0.3 }, lr: 0.01, tasks: ["more"] }, plan.methods[1]!];
    const { times } = await compare({ ...plan, methods }, { out: at("profiled") });
    expect(Object.keys(times.profileSeconds)).toEqual(["more"]);
  });

  it("leave the base as it was", async () => {
    await using model = await MoeModel.fromPretrained(plan.model, { device: "cpu", threads: 1 });
    const loss = async () => (await model.evaluate(plan.tasks[0]!.test, { maxLength: 64, rows: 4 })).loss;
    const before = await loss();
    await compare({ ...plan, methods: plan.methods.slice(0, 2) }, { out: at("given"), model });
    expect([await loss(), found.result.base.tasks["sums"]!.test.loss]).toEqual([before, before]);
  });

  it("train without a routed expert, in groups, and at random", async () => {
    const methods = [
      { name: "modules", method: { type: "esft", experts: {}, nonExpertModules: true }, lr: 0.01 },
      { name: "groups", method: { type: "esft", topKPerLayer: 3, groupSize: 3 }, lr: 0.01 },
      { name: "random", method: { type: "esft", topKPerLayer: 3, groupSize: 3, random: 7 }, lr: 0.01 },
    ] as const;
    const { result } = await compare({ ...plan, tasks: plan.tasks.slice(0, 1), methods, keep: "last" }, { out: at("ablation") });
    expect(result.cells.map((c) => [c.method, c.experts, c.diverged])).toEqual([
      ["modules", 0, null],
      ["groups", 6, null],
      ["random", 6, null],
    ]);
    expect(result.cells[0]!.trainedShare).toBeGreaterThan(0);
    const set = (await Adapter.load(join(at("ablation"), "cells", result.cells[1]!.id))).experts!;
    expect([...set.layers.values()].map(({ ids }) => ids.map((e) => Math.floor(e / 3) === Math.floor(ids[0]! / 3)))).toEqual(
      [0, 1].map(() => [true, true, true]),
    );
  }, 60_000);

  it("say where coverage comes from", () => {
    const cells = found.result.cells.filter((c) => c.task === "sums");
    expect(cells.map((c) => [c.method, c.coverageFrom])).toEqual([
      ["esft", "training"],
      ["full", null],
      ["lora-experts", "profile"],
      ["perft", null],
    ]);
    expect(cells[2]!.experts).toBe(4);
    expect(cells[2]!.coverage).toBeGreaterThan(1 / 3); // the best two of six
  });
});

describe("a comparison that is stopped", () => {
  it("by its signal keeps what was reached, and goes on", async () => {
    const stop = new AbortController();
    const onProgress = ({ id, work, done }: { id: string; work: string; done: number }): void => {
      if (id === "sums/full/lr-1e-2/seed-1" && work === "train" && done === 2) stop.abort();
    };
    await expect(compare(plan, { out: at("stopped"), signal: stop.signal, onProgress })).rejects.toMatchObject({ code: "ERR_ABORTED" });
    const ids = new Set<string>();
    await compare(plan, { out: at("stopped"), onProgress: ({ id, work }) => work === "train" && void ids.add(id) });
    expect([...ids][0]).toBe("sums/full/lr-1e-2/seed-1");
    expect(readFileSync(join(at("stopped"), "compare.json"), "utf8")).toBe(readFileSync(join(at("all"), "compare.json"), "utf8"));
  });

  it("is refused while another one is in its directory", async () => {
    const first = compare({ ...plan, methods: plan.methods.slice(1, 2) }, { out: at("held") });
    await new Promise((r) => setTimeout(r, 50));
    await expect(compare(plan, { out: at("held") })).rejects.toMatchObject({ code: "ERR_LOCKED" });
    await first;
  });

  it("does not go on from a record that was changed", async () => {
    const file = join(at("all"), "cells/more/full/lr-1e-2/seed-1/record.json");
    writeFileSync(file, readFileSync(file, "utf8").replace('"trainedShare": 1', '"trainedShare": 0.5'));
    await expect(compare(plan, { out: at("all") })).rejects.toMatchObject({
      code: "ERR_LAYOUT",
      message: expect.stringContaining("record.json: expected sha256"),
    });
  });

  it("does not use rows that change meanwhile", async () => {
    const file = plan.tasks[0]!.test;
    const rows = readFileSync(file);
    const onProgress = ({ work }: { work: string }): void => {
      if (work === "tokens") writeRows(file, toyRows(9, 77));
    };
    await expect(compare(plan, { out: at("changing"), onProgress })).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringMatching(/test\.jsonl changed while the comparison was running/),
    });
    writeFileSync(file, rows);
  });
});

it("a plan's model that is open must be the plan's", async () => {
  await using model = await MoeModel.fromPretrained(plan.model, { device: "cpu", threads: 1 });
  await expect(compare({ ...plan, model: at("other") }, { out: at("x"), model })).rejects.toThrow(
    /expected the plan's, .*other, found .*model/,
  );
});
