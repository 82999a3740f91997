// What ties a checkpoint to its run: each part of it alone is a difference that is named, and nothing else is one. No GPU.
// Alone: npx vitest run test/train/fingerprint.test.ts

import { afterAll, beforeAll, expect, it } from "vitest";
import { BatchStream } from "../../lib/data/stream.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { sha256 } from "../../lib/files/hash.ts";
import { requireSameRun, runFacts } from "../../lib/train/fingerprint.ts";
import type { RunParts } from "../../lib/train/fingerprint.ts";
import { tinyExamples, tinyTraining, trainOptions } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

let tiny: TinyTraining;
beforeAll(async () => void (tiny = await tinyTraining()));
afterAll(() => tiny.close());

const stream = (seed = 1): BatchStream =>
  new BatchStream(tinyExamples(20, seed), { packing: "none", maxLength: 16, onOverflow: "error", seed: 1, rowsPerBatch: 1 });
const cosine = { lr: 0.01, schedule: "cosine" };

it("are facts: options, what trains and the rows, none that decides no result", () => {
  const parts: RunParts = { options: trainOptions(), base: "b", trainable: tiny.trainable, heldOut: null, model: tiny.model };
  const rows = stream();
  const of = (more: Partial<RunParts> = {}): Record<string, unknown> => runFacts({ ...parts, ...more }, rows);
  const facts = of();
  expect(facts).toMatchObject({
    seed: 1,
    optimizer: { lr: 0.01, schedule: "constant" },
    steps: null,
    data: { template: "tokenizer", packing: "none", maxLength: 16 },
    method: { type: "esft" },
    experts: "layer 0: 0 3; layer 1: 2",
    trained: sha256(JSON.stringify(tiny.trainable.keys)),
    rows: rows.fingerprint,
    heldOutRows: null,
    base: "b",
    precision: "f32",
  });
  expect(Object.keys(facts)).not.toContain("saveEvery");
  const heldOut = tinyExamples(4, 7);
  expect(of({ heldOut })["heldOutRows"]).toBe(heldOut.fingerprint());
  for (const schedule of ["linear", "cosine"])
    expect(of({ options: trainOptions({ optimizer: { schedule }, steps: 9 }) })["steps"]).toBe(9);
  const template = (name: string): unknown => (of({ options: trainOptions({ data: { template: name } }) })["data"] as Record<string, unknown>)["template"]; // prettier-ignore
  expect([template("esft"), template("a.jinja"), template("b.jinja")]).toEqual(["esft", "a file", "a file"]);
  const experts = (set: ExpertSet | null): unknown => of({ trainable: { ...tiny.trainable, experts: set } })["experts"];
  const layers = [[1, { ranked: [] }], [2, { ranked: [4, 1] }]] as const; // prettier-ignore
  expect([experts(null), experts(new ExpertSet({ layers })), experts(new ExpertSet({ layers, nonExpertModules: true }))]).toEqual([
    null,
    "layer 2: 1 4",
    "layer 2: 1 4; other modules",
  ]);
  expect(experts(new ExpertSet({ layers: [], sharedExperts: true, nonExpertModules: true }))).toBe("shared experts; other modules");
});

it("tells differences by name, hashes by their beginning where that tells them apart", () => {
  const message = (before: object, after: object): string => {
    try {
      requireSameRun("dir", 3, before as never, after as never, false);
      return "";
    } catch (error) {
      return (error as Error).message;
    }
  };
  const [a, b] = ["0a", "0b"].map((x) => x.repeat(32)) as [string, string];
  const late = `${"0a".repeat(20)}${"0b".repeat(12)}`;
  const list = (before: object, after: object): string | undefined => /base model: (.*); resume with/.exec(message(before, after))?.[1];
  expect(list({ base: a, deep: { er: { key: 1, same: 2 } } }, { base: b, deep: { er: { key: [1], same: 2 } } })).toBe(
    "the base model 0a0a0a0a0a0a → 0b0b0b0b0b0b, deep.er.key 1 → [1]",
  );
  expect(list({ rows: a, heldOutRows: a, trained: a }, { rows: late, heldOutRows: null, trained: `${b}:more` })).toBe(
    `the training rows "${a}" → "${late}", the held-out rows 0a0a0a0a0a0a → none, the list of trained tensors 0a0a0a0a0a0a → 0b0b0b0b0b0b`,
  );
  expect(list({ x: a.slice(1), y: `z${a}` }, { x: b.slice(1), y: `z${b}` })).toBe(
    `x "${a.slice(1)}" → "${b.slice(1)}", y "z${a}" → "z${b}"`,
  );
  expect(list({ old: 1, both: 2 }, { both: 2, new: "n" })).toBe('old 1 → none, new none → "n"');
  expect(list({ keep: "last" }, { keep: "best" })).toBe('keep "last" → "best"');
  expect(list({ keep: "best", steps: 5 }, { keep: "last", steps: null })).toBe(
    "steps 5 → none (a schedule can be lengthened, not shortened)",
  );
  expect(list({ steps: 5, more: 1 }, { steps: 6, more: 2 })).toBe(
    "steps 5 → 6 (a longer schedule is taken with --extend, extend: true), more 1 → 2",
  );
  expect(message({ keep: "best" }, { keep: "last" })).toBe("");
  expect(requireSameRun("dir", 3, { steps: 9 }, { steps: 10 }, true)).toEqual({ step: 3, from: 9, to: 10 }); // as numbers
  expect(() => requireSameRun("dir", 3, { steps: 10 }, { steps: 9 }, true)).toThrow(/steps 10 → 9/);
});

