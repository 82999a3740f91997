// The crash matrix: commands whose process dies, whose disk fills or breaks, at every operation of the disk. What is there afterwards is
// the old state or the new one, a reader and a rerun find nothing in between, and the next success leaves nothing behind. Each operation
// meets one of the faults in turn; ESFT_TEST_CRASHES=all has every operation meet each of them (minutes). No GPU.
// Alone: npx vitest run test/files/crash_matrix.test.ts

import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { isAdapterDir } from "../../lib/adapter/folder.ts";
import { runCli } from "../../lib/cli/program.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { Profile } from "../../lib/experts/profile.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { keptStates, verifyState } from "../../lib/train/checkpoint.ts";
import { tinyOlmoe, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { everyPoint, FAULTS, leftovers, withoutFsync } from "../support/faulty_disk.ts";

withoutFsync();
const root = mkdtempSync(join(tmpdir(), "esft-crashes-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const at = (...parts: string[]): string => join(root, ...parts);
const every = process.env["ESFT_TEST_CRASHES"] === "all";

async function cli(...args: string[]): Promise<void> {
  let err = "";
  const silent = (text: string): void => void (err += text);
  const code = await runCli([...args, "--threads", "1"].slice(0, args[0] === "select" ? args.length : undefined), {
    out: () => undefined,
    err: silent,
    interactive: false,
    signal: new AbortController().signal,
  });
  if (code !== 0) throw new Error(err);
}
const profile = (out: string, tokens: number): Promise<void> =>
  cli("profile", at("model"), at("rows.jsonl"), "-o", at(out), "--tokens", String(tokens));
const select = (out: string, p: number): Promise<void> => cli("select", at("profile.json"), "--p", String(p), "-o", at(out));
const train = (out: string, ...more: string[]): Promise<void> =>
  cli(
    "train", "--model", at("model"), "--data", at("rows.jsonl"), "--experts", at("experts.json"), "--out", at(out), "--steps", "5",
    "--rows-per-step", "2", "--max-length", "64", "--lr", "0.05", "--save-every", "2", "--eval-every", "2", ...more,
  ); // prettier-ignore
const merge = (out: string): Promise<void> =>
  cli("merge", at("model"), "--adapter", at("run"), "-o", at(out), "--overwrite", "--no-logits");

/** Every file below a place, with its bytes. */
function contents(place: string): Record<string, string> {
  if (!existsSync(place)) return {};
  if (!statSync(place).isDirectory()) return { "": readFileSync(place, "latin1") };
  const names = readdirSync(place, { recursive: true }).map(String);
  return Object.fromEntries(names.filter((n) => statSync(join(place, n)).isFile()).map((n) => [n, readFileSync(join(place, n), "latin1")]));
}

beforeAll(async () => {
  await writeTinyModel(at("model"), { ...tinyOlmoe, vocab_size: 2048 });
  await writeTinyModel(at("other"), tinyOlmoe, { seed: 5 });
  writeFileSync(at("rows.jsonl"), toyRows(24).map((r) => `${JSON.stringify(r)}\n`).join("")); // prettier-ignore
  await profile("profile.json", 300);
  await select("experts.json", 0.5);
  await train("run");
});

/** All faults, each at a share of the operations: together they meet every one, or with `all` each meets every one. */
async function matrix(
  stride: number,
  arrange: () => Promise<void>,
  work: () => Promise<unknown>,
  judge: (point: string, error: unknown) => Promise<void>,
): Promise<number> {
  let points = 0;
  for (const [i, fault] of FAULTS.entries()) {
    const step = every ? 1 : fault.endsWith("write") ? Math.ceil(stride / 6) : stride; // few operations are writes
    points += await everyPoint(fault, arrange, work, judge, { first: i % step, stride: step });
  }
  return points;
}

describe.each([
  [
    "profile",
    (out: string): Promise<void> => profile(out, 300),
    (out: string): Promise<void> => profile(out, 200),
    async (out: string): Promise<void> => void (await Profile.load(at(out))),
  ],
  [
    "select",
    (out: string): Promise<void> => select(out, 0.5),
    (out: string): Promise<void> => select(out, 0.1),
    async (out: string): Promise<void> => void (await ExpertSet.load(at(out))),
  ],
] as const)("%s", (name, write, before, read) => {
  it.each(["a new file", "a file in the place of another"])("%s", async (kind) => {
    const out = `${name}-out`;
    await before(out);
    const old = kind === "a new file" ? {} : contents(at(out));
    await write(out);
    const wanted = contents(at(out));
    const points = await matrix(
      1,
      async () => {
        rmSync(at(out), { force: true });
        if ("" in old) writeFileSync(at(out), old[""]!, "latin1");
      },
      () => write(out),
      async (point, error) => {
        expect([old, wanted], point).toContainEqual(contents(at(out)));
        if (error === null) expect(contents(at(out)), point).toEqual(wanted);
        if (existsSync(at(out))) await read(out);
        await write(out);
        expect(contents(at(out)), point).toEqual(wanted);
        expect((await leftovers(root)).filter((n) => n.includes(out)), point).toEqual([]);
      },
    ); // prettier-ignore
    expect(points).toBeGreaterThan(25);
  });
});

it.each(["a new model", "a model in the place of another"])(
  "merge: %s",
  async (kind) => {
    const out = "merged";
    const old = kind === "a new model" ? {} : contents(at("other"));
    await merge("merged-whole");
    const wanted = contents(at("merged-whole"));
    const points = await matrix(
      8,
      async () => {
        rmSync(at(out), { recursive: true, force: true });
        if (kind !== "a new model") cpSync(at("other"), at(out), { recursive: true });
      },
      () => merge(out),
      async (point, error) => {
        if (kind !== "a new model" || existsSync(at(`.${out}.next`))) await openCheckpoint(at(out)); // whole, for a reader
        const found = contents(at(out));
        expect([old, wanted], point).toContainEqual(found);
        if (error === null) expect(found, point).toEqual(wanted);
        await merge(out);
        expect(contents(at(out)), point).toEqual(wanted);
        expect(
          (await leftovers(root)).filter((n) => n.includes(out)),
          point,
        ).toEqual([]);
      },
    );
    expect(points).toBeGreaterThan(30);
  },
  every ? 3_600_000 : 300_000,
);

it(
  "train: saves, best adapters and the delivery",
  async () => {
    const out = "trained";
    const files = ["adapter.safetensors", "adapter.json", "README.md"];
    const points = await matrix(
      60,
      async () => rmSync(at(out), { recursive: true, force: true }),
      () => train(out),
      async (point) => {
        for (const kept of await keptStates(at(out))) await verifyState(kept);
        if (await isAdapterDir(at(out))) await Adapter.load(at(out));
        await train(out, "--resume");
        for (const file of files) expect(readFileSync(at(out, file)).equals(readFileSync(at("run", file))), `${file}, ${point}`).toBe(true);
        for (const kept of await keptStates(at(out))) await verifyState(kept);
        expect(await leftovers(at(out)), point).toEqual([]);
        const log = readFileSync(at(out, "events.jsonl"), "utf8").trim().split("\n").map((l) => JSON.parse(l) as { type: string; step: number }); // prettier-ignore
        expect(log.flatMap((e) => (e.type === "step" ? [e.step] : [])), point).toEqual([1, 2, 3, 4, 5]); // prettier-ignore
      },
    );
    expect(points).toBeGreaterThan(20);
  },
  every ? 3_600_000 : 300_000,
);
