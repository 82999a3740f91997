// What a run delivers and keeps on the way: the last adapter or the best, what its manifest says, and the copies that states name. No GPU.
// Alone: npx vitest run test/train/deliver.test.ts

import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { frozenDigest } from "../../lib/adapter/digest.ts";
import { decodeFloats } from "../../lib/files/floats.ts";
import { sealedJson } from "../../lib/files/sealed.ts";
import { loraTrainable } from "../../lib/methods/lora.ts";
import type { TrainableSpec } from "../../lib/methods/method.ts";
import { bestDir } from "../../lib/train/checkpoint.ts";
import { checkBest, deliver, keepBest } from "../../lib/train/deliver.ts";
import type { Delivery } from "../../lib/train/deliver.ts";
import type { TrainSession } from "../../lib/train/session.ts";
import type { TrainSummary } from "../../lib/train/trainer.ts";
import { tempDir } from "../support/fixture.ts";
import { withoutFsync } from "../support/faulty_disk.ts";
import { tinyTraining, trainOptions } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

withoutFsync();
const root = tempDir();
let tiny: TinyTraining;
beforeAll(async () => void (tiny = await tinyTraining()));
afterAll(() => tiny.close());
beforeEach(() => void tiny.model.train(tiny.trainable));

/** A run's delivery, in a directory of its own; `files` stands for the weight files in use. */
async function delivery(more: Record<string, unknown> = {}, trainable: TrainableSpec = tiny.trainable, deleted: readonly string[] = []) {
  const { checkpoint } = tiny.session;
  const requireUnchanged = vi.fn(async () => [...deleted]);
  const held = Object.assign(Object.create(checkpoint) as typeof checkpoint, { files: { requireUnchanged } });
  const session: TrainSession = { ...tiny.session, checkpoint: held };
  const options = trainOptions({ keep: "last", ...more });
  const made: Delivery = { session, trainable, options, identity: await session.identity(), outDir: mkdtempSync(join(root, "d")) };
  return { made, requireUnchanged };
}
const summary = (more: Partial<TrainSummary> = {}): TrainSummary =>
  ({ reason: "finished", step: 4, best: null, firstEval: null, lastEval: null, tokens: 99, seconds: 1.5, ranks: null, extensions: [], stopped: null, ...more }); // prettier-ignore
/** Sets all trained values. */
const train = (value: number): void => {
  const { master } = tiny.model.params.state!;
  master.write(new Float32Array(master.size).fill(value));
};
/** The value of all trained tensors of an adapter. */
async function valueOf(adapter: Adapter): Promise<number> {
  const found = new Set<number>();
  for (const [key, { dtype }] of [...adapter.tensors, ...adapter.attached])
    for (const x of decodeFloats(await adapter.read(key), dtype)) found.add(x);
  expect(found.size).toBe(1);
  return [...found][0]!;
}
/** Delivers, with all that was warned of. */
async function delivered({ made }: { made: Delivery }, of: TrainSummary, task = {}) {
  const said: string[] = [];
  const adapter = await deliver(made, of, (message) => said.push(message), task);
  return { adapter, said };
}
const bestSteps = (made: Delivery): string[] =>
  existsSync(join(made.outDir, "best")) ? readdirSync(join(made.outDir, "best")).sort() : [];
/** A kept state that names a best adapter, or none. */
function keptState(made: Delivery, save: number, best: { step: number; loss: number } | null): void {
  const dir = join(made.outDir, "checkpoint", `000${save}-step-${save}`);
  const cursor = { epoch: 0, row: 0, fingerprint: "" };
  const numbers = { step: save, skipped: 0, optimizerSteps: 0, tokens: 0, seconds: 0, firstEval: null, lastEval: null };
  mkdirSync(dir, { recursive: true });
  const run = { format: "esft-run", version: 2, ...numbers, evaluated: true, cursor, facts: {}, extensions: [], best, parameters: [], stateSha256: "0".repeat(64) }; // prettier-ignore
  writeFileSync(join(dir, "run.json"), sealedJson(run));
}

