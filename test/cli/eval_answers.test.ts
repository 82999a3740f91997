// esft eval --metric on the embedded model: base and adapter side by side, files of answers that go on after a kill, refusals. No GPU.
// Alone: npx vitest run test/cli/eval_answers.test.ts

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, it } from "vitest";
import { MoeModel } from "../../lib/index.ts";
import { embedded, trainBooking } from "../support/embedded.ts";
import { cli, scratch, spawnCli } from "./support.ts";

const root = scratch();
const at = (name: string): string => join(root, name);
const data = join(embedded, "data/booking.test.jsonl");
const evaluate = (...more: string[]): string[] => ["eval", embedded, "--device", "cpu", "--data", data, "--metric", "exact,rouge-l,bleu", ...more]; // prettier-ignore

beforeAll(async () => {
  await using model = await MoeModel.fromPretrained(embedded, { threads: 2 });
  await trainBooking(model, at("run"));
});

it("shows base and adapter side by side, and writes the answers of each", async () => {
  const args = evaluate("--adapter", at("run"), "--rows", "4", "--max-tokens", "60", "--answers", at("a.jsonl"));
  const { code, out } = await cli(args);
  expect([code, out]).toEqual([0, expect.stringMatching(/rows +metric +base +adapter +change\n/)]);
  const [, base, adapter] = /rouge-l +([\d.]+) % +([\d.]+) % +\+/.exec(out)!;
  expect(Number(adapter)).toBeGreaterThan(Number(base) + 20);
  const lines = (side: string): number => readFileSync(at(`a.${side}.jsonl`), "utf8").trim().split("\n").length; // prettier-ignore
  expect([lines("base"), lines("adapter")]).toEqual([5, 5]);
  const again = JSON.parse((await cli([...args, "--json"])).out) as { results: { base: object; adapter: object }[] };
  expect(again.results[0]).toMatchObject({ data, base: { rows: 4, bad: 0, answers: at("a.base.jsonl") }, adapter: { rows: 4 } });
});

it("killed and started again it ends in the same bytes", async () => {
  const args = (file: string): string[] => evaluate("--max-tokens", "24", "--answers", at(file));
  const killed = spawnCli(args("killed.jsonl"));
  const begun = (): boolean => existsSync(at("killed.jsonl")) && readFileSync(at("killed.jsonl")).filter((b) => b === 10).length > 3;
  while (!begun() && killed.running()) await new Promise((r) => setTimeout(r, 2));
  killed.kill("SIGKILL");
  expect((await killed.done).signal).toBe("SIGKILL");
  expect((await cli(args("killed.jsonl"))).code).toBe(0);
  expect((await cli(args("whole.jsonl"))).code).toBe(0);
  expect(readFileSync(at("killed.jsonl")).equals(readFileSync(at("whole.jsonl")))).toBe(true);
  const { code, err } = await cli([...args("whole.jsonl"), "--seed", "2"]);
  expect([code, err]).toEqual([1, expect.stringMatching(/ERR_CONFIG.*another evaluation: options.seed 1 → 2/)]);
});

it.each([
  [["eval", embedded, "--data", data, "--temperature", "1"], 2, /--temperature is of answers, it goes with --metric/],
  [evaluate("--batch-tokens", "8"), 2, /--batch-tokens is of the loss/],
  [evaluate("--metric", "exakt"), 1, /did you mean exact/],
  [evaluate("--data", data, data, "--answers", at("b.jsonl")), 1, /two files of data have the name booking/],
] as const)("%j is refused", async (args, exit, says) => {
  const { code, err } = await cli(args);
  expect([code, err]).toEqual([exit, expect.stringMatching(says)]);
});
