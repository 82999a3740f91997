// Reports of runs: figures from the log of events, what is damaged by its line, long runs in stretches. No GPU, no addon.
// Alone: npx vitest run test/report/run.test.ts

import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { LayoutError } from "../../lib/errors.ts";
import type { Figure, Report } from "../../lib/report/content.ts";
import { readReport } from "../../lib/report/report.ts";
import { tempDir } from "../support/fixture.ts";
import { runEvents, stepEvent, writeRun } from "./support.ts";

const dir = tempDir();
let made = 0;
const write = (...args: Parameters<typeof writeRun> extends [string, ...infer R] ? R : never): string =>
  writeRun(path.join(dir, `run-${made++}`), ...args);
const figureOf = (report: Report, id: string): Figure => report.sections.flatMap((s) => s.figures).find((f) => f.id === id)!;
const column = (figure: Figure, key: string): unknown[] => figure.table.rows.map((r) => r[key] ?? null);

describe("a finished run", async () => {
  const report = await readReport(write());

  it("has the losses of every step and evaluation in one table", () => {
    const loss = figureOf(report, "loss");
    expect(column(loss, "step")).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(column(loss, "loss")).toEqual([null, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4]);
    expect(column(loss, "heldOut")).toEqual([3.25, null, null, 2.75, null, null, 2.875]);
    expect(column(loss, "best")).toEqual(["best so far", null, null, "best so far", null, null, null]);
  });

  it("says what it came to", () => {
    const facts = Object.fromEntries(report.facts.map((f) => [f.label, [f.value, f.note]]));
    expect(facts).toMatchObject({
      Steps: ["6", "of 6, finished"],
      "Training loss": ["2.4000", "of the last step"],
      "Best held-out loss": ["2.7500", "at step 3, from 3.2500"],
      "Parameters trained": ["1200", "4.00 % of 30.0k"],
      "Tokens per second": ["204", "median of the steps"],
      "Time of the steps": ["3.0 s", undefined],
    });
    expect(report.about).toBe("Fine-tuning of tiny by esft on cpu in f32: 20 examples, 4 held out.");
    expect(report.remarks).toEqual(["Step 0: rows were cut"]);
  });

  it("has speed, gradient norm, learning rate, accuracy and coverage over the steps", () => {
    expect(column(figureOf(report, "tokensPerSecond"), "tokensPerSecond")).toEqual([201, 202, 203, 204, 205, 206]);
    expect(column(figureOf(report, "gradNorm"), "gradNorm")[1]).toBe(0.5);
    expect(column(figureOf(report, "lr"), "lr")[5]).toBe(6 * 1e-5);
    expect(column(figureOf(report, "coverage"), "coverage")).toEqual(Array(6).fill(0.5));
    expect(figureOf(report, "balanceLoss")).toBeUndefined();
  });

  it("has its configuration, its answers and what happened", () => {
    expect(figureOf(report, "configuration").table.rows).toContainEqual({ key: "optimizer.lr", value: "0.00006" });
    expect(column(figureOf(report, "answers"), "answer")).toEqual(["rows were cut"]);
    expect(column(figureOf(report, "events"), "what")).toEqual(["begins, 6 steps", "rows were cut", "finished after 3.0 s"]);
  });
});

describe("a run that goes on, or was killed", () => {
  it("is told as not ended, and a last line that is being written is left out", async () => {
    const at = write(runEvents().slice(0, -1));
    appendFileSync(path.join(at, "events.jsonl"), '{"type":"step","st');
    const report = await readReport(at);
    expect(report.facts[0]).toMatchObject({ note: "of 6, not ended" });
    expect(report.remarks.at(-1)).toContain("The last line of events.jsonl is not whole");
    expect(column(figureOf(report, "loss"), "step")).toHaveLength(7);
  });

  it("has a report before its first step, and before it has begun", async () => {
    const first = await readReport(write(runEvents().slice(0, 1)));
    expect(first.sections.map((s) => s.title)).toEqual(["Configuration", "Events"]);
    expect((await readReport(write([]))).about).toBe("The run has not begun its first step.");
    const evaluated = await readReport(write(runEvents().slice(0, 3)));
    expect(column(figureOf(evaluated, "loss"), "heldOut")).toEqual([3.25]);
  });

  it("steps that are not finite leave a gap and a note", async () => {
    const report = await readReport(write([runEvents()[0]!, stepEvent(1), stepEvent(2, { gradNorm: null }), stepEvent(3)]));
    expect(column(figureOf(report, "gradNorm"), "gradNorm")).toEqual([1, null, 1 / 3]);
    expect(figureOf(report, "gradNorm").note).toBe("1 of 3 values were not finite: the line has gaps there.");
  });
});

it("a value that steps of one stage have alone is drawn over these, and losses that are not finite are told too", async () => {
  const none = { coverage: undefined };
  const steps = [stepEvent(1, none), stepEvent(2), stepEvent(3, { coverage: null, loss: null }), stepEvent(4, none)];
  const report = await readReport(write([...runEvents().slice(0, 3), ...steps]));
  expect(figureOf(report, "coverage").table.rows).toEqual([{ step: 2, coverage: 0.5 }, { step: 3, coverage: null }]); // prettier-ignore
  expect(figureOf(report, "coverage").note).toBe("1 of 2 values were not finite: the line has gaps there.");
  expect(figureOf(report, "loss").note).toBe("1 of 5 values were not finite: the line has gaps there.");
});

