// The guard against forgetting: short forms, losses beside those before the first update, warnings, an end, and the same run wherever it
// was interrupted. No GPU. Alone: npx vitest run test/train/guard.test.ts

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import { readReport } from "../../lib/report/report.ts";
import { messagesOf } from "../../lib/report/tensorboard.ts";
import { CheckedRequest } from "../../lib/train/request.ts";
import { cli } from "../cli/support.ts";
import { tempDir } from "../support/fixture.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { loggedEvents, runUntil } from "../support/training_run.ts";

const root = tempDir();
const at = (...names: string[]): string => join(root, ...names);
const jsonl = (file: string, rows: readonly unknown[]): void => writeFileSync(at(file), rows.map((r) => JSON.stringify(r)).join("\n"));
beforeAll(async () => {
  await writeTinyModel(at("model"), tinyDeepseek);
  jsonl("rows.jsonl", toyRows(60));
  jsonl("a.jsonl", toyRows(12, 7));
  jsonl("b.jsonl", toyRows(9, 8));
  // What training on sums makes less likely.
  jsonl("other.jsonl", toyRows(9, 8).map(({ messages: [user] }) => ({ messages: [user, { role: "assistant", content: "Quick XYZ jumps? KLM!" }] }))); // prettier-ignore
});

describe("what is guarded", () => {
  const parse = (guard: unknown) =>
    CheckedRequest.parse({ data: "d", method: "full", outDir: "o", guard } as unknown as TrainRequest).guard;
  const files = [{ name: "law", file: "x/law.jsonl" }, { name: "general", file: "y=z.json" }]; // prettier-ignore
  it("is a list, a text, or an object with one of them", () => {
    const rule = { every: 100, maxRise: 0.1, stop: false };
    const text = "law=x/law.jsonl, general=y=z.json";
    for (const guard of [files, text, { files }, { files: text }]) expect(parse(guard)).toEqual({ files, ...rule });
    expect(parse("x/law.jsonl,general.v2.csv")!.files.map((f) => f.name)).toEqual(["law", "general"]);
    expect(parse({ files, every: 5, stop: true })).toEqual({ files, ...rule, every: 5, stop: true });
    const rows = Dataset.fromRows(toyRows(3));
    expect(parse([{ name: "r", file: rows }])!.files[0]!.file).toBe(rows);
    expect(parse(undefined)).toBeNull();
  });
  it.each([
    [[], /^train\.guard\.files: expected at least one file/],
    [{ every: 3 }, /^train\.guard\.files: expected a list of \{name, file\}/],
    [{ files, every: 0 }, /^train\.guard\.every: expected a number >= 1, found 0/],
    [{ files, maxRise: -1 }, /^train\.guard\.maxRise: expected a number >= 0, found -1/],
    [[files[0], files[0]], /^train\.guard\.files\.1\.name: expected a name of its own, found "law"/],
    [[{ name: "x" }], /^train\.guard\.files\.0\.file: expected a file, a Dataset or Examples, found nothing/],
    [{ files, evry: 3 }, /^train\.guard: unknown key "evry"; did you mean "every"/],
  ])("%j is refused", (guard, message) => expect(() => parse(guard)).toThrow(message));
});

const experts = new ExpertSet({ layers: [[1, { ranked: [0, 3] }], [2, { ranked: [5] }]] }); // prettier-ignore
const guard = { files: [{ name: "a", file: "" }, { name: "b", file: "" }], every: 4, maxRise: 1e9 }; // prettier-ignore
async function train(outDir: string, more: Partial<TrainRequest> = {}, stopAt?: (e: TrainEvent) => boolean, threads = 2) {
  using model = await MoeModel.fromPretrained(at("model"), { threads });
  const { result, events } = await runUntil(
    model,
    {
      data: { file: at("rows.jsonl"), maxLength: 64 },
      method: { type: "esft", experts },
      outDir: at(outDir),
      steps: 10,
      rowsPerStep: 4,
      evalEvery: 5,
      evalFraction: 0.1,
      saveEvery: 3,
      keep: "last",
      optimizer: { lr: 0.1, clipNorm: 0 },
      guard: guarded({}),
      resume: true,
      ...more,
    },
    stopAt,
  );
  return { result, events, looks: looksOf(events), warnings: events.filter((e) => e.type === "warning") };
}
const guarded = (more: Partial<typeof guard & { stop: boolean }>) => ({ ...guard, files: guard.files.map(({ name }) => ({ name, file: at(`${name}.jsonl`) })), ...more }); // prettier-ignore
const looksOf = (events: readonly TrainEvent[]) => events.flatMap((e) => (e.type === "guard" ? [e] : []));
const logged = (outDir: string): TrainEvent[] => loggedEvents(at(outDir));
const figures = (outDir: string) => logged(outDir).flatMap((e) => (e.type === "guard" ? [[e.step, e.files]] : []));
const adapter = (outDir: string, file = "adapter.safetensors"): Buffer => readFileSync(at(outDir, file));

