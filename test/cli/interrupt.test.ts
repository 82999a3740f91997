// Runs that are stopped from outside: SIGKILL at random moments and a resumed run end in the same bytes as an undisturbed one,
// on 1 and on 2 threads; SIGINT, SIGTERM and SIGHUP leave a checkpoint; a full disk leaves nothing half-written. No GPU.
// Alone: npx vitest run test/cli/interrupt.test.ts

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ShuffleRandom } from "../../lib/data/shuffle.ts";
import { Dataset, MoeModel } from "../../lib/index.ts";
import { keptStates } from "../../lib/train/checkpoint.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { cli, scratch, spawnCli, writeRows } from "./support.ts";

const root = scratch();
const seed = Number(process.env["ESFT_TEST_SEED"] ?? Date.now() % 2 ** 31);
console.log(`interrupt.test.ts: moments of seed ${seed} (again with ESFT_TEST_SEED=${seed})`);
const random = new ShuffleRandom(seed);
/** A whole number below n. */
const below = (n: number): number => random.below(n);
const at = (...parts: string[]): string => join(root, ...parts);
const STEPS = 60;
const FILES = ["adapter.safetensors", "adapter.json", "README.md"];

const job = (out: string, ...more: string[]): string[] => [
  "train", "--model", at("model"), "--data", at("rows.jsonl"), "--experts", at("c.json"), "--out", at(out),
  "--steps", String(STEPS), "--rows-per-step", "4", "--micro-batch", "2", "--max-length", "64", "--lr", "0.02", "--schedule", "cosine", "--save-every", "4", "--eval-every", "10", ...more,
]; // prettier-ignore

const stepsDone = (out: string): number => {
  if (!existsSync(at(out, "events.jsonl"))) return -1;
  const steps = [...readFileSync(at(out, "events.jsonl"), "utf8").matchAll(/^\{"type":"step","step":(\d+)/gm)];
  return steps.length === 0 ? 0 : Number(steps.at(-1)![1]);
};
async function until(condition: () => boolean, running: () => boolean): Promise<void> {
  while (!condition() && running()) await new Promise((r) => setTimeout(r, 5));
}
const newestState = async (out: string): Promise<string> => readFileSync(join((await keptStates(at(out)))[0]!.path, "run.json"), "utf8");
const sameFiles = (a: string, b: string): void => {
  for (const file of FILES) expect(readFileSync(at(a, file)).equals(readFileSync(at(b, file))), `${file} of ${a} and ${b}`).toBe(true);
};

beforeAll(async () => {
  await writeTinyModel(at("model"), tinyDeepseek);
  writeRows(at("rows.jsonl"), toyRows(120));
  writeFileSync(at("c.json"), JSON.stringify({ experts: { 1: [3, 0, 6], 2: [5, 2] }, shared_experts: false, non_expert_modules: false }));
  const { code, err } = await cli(job("straight", "--threads", "2"));
  if (code !== 0) throw new Error(err);
});

describe("interrupted runs", () => {
  it("1 thread gives the bits of 2 threads", async () => {
    expect((await cli(job("one", "--threads", "1"))).code).toBe(0);
    sameFiles("one", "straight");
  });

  it("killed at random moments and resumed, a run ends in the same bytes", async () => {
    for (let kill = 0, from = 0; kill < 3; kill++) {
      const target = from + 1 + below(STEPS / 3);
      const delay = below(20);
      const args =
        kill === 0
          ? job("killed")
          : existsSync(at("killed", "checkpoint"))
            ? ["resume", at("killed"), "--threads", String(1 + (kill % 2))]
            : job("killed", "--resume");
      const run = spawnCli(args);
      await until(() => stepsDone("killed") >= target, run.running);
      await new Promise((r) => setTimeout(r, delay));
      run.kill("SIGKILL");
      const { signal, code, err } = await run.done;
      expect([signal, code], err).toEqual(["SIGKILL", null]);
      from = Math.min(stepsDone("killed"), STEPS - 25);
    }
    const rest = await cli(existsSync(at("killed", "checkpoint")) ? ["resume", at("killed")] : job("killed", "--resume"));
    expect([rest.code, rest.err]).toEqual([0, expect.stringMatching(/going on from step \d+/)]);
    sameFiles("killed", "straight");
    expect(readdirSync(at("killed")).filter((f) => f.startsWith("."))).toEqual([]);
    // Resuming a finished run changes nothing.
    expect((await cli(["resume", at("killed")])).code).toBe(0);
    sameFiles("killed", "straight");
  });

  it.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const)("%s writes a checkpoint and exits with %i", async (signal, exit) => {
    const run = spawnCli(job(signal));
    await until(() => stepsDone(signal) >= 5, run.running);
    run.kill(signal);
    if (signal === "SIGHUP") run.kill(signal); // a terminal that closes may send it twice
    const { code, err, out } = await run.done;
    expect([code, err]).toEqual([exit, expect.stringMatching(/checkpoint at step \d+ in .*go on with: esft resume/)]);
    expect(out).toBe("");
    const { step } = JSON.parse(await newestState(signal));
    expect(step).toBe(stepsDone(signal));
    expect(step).toBeLessThan(STEPS);
    expect(existsSync(at(signal, "adapter.json"))).toBe(false);
    expect((await cli(["resume", at(signal), "--json"])).code).toBe(0);
    sameFiles(signal, "straight");
  });

  it("the checkpoint is written though nobody reads what a signalled run says", async () => {
    const run = spawnCli(job("deaf", "--eval-every", "0"));
    await until(() => stepsDone("deaf") >= 5, run.running);
    run.hangUp();
    run.kill("SIGHUP");
    expect((await run.done).code).toBe(129);
    expect(JSON.parse(await newestState("deaf")).step).toBe(stepsDone("deaf"));
  });

  it("refuses to resume with another base or other data", async () => {
    const stop = new AbortController();
    await cli(job("moved"), { signal: stop.signal, onErr: (text) => text.startsWith("step 1/") && stop.abort(new Error("interrupted")) });
    await writeTinyModel(at("other"), tinyDeepseek, { seed: 9 });
    expect((await cli(["resume", at("moved"), "--model", at("other")])).err).toMatch(/ERR_CONFIG.*other options, data or base model/);
    writeRows(at("other.jsonl"), toyRows(120, 5));
    expect((await cli(["resume", at("moved"), "--data", at("other.jsonl")])).err).toMatch(/ERR_CONFIG/);
    // The refused attempts left the request as it was.
    expect((await cli(["resume", at("moved")])).code).toBe(0);
    sameFiles("moved", "straight");
  });
});

