// What a run does before its first step and after its last: rows, memory and place are looked at, its request is kept, the model is given
// back. No GPU. Alone: npx vitest run test/train/prepare.test.ts

import { existsSync, mkdtempSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import type { Examples } from "../../lib/data/examples.ts";
import { loadTokenizer } from "../../lib/text/tokenizer.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { keptStates, readRun } from "../../lib/train/checkpoint.ts";
import type { TrainEvent } from "../../lib/train/events.ts";
import { microBatchOf, planMemory } from "../../lib/train/memory_plan.ts";
import { CheckedRequest } from "../../lib/train/request.ts";
import type { TrainRequest } from "../../lib/train/request.ts";
import { TrainingRun } from "../../lib/train/run.ts";
import type { TrainSession } from "../../lib/train/session.ts";
import { tempDir } from "../support/fixture.ts";
import { withoutFsync } from "../support/faulty_disk.ts";
import { toyRows } from "../support/tiny_model.ts";
import { tinyExamples, tinyTraining } from "../support/tiny_training.ts";
import type { TinyTraining } from "../support/tiny_training.ts";

withoutFsync();
const root = tempDir();
let tiny: TinyTraining;
let large: TinyTraining; // with the ids of the embedded model's tokenizer
let tokenizer: Tokenizer;
beforeAll(async () => {
  tiny = await tinyTraining();
  large = await tinyTraining(2048);
  tokenizer = await loadTokenizer("examples/embedded");
});
afterAll(() => Promise.all([tiny.close(), large.close()]));
afterEach(() => vi.restoreAllMocks());

const examples = tinyExamples(40);
const request = (outDir: string, more: object = {}): TrainRequest => ({
  data: { rows: examples, packing: "none", maxLength: 16 },
  method: { type: "esft", experts: tiny.trainable.experts! },
  outDir,
  steps: 1,
  rowsPerStep: 2,
  evalFraction: 0,
  keep: "last",
  ...more,
});
const fresh = (): string => join(mkdtempSync(join(root, "p")), "out");
/** A run to its end: what it told, and what it gave or threw. */
async function run(asked: TrainRequest | CheckedRequest, session: TrainSession = tiny.session, signal = new AbortController().signal) {
  const started = new TrainingRun(session, asked, (work) => work(signal));
  const events: TrainEvent[] = [];
  let error: unknown = null;
  try {
    for await (const event of started) events.push(event);
  } catch (thrown) {
    error = thrown;
  }
  const result = error === null ? await started.result : null;
  const start = events.find((e) => e.type === "start");
  return { events, error, result, start };
}
const warnings = (events: readonly TrainEvent[]) => events.flatMap((e) => (e.type === "warning" ? [[e.step, e.message]] : []));

describe("rows", () => {
  it("held out are those given, else a share of the data, else none; memory is planned for all of them", async () => {
    const evalData = tinyExamples(6, 9);
    const plan = (held: number, count: number, repacked = false, of: Examples = examples) => {
      const { options } = CheckedRequest.parse(request("x"));
      const data = { held, examples: count, repacked };
      expect(of.length).toBe(40);
      return planMemory(tiny.model.spec, tiny.trainable, microBatchOf(options) * 16, tiny.model.device.info, data).hostBytes;
    };
    const all = examples.bytes;
    const none = await run(request(fresh()));
    expect(none.start).toMatchObject({ examples: 40, heldOut: 0, hostBytes: plan(all, 40) });
    const given = await run(request(fresh(), { evalData, evalFraction: 0.5 }));
    expect(given.start).toMatchObject({ examples: 40, heldOut: 6, hostBytes: plan(all + evalData.bytes, 46) });
    const share = await run(request(fresh(), { evalFraction: 0.25, seed: 3 }));
    expect(share.start).toMatchObject({ examples: 30, heldOut: 10, hostBytes: plan(all + 4 * 40, 40) });
    const { train, heldOut } = examples.split(0.25, 3);
    const supervised = [...heldOut].reduce((n, { labels }) => n + labels.slice(1).filter((t) => t >= 0).length, 0);
    expect(share.events.find((e) => e.type === "eval")).toMatchObject({ supervised });
    expect(train.length).toBe(30);
    // One example cannot be shared out.
    const one = await run(request(fresh(), { data: { rows: tinyExamples(1), packing: "none", maxLength: 16 }, evalFraction: 0.5 }));
    expect([one.error, one.start]).toMatchObject([null, { examples: 1, heldOut: 0 }]);
  });

  it("of text are encoded by the model's tokenizer; what is odd about them is told before the start", async () => {
    const session = { ...large.session, tokenizer: () => Promise.resolve(tokenizer) };
    const rows = Dataset.fromRows([...toyRows(6), { text: 5 }] as never, { onBadRow: "skip" });
    const { events, error } = await run(request(fresh(), { data: { rows, maxLength: 64 } }), session);
    expect([error, events[0], events[1]?.type]).toMatchObject([null, { type: "warning", step: 0 }, "start"]);
    expect(warnings(events)).toEqual([[0, expect.stringMatching(/the given rows: 1 of 7 rows cannot be used and are left out/)]]);
    const stopped = await run(request(fresh(), { data: { rows, maxLength: 64 } }), session, AbortSignal.abort());
    expect(stopped.error).toMatchObject({ code: "ERR_ABORTED" });
  });

  it("of packing esft are filled by the tokenizer's pad token, or its end, or 0; no other packing asks for one", async () => {
    const asked = vi.fn();
    const filled = async (ids: { padId: number | null; eosId: number | null }, packing = "esft") => {
      const outDir = fresh();
      const session: TrainSession = {
        ...tiny.session,
        tokenizer: async () => {
          asked();
          return ids as unknown as Tokenizer;
        },
      };
      const { error, start } = await run(request(outDir, { data: { rows: examples, packing, maxLength: 16 } }), session);
      expect(error).toBeNull();
      const { facts } = await readRun((await keptStates(outDir))[0]!);
      return [/,(\w+)\]$/.exec(facts["rows"] as string)![1], start!.hostBytes] as const;
    };
    const [pad, bytes] = await filled({ padId: 7, eosId: 5 });
    expect([pad, (await filled({ padId: null, eosId: 5 }))[0], (await filled({ padId: null, eosId: null }))[0]]).toEqual(["7", "5", "0"]);
    expect(asked).toHaveBeenCalledTimes(3);
    const [other, fewer] = await filled({ padId: 7, eosId: 5 }, "document");
    expect([other, asked.mock.calls.length, bytes - fewer]).toEqual(["false", 3, 3 * examples.bytes]); // made once more beside the examples
  });
});