it("names what differs, and takes what decides no result", () => {
  const parts: RunParts = { options: trainOptions(), base: "b", trainable: tiny.trainable, heldOut: tinyExamples(4, 7), model: tiny.model };
  const of = (more: Partial<RunParts>, data = stream()): ReturnType<typeof runFacts> => runFacts({ ...parts, ...more }, data);
  const same = (more: Partial<RunParts>): unknown => requireSameRun("dir", 3, of({}), of(more), false);
  for (const options of [{}, { saveEvery: 9 }, { steps: 99 }, { keep: "last" }])
    expect(same({ options: trainOptions(options) })).toBeNull();
  expect(same({ heldOut: tinyExamples(4, 7) })).toBeNull();
  const others: [string, Partial<RunParts>][] = [
    ["heldOutRows", { heldOut: null }],
    ["heldOutRows", { heldOut: tinyExamples(4, 8) }],
    ["heldOutRows", { heldOut: tinyExamples(5, 7) }],
    ["base", { base: "c" }],
    ["method.type", { trainable: { ...tiny.trainable, type: "full" } }],
    ["trained", { trainable: { ...tiny.trainable, keys: tiny.trainable.keys.slice(1) } }],
    ["method.rank", { trainable: { ...tiny.trainable, options: { rank: 4 } } }],
    ["experts", { trainable: { ...tiny.trainable, experts: new ExpertSet({ layers: [[1, { ranked: [2] }]] }) } }],
    ["precision", { model: { precision: "bf16" } }],
    ["dequantise", { roundedBase: true }],
    ["seed", { options: trainOptions({ seed: 2 }) }],
    ["evalEvery", { options: trainOptions({ evalEvery: 7 }) }],
    ["optimizer.lr", { options: trainOptions({ optimizer: { lr: 0.02 } }) }],
    ["optimizer.schedule", { options: trainOptions({ optimizer: cosine }) }],
  ];
  const refusal = (before: typeof parts, after: typeof parts, data = stream(), extend = false): unknown => {
    try {
      return requireSameRun("dir", 3, runFacts(before, stream()), runFacts(after, data), extend);
    } catch (error) {
      return error;
    }
  };
  for (const [key, more] of others) {
    const error = refusal(parts, { ...parts, ...more }) as Error;
    expect(error, key).toMatchObject({ code: "ERR_CONFIG", where: { file: "dir" } });
    expect((error as unknown as { where: { key: string } }).where.key === key || error.message.includes(` ${key} `), `${key}: ${error.message}`).toBe(true); // prettier-ignore
  }
  expect(refusal(parts, parts, stream(2))).toMatchObject({ where: { key: "rows" } });
  // A schedule that decays is lengthened when asked for.
  const [short, long] = [4, 9].map((steps) => ({ ...parts, options: trainOptions({ optimizer: cosine, steps }) })) as [RunParts, RunParts];
  expect(refusal(short, long)).toMatchObject({
    where: { key: "steps" },
    message: expect.stringMatching(/steps 4 → 9 \(a longer schedule is taken with --extend/) as string,
  });
  expect(refusal(long, short, stream(), true)).toMatchObject({
    message: expect.stringMatching(/can be lengthened, not shortened/) as string,
  });
  expect(refusal(short, long, stream(), true)).toEqual({ step: 3, from: 4, to: 9 });
});