describe("the adapter", () => {
  it("holds what trains, as the base stores it, and says how it came about", async () => {
    train(0.75);
    const { made } = await delivery();
    const { adapter, said } = await delivered({ made }, summary({ firstEval: 3, lastEval: 2, best: { step: 2, loss: 2 } }));
    expect(said).toEqual([]);
    expect([...adapter!.tensors.keys()].sort()).toEqual([...tiny.trainable.keys].sort());
    expect([...adapter!.tensors.values()].every((t) => t.dtype === "BF16")).toBe(true);
    expect(await valueOf(adapter!)).toBe(0.75);
    expect([adapter!.method, adapter!.base]).toEqual([{ type: "esft" }, { name: "tiny", identity: made.identity }]);
    expect(adapter!.experts!.equals(tiny.trainable.experts!)).toBe(true);
    expect(adapter!.training).toEqual({ options: JSON.parse(JSON.stringify(made.options)) as object, step: 4, tokens: 99, best: { step: 2, loss: 2 }, firstEval: 3, lastEval: 2 }); // prettier-ignore
    const trained = tiny.trainable.keys.map((key) => tiny.session.params.byName(key)!.ref);
    expect(adapter!.frozenDigest).toBe(await frozenDigest(tiny.session.checkpoint, trained));
    expect((await Adapter.load(made.outDir)).training).toEqual(adapter!.training);
  });

  it("is f32 when that is asked for, and tells of a schedule that was lengthened", async () => {
    train(1 + 2 ** -20); // no bf16
    const extensions = [{ step: 2, from: 3, to: 4 }];
    const { adapter } = await delivered(await delivery({ adapterDtype: "f32" }), summary({ extensions }));
    expect([...adapter!.tensors.values()].every((t) => t.dtype === "F32")).toBe(true);
    expect(await valueOf(adapter!)).toBe(1 + 2 ** -20);
    expect(adapter!.training).toMatchObject({ extended: extensions });
  });

  it("is f32 where the base is", async () => {
    const { made } = await delivery();
    const { params } = made.session;
    const byName = (key: string) => Object.create(params.byName(key)!, { stored: { value: "f32" } }) as never;
    const session = { ...made.session, params: Object.assign(Object.create(params) as typeof params, { byName }) };
    const { adapter } = await delivered({ made: { ...made, session } }, summary());
    expect([...adapter!.tensors.values()].every((t) => t.dtype === "F32")).toBe(true);
  });

  it("of a method that attaches has its matrices, their places and its options", async () => {
    const lora = loraTrainable(tiny.model.spec, { rank: 2, alpha: 4, targets: ["attention"] }, 1);
    tiny.model.train(lora);
    train(0.5);
    const { adapter } = await delivered(await delivery({ adapterDtype: "base" }, lora), summary());
    const parameters = lora.attachments!.parameters;
    expect(adapter!.method).toEqual({ type: "lora", ...lora.options });
    expect([adapter!.tensors.size, adapter!.attached.size, adapter!.experts]).toEqual([0, parameters.length, null]);
    for (const { key, shape, place, target } of parameters)
      expect(adapter!.attached.get(key)).toMatchObject({ dtype: "F32", shape: [...shape], layer: place.layer, target });
    expect(await valueOf(adapter!)).toBe(0.5);
  });

  it("waits when the signal fires while frozen weights are hashed; what else fails is told", async () => {
    const run = await delivery();
    expect((await delivered(run, summary(), { signal: AbortSignal.abort() })).adapter).toBeNull();
    expect(readdirSync(run.made.outDir)).toEqual([]);
    const onProgress = (): never => {
      throw new TypeError("a defect");
    };
    await expect(delivered(run, summary(), { onProgress })).rejects.toThrow("a defect");
  });

  it("tells of weight files that were deleted meanwhile, three by name", async () => {
    const said = async (...names: string[]): Promise<string[]> =>
      (await delivered(await delivery({}, tiny.trainable, names), summary())).said;
    expect(await said("a")).toEqual([
      expect.stringMatching(/weight files .* deleted .*\(a\): the adapter is whole, but needs them again$/),
    ]);
    expect(await said("a", "b", "c")).toEqual([expect.stringContaining("(a, b, c): ")]);
    expect(await said("a", "b", "c", "d")).toEqual([expect.stringContaining("(a, b, c …): ")]);
  });
});

