// Evaluation by answers on the embedded model and its booking task: questions are what training encodes, scores, files that go on to the
// same bytes, refusals. No GPU. Alone: npx vitest run test/answers/evaluate_answers.test.ts

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { questionsOf } from "../../lib/answers/questions.ts";
import { Dataset, evaluateAnswers, MoeModel, readAnswers } from "../../lib/index.ts";
import { embedded, trainBooking } from "../support/embedded.ts";

let root: string;
let model: MoeModel;
const at = (name: string): string => join(root, name);
const booking = join(embedded, "data/booking.test.jsonl");
const options = { metrics: "exact,json,rouge-l", rows: 40, maxTokens: 12 } as const;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-evaluate-"));
  model = await MoeModel.fromPretrained(embedded, { threads: 2 });
});
afterAll(async () => {
  model.dispose();
  await rm(root, { recursive: true, force: true });
});

describe("questions", () => {
  const ask = async (rows: readonly unknown[], more: { onBadRow?: "skip"; maxTokens?: number; template?: "esft" } = {}) => {
    const { onBadRow, maxTokens = 1000, ...rest } = more;
    return questionsOf(Dataset.fromRows(rows, { onBadRow }), { tokenizer: await model.tokenizer(), maxTokens, ...rest });
  };
  const shown = async (prompt: Int32Array): Promise<string> => (await model.tokenizer()).decode(prompt);

  it("are all before the last trained answer", async () => {
    const messages = [
      { role: "user", content: "a" },
      { role: "assistant", content: "b" },
      { role: "user", content: "c" },
      { role: "assistant", content: "d" },
      { role: "user", content: "e" },
      { role: "assistant", content: "f", train: false },
    ];
    const { questions } = await ask([{ messages, id: 7 }]);
    expect(await shown(questions[0]!.prompt)).toMatch(/<\|user\|>a<\|end\|><\|assistant\|>b<\|end\|><\|user\|>c<\|end\|><\|assistant\|>$/);
    expect(questions[0]).toMatchObject({ place: "row 1", references: ["d"], continues: false, row: { id: 7 } });
  });

  it("of the official evaluation files are texts that go on", async () => {
    const { questions } = await ask([{ idx: 0, prompt: "User: x\n\nAssistant:", raw_answers: ["1"], answers: ["1", "2"] }]);
    expect(await shown(questions[0]!.prompt)).toMatch(/User: x\n\nAssistant:$/);
    expect(questions[0]).toMatchObject({ references: ["1", "2"], continues: true });
  });

  it("that cannot be asked are refused with their place, or left out and counted", async () => {
    const good = { prompt: "a", completion: "b" };
    for (const [bad, says] of [
      [{ prompt: "a", answers: [] }, /row 2: .*at least one/],
      [{ prompt: 1, answers: ["b"] }, /row 2: prompt: .*string/],
      [{ text: "a" }, /row 2: no messages/],
      [{ prompt: "a ".repeat(60), completion: "b" }, /row 2: the question has \d+ tokens, the model takes 50/],
    ] as const) {
      await expect(ask([good, bad], { maxTokens: 50 })).rejects.toThrow(says);
      const { questions, bad: left } = await ask([good, bad, good], { maxTokens: 50, onBadRow: "skip" });
      expect([questions.length, left]).toEqual([2, 1]);
    }
    await expect(ask([{ text: "a" }], { onBadRow: "skip" })).rejects.toThrow(/no usable row/);
  });
});

describe("an evaluation", () => {
  it("scores what the model answers alone, greedily, and is higher after training", async () => {
    const base = await evaluateAnswers(model, booking, { ...options, rows: 3, maxTokens: 40 });
    expect(base).toMatchObject({ rows: 3, bad: 0, scores: { exact: 0 } });
    const { messages } = JSON.parse((await readFile(booking, "utf8")).split("\n")[1]!) as { messages: { role: string; content: string }[] };
    const alone = await model.chat(messages.slice(0, -1), { maxTokens: 40 }).result();
    expect(base.answers[1]).toMatchObject({ row: 1, answer: alone.text, references: [messages.at(-1)!.content], tokens: alone.ids.length });
    await setImmediate();
    await trainBooking(model, at("run"));
    await model.adapters.add("booking", at("run"));
    const tuned = await evaluateAnswers(model, booking, { ...options, rows: 3, maxTokens: 60, adapter: "booking" });
    expect(tuned.scores["rouge-l"]).toBeGreaterThan(base.scores["rouge-l"]! + 0.2);
    expect((await evaluateAnswers(model, booking, { ...options, rows: 3, maxTokens: 40 })).answers).toEqual(base.answers);
  });

  it("that is aborted goes on to the same bytes", async () => {
    const whole = await evaluateAnswers(model, booking, { ...options, file: at("whole.jsonl") });
    const bytes = await readFile(at("whole.jsonl"));
    expect((await readAnswers(at("whole.jsonl"))).rows).toEqual(whole.answers);
    const file = at("cut.jsonl");
    for (const after of [1, 17]) {
      const stop = new AbortController();
      const run = evaluateAnswers(
        model,
        booking,
        { ...options, file },
        { signal: stop.signal, onProgress: ({ done }) => void (done >= after && stop.abort()) },
      );
      await expect(run).rejects.toMatchObject({ code: "ERR_ABORTED" });
    }
    const kept = (await readAnswers(file)).rows.length;
    expect(kept).toBeLessThan(40);
    const seen: number[] = [];
    const rest = await evaluateAnswers(model, booking, { ...options, file }, { onProgress: ({ done }) => void seen.push(done) });
    expect(seen[0]).toBe(kept);
    expect(await readFile(file)).toEqual(bytes);
    expect(rest).toEqual(whole);
    await evaluateAnswers(model, booking, { ...options, file }); // finished: nothing is asked again
    await expect(evaluateAnswers(model, booking, { ...options, file, maxTokens: 13 })).rejects.toThrow(
      /another evaluation: options.maxTokens/,
    );
    await expect(evaluateAnswers(model, booking, { ...options, file, rows: 39 })).rejects.toThrow(/another evaluation/);
  });

  it("takes metrics of users, with the row", async () => {
    const metric = at("length.mjs");
    await writeFile(metric, "export const score = ({ answer, references, row }) => references[0].length + row.messages.length;");
    const { scores, answers } = await evaluateAnswers(model, booking, { ...options, metrics: [metric], rows: 2 });
    expect(scores[metric]).toBe(answers.reduce((n, a) => n + a.references[0]!.length + 2, 0) / 2);
  });

  it("refuses before the first answer", async () => {
    const rows = Dataset.fromRows([{ prompt: "a", completion: "b" }]);
    const run = (more: object) => evaluateAnswers(model, rows, { metrics: "exact", maxTokens: 2, ...more });
    await expect(run({ metrics: "exakt" })).rejects.toThrow(/did you mean exact/);
    await expect(run({ metrics: "json" })).rejects.toThrow(/row 1: /);
    await expect(run({ topP: 0.5 })).rejects.toThrow(/evaluateAnswers.topP/);
    await expect(run({ adapter: "nobody" })).rejects.toThrow(/no adapter "nobody"/);
    await expect(run({ maxToken: 3 })).rejects.toThrow(/did you mean "maxTokens"/);
    await expect(evaluateAnswers(model, 5 as never, { metrics: "exact" })).rejects.toThrow(/expected a file/);
    await model.applyAdapter(at("run"));
    await expect(run({ file: at("applied.jsonl") })).rejects.toThrow(/adapter is applied/);
    model.removeAdapter();
  });
});