describe("a very long run", async () => {
  const n = 130_000;
  const steps = Array.from({ length: n }, (_, i) => stepEvent(i + 1, { steps: n, gradNorm: i === 5 ? null : 1 + (i % 2) }));
  const evals = Array.from({ length: 1300 }, (_, i) => ({ type: "eval", step: 100 * (i + 1), best: i === 3, loss: i, accuracy: 0.5, supervised: 4 })); // prettier-ignore
  const warnings = Array.from({ length: 500 }, (_, i) => ({ type: "warning", step: i, message: `${i}` }));
  const report = await readReport(write([runEvents()[0]!, ...steps, ...evals, ...warnings]));

  it("has lines of at most 600 points, evaluations too", () => {
    const norms = figureOf(report, "gradNorm");
    expect(norms.table.rows).toHaveLength(Math.ceil(n / 217));
    expect(norms.note).toBe("1 of 130000 values were not finite: the line has gaps there.");
    const held = figureOf(report, "loss").table.rows.filter((r) => r["heldOut"] !== undefined);
    expect(held).toHaveLength(434);
    expect(held.slice(0, 2)).toMatchObject([{ step: 300, heldOut: 1, best: null }, { step: 600, heldOut: 4, best: "best so far" }]); // prettier-ignore
    expect(figureOf(report, "loss").about).toContain("each point is the mean of 3 evaluations");
  });

  it("has its last events, and says that there are more", () => {
    const { note, table } = figureOf(report, "events");
    expect([table.rows.length, table.rows.at(-1)!["what"], note]).toEqual([200, "499", "The last 200 of 501."]);
    expect(report.remarks.at(-1)).toBe("… and 494 more warnings in events.jsonl.");
  });
});

it("a long run is shown by the means of stretches, under their last steps", async () => {
  const steps = Array.from({ length: 1500 }, (_, i) => stepEvent(i + 1, { steps: 1500, loss: i + 1 }));
  const loss = figureOf(await readReport(write([runEvents()[0]!, ...steps])), "loss");
  expect(loss.table.rows).toHaveLength(500);
  expect(loss.table.rows[0]).toEqual({ step: 3, loss: 2 });
  expect(loss.table.rows.at(-1)).toEqual({ step: 1500, loss: 1499 });
  expect(loss.about).toContain("each point is the mean of 3 steps");
});

describe("what is no run, or damaged", () => {
  it("a directory without a run", async () => {
    mkdirSync(path.join(dir, "empty"));
    await expect(readReport(path.join(dir, "empty"))).rejects.toThrow(
      /empty: expected the run directory of esft train, with events\.jsonl and request\.json, found neither/,
    );
    await expect(readReport(path.join(dir, "nowhere"))).rejects.toThrow(/cannot read .*nowhere: no such file/);
  });

  it.each([
    ["null", "null"],
    ["[1]", "a list"],
    ["3", "a number"],
  ])("a request.json of %s", async (text, found) => {
    // prettier-ignore
    const at = write();
    writeFileSync(path.join(at, "request.json"), text);
    const error = await readReport(at).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(LayoutError);
    expect(String(error)).toContain(`request.json: expected keys and values, found ${found}; the file is damaged`);
  });

  it("a line of the events that is none, by its number", async () => {
    const at = write();
    const file = path.join(at, "events.jsonl");
    const text = readFileSync(file, "utf8");
    writeFileSync(file, text.replace('{"type":"eval","step":3', '{"type":"ev'));
    await expect(readReport(at)).rejects.toThrow(/events\.jsonl, line 7: expected an event as JSON, found .*; the file is damaged/);
    writeFileSync(file, text.replace('"loss":2.9', '"loss":"low"'));
    await expect(readReport(at)).rejects.toThrow(/events\.jsonl, line 4: loss: .*expected number/);
    writeFileSync(file, text.replace('"type":"warning"', '"type":"warming"'));
    await expect(readReport(at)).rejects.toThrow(/events\.jsonl, line 2: type: /);
  });

  it("a request that was changed", async () => {
    const at = write();
    const file = path.join(at, "request.json");
    writeFileSync(file, readFileSync(file, "utf8").replace('"steps": 6', '"steps": 7'));
    await expect(readReport(at)).rejects.toThrow(/request\.json: expected sha256/);
  });

  it("options that are about something else, or unknown", async () => {
    const at = write();
    await expect(readReport(at, { p: 0.1 })).rejects.toThrow(/p is about profiles, and .* is a run; leave it out/);
    await expect(readReport([at, at])).rejects.toThrow(/expected one run, found 2/);
    await expect(readReport([])).rejects.toThrow(/found nothing/);
    await expect(readReport(at, { titel: "x" } as never)).rejects.toThrow(/expected the options title, .*, found titel/);
  });
});
