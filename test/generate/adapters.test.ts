// Resident adapters: answers of several at once are those of each applied alone, switching leaves no trace, unions and what they refuse.
// No GPU. Alone: npx vitest run test/generate/adapters.test.ts

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { Dataset, ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainRequest } from "../../lib/index.ts";
import { Graph } from "../../lib/tensor.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";

let root: string;
let model: MoeModel;
const at = (...parts: string[]): string => join(root, ...parts);
const rows = Dataset.fromRows(toyRows(24));
const prompts = [[5, 6, 7], [9, 3, 20, 11, 4, 8, 2], [17]];
const answer = async (prompt: readonly number[], adapter: string | null = null): Promise<readonly number[]> =>
  (await model.generate(prompt, { maxTokens: 12, stopIds: [], adapter }).result()).ids;
const all = (adapter: string | null = null): Promise<(readonly number[])[]> => Promise.all(prompts.map((p) => answer(p, adapter)));

async function train(name: string, method: TrainRequest["method"]): Promise<void> {
  const run = model.train({ data: { rows, maxLength: 64 }, method, outDir: at(name), steps: 6, rowsPerStep: 4, evalFraction: 0, optimizer: { lr: 0.2 } }); // prettier-ignore
  await run.result;
}
const experts = (layers: [number, number[]][]): ExpertSet =>
  new ExpertSet({ layers: layers.map(([l, ranked]) => [l, { ranked }] as const) });

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-adapters-"));
  await writeTinyModel(at("model"), tinyDeepseek);
  model = await MoeModel.fromPretrained(at("model"), { threads: 2 });
  await train("one", { type: "esft", experts: experts([[1, [0, 1, 2, 3]]]) });
  await train("two", { type: "esft", experts: experts([[2, [0, 1, 2, 5]]]) });
  await train("three", { type: "esft", experts: experts([[1, [3, 6]]]) });
  await train("lora", { type: "lora", rank: 4, targets: "attention" });
  await train("queries", { type: "lora", rank: 3, targets: ["q_proj"] });
  await train("linear", { type: "lora", rank: 3, targets: ["linear", "router"] });
  await train("experts", { type: "lora", rank: 2, targets: "all-linear" });
});
afterAll(async () => {
  model.dispose();
  await rm(root, { recursive: true, force: true });
});

describe("several adapters at once", () => {
  it("answer as each does when it is applied alone, and leave the base as it was", async () => {
    const names = ["one", "two", "three", "lora"];
    const base = await all();
    const alone = new Map<string, (readonly number[])[]>();
    for (const name of names) {
      await model.applyAdapter(at(name));
      alone.set(name, await all());
      model.removeAdapter();
    }
    expect(new Set([base, ...alone.values()].map((x) => JSON.stringify(x))).size).toBeGreaterThan(3);
    for (const name of names) await model.adapters.add(name, at(name));
    const launch = vi.spyOn(Graph.prototype, "launch");
    const together = await Promise.all([null, ...names].map((name) => all(name)));
    expect(launch).toHaveBeenCalled(); // recorded between switches
    launch.mockRestore();
    expect(together).toEqual([base, ...names.map((name) => alone.get(name))]);
    expect(await all()).toEqual(base);
    expect(model.params.all().every((p) => p.value === p.base)).toBe(true);
    expect(model.adapters.list().map(({ name }) => name)).toEqual(names);
  });

  it("may be a union where none replaces what another does", async () => {
    expect(model.adapters.conflicts("one", "two")).toEqual([]);
    expect(model.adapters.conflicts("one", "three")).toHaveLength(3);
    model.adapters.union("both", ["one", "two"]);
    const both = await all("both");
    expect(both).not.toEqual(await all("one"));
    expect(await all("both")).toEqual(both);
    expect(() => model.adapters.union("x", ["one", "three"])).toThrow(/"one" and "three" both replace 3 tensors/);
    expect(() => model.adapters.union("x", ["one", "lora"])).toThrow(/"lora" attaches lora/);
    expect(() => model.adapters.remove("one")).toThrow(/part of the union "both"/);
    model.adapters.remove("both");
    model.adapters.remove("three");
    expect(() => model.adapters.conflicts("one", "three")).toThrow(/no adapter "three": resident are one, two, lora/);
  });

  it("are refused by name", async () => {
    await expect(answer([5], "four")).rejects.toMatchObject({ code: "ERR_CONFIG" });
    await expect(model.adapters.add("one", at("one"))).rejects.toThrow(/resident already/);
    await expect(model.adapters.add("base", at("one"))).rejects.toThrow(/other than "base"/);
    await model.applyAdapter(at("two"));
    await expect(answer([5], "one")).rejects.toThrow(/removeAdapter/);
    model.removeAdapter();
    const running = answer(prompts[0]!, "one");
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    expect(() => model.adapters.remove("one")).toThrow(/in use by 1/);
    await running;
    await new Promise(setImmediate);
    model.adapters.remove("one");
  });
});