describe("a run is refused before anything is written", () => {
  it("beside its model, for rows longer than the model takes, and at a signal that has fired", async () => {
    const { maxPositions } = tiny.model.spec;
    const inside = join(tiny.dir, "out");
    const long = (maxLength: number) => ({ data: { rows: examples, packing: "none", maxLength } });
    const outDir = fresh();
    expect((await run(request(inside))).error).toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringMatching(/lies inside the model/) as string,
    });
    expect((await run(request(outDir, long(maxPositions + 1)))).error).toMatchObject({
      code: "ERR_CONFIG",
      message: `train.data.maxLength ${maxPositions + 1} exceeds the model's ${maxPositions} positions`,
      where: { key: "data.maxLength" },
    });
    expect([existsSync(inside), existsSync(outDir)]).toEqual([false, false]);
    expect((await run(request(fresh(), long(maxPositions)))).error).toBeNull();
  });

  it("for options without an effect on what it trains", async () => {
    const dr = { type: "lora", targets: "experts", rank: 2, reallocate: "dr", reallocateWarmup: 1 };
    for (const [more, key] of [
      [{ auxLoss: 0.1 }, "auxLoss"],
      [{ method: dr }, "method.reallocateWarmup"],
    ] as const) {
      const outDir = fresh();
      const { error } = await run(request(outDir, more));
      expect([error, existsSync(outDir)]).toMatchObject([{ code: "ERR_CONFIG", where: { key } }, false]);
    }
  });

  it("where its outDir holds a run and it does not resume", async () => {
    const outDir = fresh();
    await run(request(outDir));
    const refused = {
      code: "ERR_CONFIG",
      where: { key: "outDir", file: outDir },
      message: expect.stringMatching(/holds a run already; resume it/) as string,
    };
    for (const more of [{}, { resume: false }]) expect((await run(request(outDir, more))).error).toMatchObject(refused);
  });

  it("by its weights when they changed, whatever else failed", async () => {
    const { checkpoint } = tiny.session;
    const changed = new Error("weight files changed");
    let calls = 0;
    const requireUnchanged = (after: number) => async () => {
      if (calls++ >= after) throw changed;
      return [];
    };
    for (const after of [0, 1]) {
      calls = 0;
      const held = Object.assign(Object.create(checkpoint) as typeof checkpoint, { files: { requireUnchanged: requireUnchanged(after) } });
      const outDir = fresh();
      const { error } = await run(request(outDir), { ...tiny.session, checkpoint: held });
      expect(error).toBe(changed);
      expect(await keptStates(outDir)).toEqual([]);
    }
  });
});

