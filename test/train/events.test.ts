// What a run tells and to whom: the order of events, the error of a failed run, the log and its rewinding. No GPU.
// Alone: npx vitest run test/train/events.test.ts

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { DataError, DisposedError } from "../../lib/errors.ts";
import { EventLog, EventQueue } from "../../lib/train/events.ts";
import type { TrainEvent } from "../../lib/train/events.ts";
import { TrainingRun } from "../../lib/train/run.ts";
import type { TrainSession } from "../../lib/train/session.ts";
import { tempDir } from "../support/fixture.ts";

const warning = (step: number): TrainEvent => ({ type: "warning", step, message: String(step) });
const steps = (events: readonly TrainEvent[]): number[] => events.map((e) => e.step);
/** Everything an iteration gives, and what it threw. */
async function drain(events: AsyncIterable<TrainEvent>): Promise<{ seen: number[]; thrown: unknown }> {
  const seen: TrainEvent[] = [];
  try {
    for await (const e of events) seen.push(e);
  } catch (error) {
    return { seen: steps(seen), thrown: error };
  }
  return { seen: steps(seen), thrown: null };
}

describe("the queue", () => {
  it("gives events in their order, those before the iteration too, and ends", async () => {
    const queue = new EventQueue();
    queue.push(warning(1));
    queue.push(warning(2));
    const all = drain(queue);
    await new Promise(setImmediate);
    queue.push(warning(3));
    queue.end();
    expect(await all).toEqual({ seen: [1, 2, 3], thrown: null });
    expect(await drain(queue)).toEqual({ seen: [], thrown: null });
  });

  it("hands an event to who waits before its next turn, one event to one reader", async () => {
    const queue = new EventQueue();
    const [a, b] = [queue[Symbol.asyncIterator](), queue[Symbol.asyncIterator]()];
    const got: string[] = [];
    void a.next().then((r) => got.push(`a${(r.value as TrainEvent).step}`));
    void b.next().then((r) => got.push(`b${(r.value as TrainEvent).step}`));
    queue.push(warning(1));
    await Promise.resolve();
    expect(got).toEqual(["a1"]);
    queue.push(warning(2));
    await Promise.resolve();
    expect(got).toEqual(["a1", "b2"]);
  });

  it("throws the error of a failed run after the events before it, once to every iterator", async () => {
    const queue = new EventQueue();
    queue.push(warning(1));
    const [a, b] = [queue[Symbol.asyncIterator](), queue[Symbol.asyncIterator]()];
    expect(await a.next()).toMatchObject({ value: { step: 1 } });
    const waits = [a.next(), b.next()];
    const error = new Error("broken");
    queue.end({ error });
    for (const next of waits) await expect(next).rejects.toBe(error);
    expect(await a.next()).toEqual({ value: undefined, done: true });
    expect(await drain(queue)).toEqual({ seen: [], thrown: error });
  });

  it("knows whether the error has a reader, and says when one leaves", async () => {
    let left = 0;
    const queue = new EventQueue(() => left++);
    expect(queue.heard).toBe(false);
    queue.push(warning(1));
    for await (const _ of queue) {
      expect(queue.heard).toBe(true);
      break;
    }
    expect([queue.heard, left]).toEqual([false, 1]);
    queue.end({ error: new Error("broken") });
    await drain(queue);
    expect([queue.heard, left]).toEqual([true, 1]);
    const late = queue[Symbol.asyncIterator]();
    await late.return!();
    expect(await late.next()).toEqual({ value: undefined, done: true });
    await late.return!();
    expect(left).toBe(2);
  });

  it("drops the oldest steps of a run that nobody watches, and nothing else", async () => {
    const queue = new EventQueue();
    queue.push(warning(0));
    for (let step = 1; step <= 10_050; step++) queue.push({ type: "step", step } as TrainEvent);
    queue.end();
    const { seen } = await drain(queue);
    expect([seen.length, seen[0], seen[1], seen.at(-1)]).toEqual([10_000, 0, 52, 10_050]);
    const loud = new EventQueue();
    for (let step = 0; step <= 10_000; step++) loud.push(warning(step));
    loud.end();
    const rest = (await drain(loud)).seen;
    expect([rest.length, rest[0]]).toEqual([10_000, 1]); // nothing but warnings: then those
  });
});