describe("a run", () => {
  it("takes the losses before the first update, every so many, and at the end, and is else the run without", async () => {
    const { looks, warnings } = await train("whole");
    expect(looks.map((e) => e.step)).toEqual([0, 4, 8, 10]);
    expect(warnings).toEqual([]);
    // The figures are those of an evaluation.
    using model = await MoeModel.fromPretrained(at("model"), { threads: 1 });
    const measured: number[] = [];
    for (const file of ["a.jsonl", "b.jsonl"]) measured.push((await model.evaluate(at(file), { maxLength: 64 })).loss);
    looks[0]!.files.forEach(({ name, loss, rise, over }, i) => {
      expect([name, rise, over]).toEqual(["ab"[i], 0, false]);
      expect(loss).toBeCloseTo(measured[i]!, 5);
    });
    for (const { files } of looks) files.forEach(({ loss, rise }, i) => expect(rise).toBe(loss - looks[0]!.files[i]!.loss));
    expect(looks.at(-1)!.files.some((f) => f.rise !== 0)).toBe(true);
    await model.applyAdapter(at("whole"));
    for (const [i, file] of ["a.jsonl", "b.jsonl"].entries())
      expect(looks.at(-1)!.files[i]!.loss).toBeCloseTo((await model.evaluate(at(file), { maxLength: 64 })).loss, 1);
    await train("without", { guard: undefined });
    for (const file of ["adapter.safetensors", "adapter.json"]) expect(adapter("whole", file).equals(adapter("without", file))).toBe(true);
  });

  it("interrupted anywhere, on other numbers of threads, measures and ends the same", async () => {
    const moments: ((e: TrainEvent) => boolean)[] = [
      (e) => e.type === "start",
      (e) => e.type === "eval" && e.step === 0, // before the first look
      (e) => e.type === "guard" && e.step === 0,
      (e) => e.type === "step" && e.step === 4, // before the second
      (e) => e.type === "guard" && e.step === 4,
      (e) => e.type === "eval" && e.step === 10, // before the last
    ];
    for (const [i, when] of moments.entries()) {
      expect((await train(`cut-${i}`, {}, when)).result.reason).toBe("interrupted");
      expect((await train(`cut-${i}`, {}, undefined, 1 + (i % 3))).result.reason).toBe("finished");
      expect(adapter(`cut-${i}`).equals(adapter("whole"))).toBe(true);
      expect(figures(`cut-${i}`), `cut-${i}`).toEqual(figures("whole"));
    }
  });

  const full = { method: "full", optimizer: { lr: 0.05 }, rowsPerStep: 8 } as const;
  const two = () => [{ name: "a", file: at("a.jsonl") }, { name: "other", file: at("other.jsonl") }]; // prettier-ignore
  it("warns when a loss has risen by more than it may, and goes on", async () => {
    const { looks, warnings, result } = await train("warned", { ...full, guard: guarded({ files: two(), maxRise: 0.01 }) });
    const risen = looks.filter((e) => e.files.some((f) => f.rise > 0.01));
    expect(risen.length).toBeGreaterThan(0);
    expect(warnings.map((w) => w.step)).toEqual(risen.map((e) => e.step));
    const { name, rise, loss } = risen[0]!.files.find((f) => f.over)!;
    expect(warnings[0]!.message).toContain(`the loss rose on ${name} by ${rise.toFixed(4)} to ${loss.toFixed(4)}`);
    expect(warnings[0]!.message).toMatch(/since before the first update, by more than 0\.01 \(guard\.maxRise\)$/);
    expect(result).toMatchObject({ reason: "finished", step: 10, stopped: null });
  });

  it("ends there where it is to stop, finished; resumed it stays there, and goes on without", async () => {
    const first = looksOf(logged("warned")).find((e) => e.files.some((f) => f.over))!.step;
    const rule = { ...full, steps: 20, guard: guarded({ files: two(), maxRise: 0.01, stop: true }) };
    const { result, events, warnings } = await train("stopped", rule);
    const message = warnings[0]!.message.replace(/^step \d+: /, "");
    expect(result).toMatchObject({ reason: "finished", step: first, stopped: { by: "guard", message } });
    expect(events.at(-1)).toMatchObject({ type: "done", step: first, reason: "guard", message });
    expect(result.adapter!.training!["stopped"]).toEqual({ by: "guard", message });
    // Before its end, while it looks, and after it.
    for (const [out, when] of [
      ["s-1", (e) => e.type === "step" && e.step === first],
      ["s-2", (e) => e.type === "guard" && e.step === first],
    ] as [string, (e: TrainEvent) => boolean][]) {
      // prettier-ignore
      await train(out, rule, when);
      expect((await train(out, rule)).result).toMatchObject({ reason: "finished", step: first, stopped: { by: "guard" } });
      for (const file of ["adapter.safetensors", "adapter.json"]) expect(adapter(out, file).equals(adapter("stopped", file))).toBe(true);
    }
    const again = await train("stopped", rule);
    expect([again.result.step, again.looks]).toEqual([first, []]);
    cpSync(at("stopped"), at("on"), { recursive: true });
    const on = await train("on", { ...rule, guard: guarded({ files: two(), maxRise: 0.01, every: 5 }) });
    expect(on.result).toMatchObject({ step: 20, stopped: null });
  });

  it("that goes on is guarded by what was measured before its first update alone", async () => {
    await train("plain", { guard: undefined }, (e) => e.type === "step" && e.step === 4);
    await expect(train("plain")).rejects.toThrow(/^train\.guard: expected a run that had it before its first update, found none/);
    await train("known", {}, (e) => e.type === "step" && e.step === 5);
    const other = guarded({ files: [{ name: "c", file: at("a.jsonl") }] });
    await expect(train("known", { guard: other })).rejects.toThrow(/^train\.guard\.files\.0: expected one of a, b, found "c"/);
    const rows = guarded({ files: [{ name: "a", file: at("b.jsonl") }] });
    await expect(train("known", { guard: rows })).rejects.toThrow(/files\.0: expected the rows that "a" had before the first update, found others/);
    const { looks } = await train("known", { guard: guarded({ files: [{ name: "b", file: at("b.jsonl") }] }) });
    expect(looks.at(-1)!.files.map((f) => [f.name, f.loss])).toEqual([["b", looksOf(logged("whole")).at(-1)!.files[1]!.loss]]);
  }); // prettier-ignore
});