describe("a run", () => {
  it("is that of a checked request too, keeps it, and gives the model back as it was", async () => {
    const outDir = fresh();
    const [release, freeze] = [vi.spyOn(tiny.model, "release"), vi.spyOn(tiny.model, "freeze")];
    const { result, events } = await run(CheckedRequest.parse(request(outDir, { saveEvery: 7 })));
    expect(result).toMatchObject({ reason: "finished", outDir, step: 1 });
    expect(result!.trainable.keys).toEqual(tiny.trainable.keys);
    expect(result!.adapter!.training).toMatchObject({ step: 1 });
    expect(JSON.parse(readFileSync(join(outDir, "request.json"), "utf8"))).toMatchObject({ steps: 1, saveEvery: 7, model: tiny.dir });
    expect(existsSync(join(outDir, "run.lock"))).toBe(false);
    expect(tiny.model.params.state).toBeNull();
    expect(release.mock.invocationCallOrder.at(-1)).toBeGreaterThan(freeze.mock.invocationCallOrder.at(-1)!);
    const identity = await tiny.session.identity();
    expect((await readRun((await keptStates(outDir))[0]!)).facts["base"]).toBe(identity.contents ?? identity.fingerprint);
    expect(events.at(-1)).toMatchObject({ type: "done", reason: "finished" });
    // A base of unknown contents is told by its fingerprint.
    const other = fresh();
    await run(request(other), { ...tiny.session, identity: async () => ({ ...identity, contents: undefined }) as never });
    expect((await readRun((await keptStates(other))[0]!)).facts["base"]).toBe(identity.fingerprint);
  });

  it("that resumes keeps its new request when its checkpoint was accepted, not before", async () => {
    const outDir = fresh();
    const asked = (): unknown => (JSON.parse(readFileSync(join(outDir, "request.json"), "utf8")) as { saveEvery: unknown }).saveEvery;
    await run(request(outDir, { saveEvery: 7 }));
    const other = await run(request(outDir, { resume: true, saveEvery: 8, seed: 2 }));
    expect([other.error, asked()]).toMatchObject([{ code: "ERR_CONFIG" }, 7]);
    const taken = await run(request(outDir, { resume: true, saveEvery: 8, steps: 2 }));
    expect([taken.error, taken.start?.step, asked()]).toEqual([null, 1, 8]);
    // Where it cannot be kept, the run fails.
    const broken = { ...tiny.session, get dir(): string { throw new TypeError("no dir"); } }; // prettier-ignore
    expect((await run(request(outDir, { resume: true, steps: 3 }), broken)).error).toBeInstanceOf(TypeError);
  });

  it("stopped says so and delivers nothing; the model is given back all the same", async () => {
    const outDir = fresh();
    const stop = new AbortController();
    const forwardBackward = tiny.model.forwardBackward.bind(tiny.model);
    vi.spyOn(tiny.model, "forwardBackward").mockImplementation((...args) => {
      forwardBackward(...args);
      stop.abort();
    });
    const { result } = await run(request(outDir, { steps: 5 }), tiny.session, stop.signal);
    expect(result).toMatchObject({ reason: "interrupted", adapter: null, step: 1 });
    expect([existsSync(join(outDir, "adapter.json")), tiny.model.params.state]).toEqual([false, null]);
    vi.restoreAllMocks();
    vi.spyOn(tiny.model, "forwardBackward").mockImplementation(() => {
      throw new Error("broken");
    });
    expect((await run(request(fresh()))).error).toMatchObject({ message: "broken" });
    expect(tiny.model.params.state).toBeNull();
  });
});