describe("a run that fails", () => {
  const session = {} as TrainSession;
  const failing = (error: unknown = new DataError("no rows")): TrainingRun =>
    new TrainingRun(session, { data: "x.jsonl", method: "full", outDir: "x" }, () => Promise.reject(error));
  /** Warnings of the process while `work` runs and a few turns later. */
  async function warnings(work: () => unknown): Promise<string[]> {
    const seen: string[] = [];
    const listen = (w: Error & { code?: string }): void => {
      if (w.code !== "ESFT_RUN_UNREAD") return;
      expect(w.name).toBe("EsftWarning");
      seen.push(w.message);
    };
    process.on("warning", listen);
    await work();
    for (let i = 0; i < 5; i++) await new Promise(setImmediate);
    process.off("warning", listen);
    return seen;
  }

  it("tells who iterates, who awaits the result, and who does both", async () => {
    const silent = await warnings(async () => {
      expect((await drain(failing())).thrown).toMatchObject({ code: "ERR_DATA" });
      await expect(failing().result).rejects.toMatchObject({ code: "ERR_DATA" });
      const both = failing();
      expect((await drain(both)).thrown).toMatchObject({ code: "ERR_DATA" });
      await expect(both.result).rejects.toMatchObject({ code: "ERR_DATA" });
      const late = failing();
      const { result } = late;
      await new Promise(setImmediate);
      await expect(result).rejects.toMatchObject({ code: "ERR_DATA" });
      const left = failing();
      await left[Symbol.asyncIterator]().return!();
      await expect(left.result).rejects.toMatchObject({ code: "ERR_DATA" });
    });
    expect(silent).toEqual([]);
  });

  it("warns when nobody asks, or who iterated has left; asked later it still throws", async () => {
    let run!: TrainingRun;
    expect(await warnings(() => (run = failing()))).toEqual([
      expect.stringMatching(/neither .* were read: DataError \[ERR_DATA\]: no rows$/),
    ]);
    expect((await drain(run)).thrown).toMatchObject({ code: "ERR_DATA" });
    const left = await warnings(async () => {
      run = failing();
      await run[Symbol.asyncIterator]().return!();
    });
    expect(left.length).toBe(1);
    // Who iterates when it fails will hear of it, unless they leave after all.
    const late = await warnings(async () => {
      const events = failing()[Symbol.asyncIterator]();
      for (let i = 0; i < 5; i++) await new Promise(setImmediate);
      await events.return!();
      await events.return!();
    });
    expect(late.length).toBe(1);
    const going = new TrainingRun(session, { data: "x.jsonl", method: "full", outDir: "x" }, () => new Promise(() => undefined));
    expect(await warnings(() => going[Symbol.asyncIterator]().return!())).toEqual([]); // it has not failed
    expect(await warnings(() => failing(new TypeError("a defect")))).toEqual([expect.stringMatching(/were read: TypeError: a defect$/)]);
  });

  it("is silent when its model was disposed of", async () => {
    expect(await warnings(() => failing(new DisposedError("gone")))).toEqual([]);
  });
});

describe("events.jsonl", () => {
  const dir = tempDir();
  it("keeps what happened up to a step, drops the rest and half lines", async () => {
    const log = new EventLog(join(dir, "events.jsonl"));
    await log.rewind(3); // there is none yet
    for (const step of [0, 1, 2, 3]) await log.append(warning(step));
    const text = readFileSync(log.path, "utf8");
    writeFileSync(log.path, `${text}{"type":"step","st`);
    await log.rewind(2);
    const kept = readFileSync(log.path, "utf8");
    expect(kept.endsWith("\n")).toBe(true);
    const lines = kept.trimEnd().split("\n").map((line) => JSON.parse(line) as TrainEvent & { time: string }); // prettier-ignore
    expect(steps(lines)).toEqual([0, 1, 2]);
    // A power cut may leave anything behind the last whole line.
    writeFileSync(log.path, Buffer.concat([Buffer.from(kept), Buffer.from([0xff, 0xfe, 0])]));
    await log.rewind(9);
    expect(readFileSync(log.path, "utf8")).toBe(kept);
    expect(lines[0]).toEqual({ ...warning(0), time: expect.stringMatching(/^\d{4}-.*Z$/) as string });
    await log.rewind(-1);
    expect(readFileSync(log.path, "utf8")).toBe("");
  });
  it("says which file cannot be written", async () => {
    await expect(new EventLog(join(dir, "none", "events.jsonl")).append(warning(1))).rejects.toMatchObject({
      code: "ERR_IO",
      message: expect.stringMatching(/cannot write .*none.events\.jsonl: no such file/) as string,
      where: { file: join(dir, "none", "events.jsonl") },
    });
  });
});