describe("what is told", () => {
  it("on the command line, in its report and for TensorBoard", async () => {
    const flags = ["--max-length", "64", "--rows-per-step", "4", "--lr", "1e-3", "--method", "full", "--steps", "2", "--guard-every", "1"];
    const files = `a=${at("a.jsonl")},${at("b.jsonl")}`;
    const { code, err } = await cli(["train", "--model", at("model"), "--data", at("rows.jsonl"), ...flags, "--guard", files, "--out", at("told")]);
    expect(code).toBe(0);
    expect(err).toMatch(/^step 0: guard: a \d\.\d{4} \(\+0\.0000\), b \d\.\d{4} \(\+0\.0000\)$/m);
    expect(err).toMatch(/^step 2: guard: a \d\.\d{4} \([+-]\d\.\d{4}\), b /m);
    const request = JSON.parse(readFileSync(at("told/request.json"), "utf8")) as { guard: unknown };
    expect(request.guard).toMatchObject({ files: [{ name: "a", file: at("a.jsonl") }, { name: "b", file: at("b.jsonl") }], every: 1 });
    expect((await cli(["resume", at("told"), "--guard-stop", "true", "--max-rise", "5"])).code).toBe(0);
    const looks = looksOf(logged("told"));
    const { sections } = await readReport(at("told"));
    const [figure] = sections.find((s) => s.title === "What is not to be forgotten")!.figures;
    expect(figure!.table.rows).toEqual(looks.flatMap((e) => e.files.map(({ name, loss, rise }) => ({ step: e.step, name, loss, rise }))));
    expect(figure!.chart).not.toBeNull();
    const [message] = messagesOf(looks[0]!, 1);
    expect(Buffer.from(message!).toString("latin1")).toMatch(/guard\/a[^]*guard\/b/);
  }); // prettier-ignore

  it("of rows from memory a directory alone cannot go on", async () => {
    await train("memory", { guard: [{ name: "m", file: Dataset.fromRows(toyRows(5, 3)) }], steps: 1 });
    expect((await cli(["resume", at("memory")])).err).toMatch(/the rows of this run came from memory/);
  });
});
