// How far routing moves while experts train: shares against counts by hand, what would be selected again, warnings, and the same looks
// wherever a run was interrupted. No GPU. Alone: npx vitest run test/train/drift.test.ts

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import type { ExpertSums } from "../../lib/experts/counting.ts";
import { ExpertSet, MoeModel, Profile } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import { readReport } from "../../lib/report/report.ts";
import { messagesOf } from "../../lib/report/tensorboard.ts";
import { Drift } from "../../lib/train/drift.ts";
import type { DriftEvent } from "../../lib/train/drift.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { loggedEvents, runUntil } from "../support/training_run.ts";

// Two layers of four experts, two per token.
const layers = [
  { layer: 1, tokens: 50, counts: [40, 30, 20, 10], gateSums: [20, 15, 10, 5] },
  { layer: 2, tokens: 50, counts: [25, 25, 25, 25], gateSums: [12, 12, 12, 12] },
];
const profile = new Profile({ source: "model", topK: 2, experts: 4, sequences: 5, layers });
const select = { p: 0.6, score: "token" } as const;
const experts = profile.select(select); // layer 1: 0 1; layer 2: 0 1 2
const sums = (one: readonly number[], two: readonly number[]): Map<number, ExpertSums> =>
  new Map([[1, one], [2, two]].map(([layer, counts]) => [layer as number, { counts: counts as number[], gateSums: (counts as number[]).map((n) => n / 2) }])); // prettier-ignore
const drift = (of: ConstructorParameters<typeof Drift>[2] = { profile, select, experts }, most = 0.2): Drift =>
  new Drift(2, most, of, () => 2);

describe("a look", () => {
  it("tells the share of slots at other experts, and what would be selected again", () => {
    const watch = drift();
    watch.add(sums([4, 3, 2, 1], [5, 0, 5, 0]));
    expect(watch.look(1, false)).toBeNull();
    watch.add(sums([1, 2, 3, 4], [5, 0, 5, 0]));
    // Layer 1: 5 5 5 5 of 20 against 0.4 0.3 0.2 0.1; layer 2: ½ 0 ½ 0 against quarters.
    const look = watch.look(2, false)!;
    expect(look).toMatchObject({ type: "drift", step: 2, since: "profile", tokens: 10 });
    expect(look.layers.map(({ shift }) => shift)).toEqual([expect.closeTo(0.2, 12), expect.closeTo(0.5, 12)]);
    expect(look.shift).toBeCloseTo(0.35, 12);
    // Layer 1 needs three of four equal experts (0 1 2), layer 2 takes 0 and 2: of the five that train 0 1 and 0 2 remain.
    expect(look.kept).toBeCloseTo(4 / 5, 12);
  });

  it("counts anew after each, and at the end what there is", () => {
    const watch = drift();
    const same = sums([4, 3, 2, 1], [3, 3, 3, 3]);
    for (let step = 1; step <= 2; step++) watch.add(sums([0, 0, 0, 10], [0, 0, 0, 12]));
    expect(watch.look(2, false)!.shift).toBeGreaterThan(0.5);
    watch.add(same);
    expect(watch.look(3, true)).toMatchObject({ step: 3, tokens: 6, shift: expect.closeTo(0, 12) as number, kept: 1 });
    expect(watch.look(4, false)).toBeNull(); // nothing was counted
  });

  it("knows what chance alone moves", () => {
    const watch = drift();
    watch.add(sums([400, 300, 200, 100], [250, 250, 250, 250]));
    const chance = (shares: readonly number[]): number =>
      shares.reduce((s, x) => s + Math.sqrt((2 / Math.PI) * x * (1 - x) * (1 / 1000 + 1 / 100)), 0) / 2;
    const expected = (chance([0.4, 0.3, 0.2, 0.1]) + chance([0.25, 0.25, 0.25, 0.25])) / 2;
    expect(watch.look(2, false)!.chance).toBeCloseTo(expected, 12);
  });

  it("compares with the first one where experts were named", () => {
    const watch = drift(null);
    watch.add(sums([4, 3, 2, 1], [5, 0, 5, 0]));
    expect(watch.look(2, false)).toBeNull();
    const { first } = watch.state;
    watch.add(sums([4, 3, 2, 1], [0, 5, 0, 5]));
    const look = watch.look(4, false)!;
    expect(look).toMatchObject({ since: "first updates", shift: 0.5 });
    expect(look).not.toHaveProperty("kept");
    expect(watch.state.first).toBe(first);
  });

  it("of a set drawn at random, or by scores that are not counted, says nothing of what would be kept", () => {
    for (const rule of [
      { ...select, random: 3 },
      { ...select, average: "sequences" as const },
      { ...select, score: "gradient" as const },
    ]) {
      const watch = drift({ profile, select: rule, experts });
      watch.add(sums([4, 3, 2, 1], [3, 3, 3, 3]));
      expect(watch.look(2, false)).not.toHaveProperty("kept");
    }
  });

  it("warns where it is more than is allowed, and than chance makes likely", () => {
    const many = drift();
    for (let i = 0; i < 100; i++) many.add(sums([10, 10, 10, 10], [20, 0, 20, 0]));
    const look = many.look(2, false)!;
    expect(many.warning(look)).toMatch(
      /^step 2: the routing of the last 2000 tokens has moved from that of the profile: 35 % .* \(layer 2: 50 %\); the same rule would select 80 % .* \(maxDrift 0\.2\)$/,
    );
    expect(drift(undefined, 0.4).warning(look)).toBeNull();
    expect(many.warning({ ...look, chance: 0.2 })).toBeNull();
  });

  it("goes on from what was counted", () => {
    const [whole, first, second] = [drift(null), drift(null), drift(null)];
    const steps = [sums([4, 3, 2, 1], [5, 0, 5, 0]), sums([1, 2, 3, 4], [3, 3, 3, 3]), sums([9, 1, 1, 1], [5, 0, 5, 0]), sums([1, 1, 9, 1], [0, 0, 9, 3])]; // prettier-ignore
    const looks = steps.map((s, i) => (whole.add(s), whole.look(i + 1, false)));
    for (const s of steps.slice(0, 2)) first.add(s);
    first.look(2, false);
    first.add(steps[2]!);
    second.restore(JSON.parse(JSON.stringify(first.state)) as typeof first.state, 3);
    second.add(steps[3]!);
    expect(second.look(4, false)).toEqual(looks[3]);
    expect(() => drift(null).restore(undefined, 3)).toThrow(/^train\.driftEvery: expected 0/);
    drift().restore(undefined, 3);
  });
});