it("says that a run over rows in memory cannot be resumed from the command line", async () => {
  using model = await MoeModel.fromPretrained(at("model"));
  await model.train({
    data: { rows: Dataset.fromRows(toyRows(20)), maxLength: 64 },
    method: { type: "esft", experts: at("c.json") },
    outDir: at("memory"),
    steps: 1,
    rowsPerStep: 1,
  }).result;
  expect((await cli(["resume", at("memory")])).err).toMatch(/ERR_CONFIG.*the rows of this run came from memory/);
});

const disk = at("disk");
const mounted = process.getuid?.() === 0 && tryMount();
function tryMount(): boolean {
  mkdirSync(disk, { recursive: true });
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=160k", "tmpfs", disk], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}
afterAll(() => {
  if (mounted) execFileSync("umount", ["-l", disk]);
});

describe.skipIf(!mounted)("a full disk (skipped where no small file system can be mounted)", () => {
  it("train, merge and profile say what was needed and leave nothing half-written", async () => {
    const train = await cli(job("disk/run"));
    expect([train.code, train.err]).toEqual([
      1,
      expect.stringMatching(/error \[ERR_IO\]: cannot write .*the disk is full: needs \d+ bytes, \d+ bytes free/),
    ]);
    expect(existsSync(at("disk/run/checkpoint"))).toBe(false);
    expect(existsSync(at("disk/run/adapter.json"))).toBe(false);
    const merge = await cli(["merge", at("model"), "--adapter", at("straight"), "-o", at("disk/merged")]);
    expect([merge.code, merge.err]).toEqual([1, expect.stringMatching(/ERR_IO.*disk is full/)]);
    expect(existsSync(at("disk/merged"))).toBe(false);
    writeFileSync(at("disk/fill"), Buffer.alloc(200_000).subarray(0, 120_000));
    const leftovers = readdirSync(disk, { recursive: true }).filter((f) => String(f).includes(".tmp-"));
    expect(leftovers).toEqual([]);
  });
});