describe("the best adapter", () => {
  const best = { step: 2, loss: 1.5 };

  it("is kept beside the run, and only when it is asked for", async () => {
    const last = await delivery();
    await keepBest(last.made, 2);
    expect([bestSteps(last.made), last.requireUnchanged.mock.calls.length]).toEqual([[], 0]);
    const { made, requireUnchanged } = await delivery({ keep: "best" });
    train(0.25);
    await keepBest(made, 2);
    expect([bestSteps(made), requireUnchanged.mock.calls.length]).toEqual([["step-2"], 1]);
    const kept = await Adapter.load(bestDir(made.outDir, 2));
    expect([await valueOf(kept), kept.frozenDigest, kept.training]).toMatchObject([
      0.25,
      undefined,
      { step: 2, options: { keep: "best" } },
    ]);
    requireUnchanged.mockRejectedValueOnce(new Error("changed"));
    await expect(keepBest(made, 3)).rejects.toThrow("changed");
    expect(bestSteps(made)).toEqual(["step-2"]);
  });

  it("is delivered with its own values and the facts of the run, and not kept twice", async () => {
    const { made } = await delivery({ keep: "best" });
    train(0.25);
    await keepBest(made, 2);
    train(0.5);
    const { adapter, said } = await delivered({ made }, summary({ best, lastEval: 9 }));
    expect([await valueOf(adapter!), said]).toEqual([0.25, []]);
    expect(adapter!.training).toMatchObject({ step: 2, tokens: 99, best, lastEval: 9 });
    expect(adapter!.frozenDigest).toMatch(/^[0-9a-f]{64}$/);
    expect(bestSteps(made)).toEqual([]);
    // Of a run that goes on after it, it is found where it was delivered.
    await checkBest(made, best);
    train(0.125);
    expect(await valueOf((await delivered({ made }, summary({ step: 5, best }))).adapter!)).toBe(0.25);
  });

  it("is the last where the last is the best, where none was better than the base, and where the last is asked for", async () => {
    train(0.5);
    const of = async (more: Record<string, unknown>, found: TrainSummary["best"]) =>
      delivered(await delivery(more), summary({ best: found }));
    const last = await of({ keep: "best" }, { step: 4, loss: 1 });
    expect([await valueOf(last.adapter!), last.adapter!.training!["step"], last.said]).toEqual([0.5, 4, []]);
    const none = await of({ keep: "best" }, { step: 0, loss: 1 });
    expect([await valueOf(none.adapter!), none.said]).toEqual([
      0.5,
      ["the held-out loss never fell below the base model's; the adapter is that of the last step"],
    ]);
    expect((await of({ keep: "last" }, { step: 0, loss: 1 })).said).toEqual([]);
    expect((await of({ keep: "last" }, best)).adapter!.training!["step"]).toBe(4);
    expect((await of({ keep: "best" }, null)).adapter!.training!["step"]).toBe(4);
  });

  it("that a checkpoint names must be there, whole, and of that step", async () => {
    const { made } = await delivery({ keep: "best" });
    await checkBest(made, null);
    await checkBest(made, { step: 0, loss: 1 });
    await checkBest((await delivery()).made, best);
    const refused = (dir: string, found: RegExp) =>
      expect(checkBest(made, best)).rejects.toMatchObject({
        code: "ERR_LAYOUT",
        message: expect.stringMatching(found) as string,
        where: { file: dir },
      });
    await refused(made.outDir, /expected the best adapter, that of step 2, found none; train again, or resume with --keep last$/);
    train(0.25);
    await keepBest(made, 2);
    const dir = bestDir(made.outDir, 2);
    await checkBest(made, best);
    const data = join(dir, "adapter.safetensors");
    const whole = readFileSync(data);
    const damaged = Buffer.from(whole);
    damaged[whole.length - 1]! ^= 1;
    writeFileSync(data, damaged);
    await refused(dir, /found a damaged one \(.*sha256/);
    // Not finite, though its hash fits: it was saved so.
    damaged.writeUInt16LE(0x7fc0, whole.length - 2);
    writeFileSync(data, damaged);
    await refused(dir, /found a damaged one \(/);
    rmSync(data);
    await expect(checkBest(made, best)).rejects.toMatchObject({ code: "ERR_IO" });
    rmSync(dir, { recursive: true });
    await keepBest(made, 3);
    cpSync(bestDir(made.outDir, 3), dir, { recursive: true });
    await refused(dir, /found that of step 3; /);
    await expect(delivered({ made }, summary({ best }))).rejects.toMatchObject({ code: "ERR_LAYOUT" });
  });

  it("stays where a kept state names it, moved out of the way where the delivery held it", async () => {
    const { made } = await delivery({ keep: "best" });
    const values: Record<number, number> = { 1: 0.125, 2: 0.25, 3: 0.5 };
    for (const [step, value] of Object.entries(values)) {
      train(value);
      await keepBest(made, Number(step));
    }
    keptState(made, 1, { step: 1, loss: 3 });
    keptState(made, 2, { step: 2, loss: 2 });
    keptState(made, 3, null);
    keptState(made, 4, { step: 0, loss: 2 });
    mkdirSync(join(made.outDir, "checkpoint/0005-step-5")); // no state: says nothing
    await delivered({ made }, summary({ best: { step: 2, loss: 2 } }));
    expect(bestSteps(made)).toEqual(["step-1"]);
    // The next delivery takes the place of that of step 2, which a state still names.
    train(1);
    await delivered({ made }, summary({ step: 6, best: { step: 6, loss: 1 } }));
    expect(bestSteps(made)).toEqual(["step-1", "step-2"]);
    for (const step of [1, 2]) expect(await valueOf(await Adapter.load(bestDir(made.outDir, step)))).toBe(values[step]);
    expect(await valueOf(await Adapter.load(made.outDir))).toBe(1);
    // A copy that is gone altogether is not missed here; with keep last none is kept.
    rmSync(join(made.outDir, "best/step-1"), { recursive: true });
    await delivered({ made }, summary({ step: 7, best: { step: 7, loss: 1 } }));
    expect(bestSteps(made)).toEqual(["step-2"]);
    await delivered({ made: { ...made, options: trainOptions({ keep: "last" }) } }, summary({ step: 8 }));
    expect(bestSteps(made)).toEqual([]);
  });
});