describe("adapters whose terms see a row at a time", () => {
  const mixed = ["lora", "again", "linear"];
  /** Rows and adapters of the passes that `work` takes. */
  async function passes(work: () => Promise<unknown>): Promise<(readonly [rows: number, adapters: number])[]> {
    const pieces = vi.spyOn(model.transformer, "advance");
    const tokens = vi.spyOn(model.transformer, "advanceAgain");
    await work();
    const seen = [...pieces.mock.calls, ...tokens.mock.calls].map(([host, { shares }]) => [host.ids.length, shares?.size ?? 0] as const);
    for (const spy of [pieces, tokens]) spy.mockRestore();
    return seen;
  }

  beforeAll(async () => {
    for (const [name, from] of [
      ["lora", "lora"],
      ["again", "lora"],
      ["linear", "linear"],
      ["queries", "queries"],
      ["experts", "experts"],
      ["two", "two"],
    ] as const)
      // prettier-ignore
      if (!model.adapters.has(name)) await model.adapters.add(name, at(from));
  });

  it("answer in the same passes, as each does alone", async () => {
    const alone = new Map<string, (readonly number[])[]>();
    for (const name of mixed) alone.set(name, await all(name));
    expect(alone.get("again")).toEqual(alone.get("lora"));
    await model.applyAdapter(at("linear"));
    expect(await all()).toEqual(alone.get("linear"));
    model.removeAdapter();
    expect(new Set([await all(), ...alone.values()].map((x) => JSON.stringify(x))).size).toBe(3);
    let together: (readonly number[])[][] = [];
    const seen = await passes(async () => (together = await Promise.all(mixed.map((name) => all(name)))));
    expect(together).toEqual(mixed.map((name) => alone.get(name)));
    expect(seen).toContainEqual([9, 3]);
    expect(Math.max(...seen.map(([rows]) => rows))).toBe(9);
  });

  it("take turns where latents are kept with one, keys and values with another", async () => {
    const names = ["lora", "queries"];
    const alone: (readonly number[])[][] = [];
    for (const name of names) alone.push(await all(name));
    let together: (readonly number[])[][] = [];
    const seen = await passes(async () => (together = await Promise.all(names.map((name) => all(name)))));
    expect(together).toEqual(alone);
    expect(Math.max(...seen.map(([, adapters]) => adapters))).toBe(1);
  });

  it("take turns with the base, patches, and adapters inside of routed experts", async () => {
    const names = [null, "lora", "linear", "experts", "two"];
    const alone: (readonly number[])[][] = [];
    for (const name of names) alone.push(await all(name));
    let together: typeof alone = [];
    const seen = await passes(async () => (together = await Promise.all(names.map((name) => all(name)))));
    expect(together).toEqual(alone);
    const decoded = seen.filter(([rows]) => rows === 6 || rows === 3);
    expect(decoded).toContainEqual([6, 2]); // lora and linear
    expect(decoded).toContainEqual([3, 0]); // the base
    expect(seen.every(([rows, adapters]) => adapters < 2 || rows <= 6)).toBe(true);
  });

  it("are a mixture that stays while it is in use", async () => {
    model.adapters.hold("lora"); // as a long answer does
    expect(() => model.adapters.remove("linear")).toThrow(/shares passes with adapters that answer now \(lora, again, linear\)/);
    await model.adapters.add("late", at("lora"));
    expect(model.adapters.groupOf("late")).not.toBe(model.adapters.groupOf("lora"));
    const [early, late] = await Promise.all([all("lora"), all("late")]);
    expect(late).toEqual(early);
    model.adapters.release("lora");
    await new Promise(setImmediate);
    model.adapters.remove("linear");
    expect(model.params.all().every((p) => p.value === p.base)).toBe(true);
  });
});

it("the model is free when an answer is there, also one of no tokens", async () => {
  for (const maxTokens of [3, 0]) {
    const { ids } = await model.generate([5, 6, 7], { maxTokens, stopIds: [] }).result();
    expect(ids).toHaveLength(maxTokens);
    expect(() => model.removeAdapter()).not.toThrow();
    for await (const _ of model.generate([5, 6, 7], { maxTokens, stopIds: [] }));
    expect(() => model.removeAdapter()).not.toThrow();
  }
});