const root = tempDir();
const at = (...names: string[]): string => join(root, ...names);
let measured: Profile;
beforeAll(async () => {
  await writeTinyModel(at("model"), tinyDeepseek);
  writeFileSync(at("rows.jsonl"), toyRows(60).map((r) => JSON.stringify(r)).join("\n")); // prettier-ignore
  using model = await MoeModel.fromPretrained(at("model"), { threads: 2 });
  measured = await model.profile(at("rows.jsonl"), { maxLength: 64, tokens: 1e9 });
});

async function train(outDir: string, more: Partial<TrainRequest> = {}, stopAt?: (e: TrainEvent) => boolean, threads = 2) {
  using model = await MoeModel.fromPretrained(at("model"), { threads });
  const { events } = await runUntil(
    model,
    {
      data: { file: at("rows.jsonl"), maxLength: 64 },
      method: { type: "esft", profile: measured, select: { p: 0.4 } },
      outDir: at(outDir),
      steps: 10,
      rowsPerStep: 4,
      evalFraction: 0,
      saveEvery: 3,
      driftEvery: 4,
      keep: "last",
      optimizer: { lr: 0.05 },
      resume: true,
      ...more,
    },
    stopAt,
  );
  return events;
}
const looks = (outDir: string): DriftEvent[] =>
  loggedEvents(at(outDir)).flatMap((e: TrainEvent & { time?: string }) => {
    const { time: _, ...event } = e;
    return event.type === "drift" ? [event] : [];
  });
const adapter = (outDir: string): Buffer => readFileSync(at(outDir, "adapter.safetensors"));

describe("a run", () => {
  it("tells it every so many updates and at the end, and is else the run without", async () => {
    await train("whole");
    expect(looks("whole").map(({ step }) => step)).toEqual([4, 8, 10]);
    await train("without", { driftEvery: 0 });
    expect(looks("without")).toEqual([]);
    expect(adapter("whole").equals(adapter("without"))).toBe(true);
  });

  it("that moves no weight routes as the profile says, but for the rows that it took", async () => {
    await train("still", { optimizer: { lr: 0 }, steps: 15, driftEvery: 15 }); // about an epoch
    await train("moving", { steps: 15, driftEvery: 15 });
    const [[still], [moving]] = [looks("still"), looks("moving")];
    expect(still!.shift).toBeLessThan(0.05);
    expect(moving!.shift).toBeGreaterThan(still!.shift);
  });

  it.each([
    ["from a profile", {}],
    ["from named experts", { method: { type: "esft", experts: new ExpertSet({ layers: [[1, { ranked: [0, 3] }], [2, { ranked: [5] }]] }) } }], // prettier-ignore
  ] as [string, Partial<TrainRequest>][])("interrupted anywhere, on other numbers of threads, tells the same: %s", async (_, more) => {
    const name = Object.keys(more).length === 0 ? "p" : "n";
    await train(`${name}-whole`, more);
    expect(looks(`${name}-whole`)).toHaveLength(name === "p" ? 3 : 2);
    for (const [i, step] of [2, 4, 7].entries()) {
      const dir = `${name}-${step}`;
      await train(dir, more, (e) => e.type === "step" && e.step === step, 1 + (i % 3));
      await train(dir, more, undefined, 2);
      expect(looks(dir)).toEqual(looks(`${name}-whole`));
    }
  });

  it("draws it in its report, and for TensorBoard", async () => {
    const report = await readReport([at("whole")]);
    const figure = report.sections.flatMap((s) => s.figures).find((f) => f.id === "drift")!;
    expect(figure.table!.rows.map((r) => [r["step"], r["shift"]])).toEqual(looks("whole").map(({ step, shift }) => [step, shift]));
    expect(messagesOf(looks("whole")[0]!, 1)).toHaveLength(1);
  });
});
