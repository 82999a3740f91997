// Models and adapters of the hub on the command line.

import { lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { beforeEach, describe, expect, it } from "vitest";
import { downloadLine, Rate } from "../../lib/cli/hub.ts";
import { cli, spawnCli, writeRows } from "../cli/support.ts";
import { tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";
import { COMMIT, hashOf, withHub } from "./fake_hub.ts";

const here = withHub();
const ID = "tiny/olmoe";
const repo = (...names: string[]): string => here.at("hub", "models--tiny--olmoe", ...names);
const snapshot = (): string => repo("snapshots", COMMIT);
const weights = (): string => hashOf("model.safetensors", here.hub.models.get(ID)!.files.get("model.safetensors")!);
const fetchedOfCdn = (): number => here.hub.asked.filter(({ host }) => host === "cdn").length;

beforeEach(async () => {
  await writeTinyModel(here.at("source"), tinyOlmoe);
  here.hub.add(ID, here.at("source"));
});

/** A command line that must succeed. */
async function run(...args: string[]): Promise<string> {
  const { code, out, err } = await cli(args);
  expect({ code, err: code === 0 ? "" : err }).toEqual({ code: 0, err: "" });
  return out;
}

describe("esft pull", () => {
  it("fetches, and prints where it lies", async () => {
    const { code, out, err } = await cli(["pull", ID]);
    expect({ code, out }).toEqual({ code: 0, out: `${snapshot()}\n` });
    expect(err).toMatch(/^download 0 B of /);
    expect(JSON.parse(await run("pull", `${ID}@${COMMIT}`, "--json"))).toEqual({ id: ID, dir: snapshot(), commit: COMMIT });
    expect(await cli(["pull", "./here"])).toMatchObject({ code: 1, err: expect.stringMatching(/^error \[ERR_CONFIG\]: expected a model on the Hugging Face Hub, org\/name/) as string }); // prettier-ignore
  });

  it("an interrupt leaves a state that is gone on from", async () => {
    Object.assign(here.hub, { cutAfter: 30_000, cuts: Infinity });
    const stop = new AbortController();
    const part = repo("blobs", `${weights()}.incomplete`);
    const timer = setInterval(() => {
      if (size(part) >= 30_000) stop.abort(new Error("interrupted"));
    }, 5);
    const { code, err } = await cli(["pull", ID], { signal: stop.signal });
    clearInterval(timer);
    expect({ code, err }).toEqual({ code: 130, err: expect.stringMatching(/are left to fetch; the same command goes on from there\ninterrupted\n$/) as string }); // prettier-ignore
    const kept = size(part);
    here.hub.cuts = 0;
    here.hub.asked.length = 0;
    await run("pull", ID);
    expect(here.hub.asked.filter(({ host }) => host === "cdn").map(({ range }) => range)).toContain(`bytes=${kept}-`);
  });

  it("two processes, one of which is killed, do not disturb each other", async () => {
    let release!: () => void;
    here.hub.hold = new Promise((resolve) => (release = resolve));
    const runs = [1, 2].map(() => spawnCli(["pull", ID]));
    await until(() => fetchedOfCdn() >= 2);
    const holder = runs.find((_, i) => readLocks().some((pid) => pid === runs[i]!.pid))!;
    holder.kill("SIGKILL");
    release();
    const ends = await Promise.all(runs.map(({ done }) => done));
    for (const [i, end] of ends.entries()) if (runs[i] !== holder) expect(end).toMatchObject({ code: 0, out: `${snapshot()}\n` });
    expect(ends[runs.indexOf(holder)]!.signal).toBe("SIGKILL");
    expect(readdirSync(repo("blobs")).filter((name) => name.includes("."))).toEqual([]);
    for (const [name, content] of here.hub.models.get(ID)!.files) expect(readFileSync(`${snapshot()}/${name}`).equals(content)).toBe(true);
  });
});

const size = (path: string): number => {
  try {
    return lstatSync(path).size;
  } catch {
    return -1;
  }
};
const readLocks = (): number[] => {
  const dir = here.at("hub/.locks/models--tiny--olmoe");
  return readdirSync(dir).flatMap((name) => (name.endsWith(".esft.lock") ? [(JSON.parse(readFileSync(`${dir}/${name}`, "utf8")) as { pid: number }).pid] : [])); // prettier-ignore
};
async function until(met: () => boolean): Promise<void> {
  while (!met()) await new Promise((resolve) => setTimeout(resolve, 20));
}

it("a whole task by names: inspect, preview, profile, train, resume, eval, merge, export", async () => {
  const data = writeRows(here.at("rows.jsonl"));
  await run("preview", ID, data, "-n", "1");
  expect(here.hub.fetched).not.toContain("model.safetensors");
  expect(await run("inspect", `${ID}@main`)).toContain("6 of width 24");
  await run("profile", ID, data, "-o", here.at("p.json"), "--tokens", "200");
  expect(JSON.parse(readFileSync(here.at("p.json"), "utf8"))).toMatchObject({ model: { name: ID } });
  const yaml = here.at("job.yaml");
  writeFileSync(yaml, `model: ${ID}\ndata: {file: ${data}, maxLength: 64}\nmethod: {type: lora, rank: 2, targets: attention}\noutDir: ${here.at("run")}\nsteps: 2\nrowsPerStep: 2\n`); // prettier-ignore
  await run("train", yaml);
  expect(JSON.parse(readFileSync(here.at("run/adapter.json"), "utf8"))).toMatchObject({ base: { name: ID, revision: COMMIT } });
  const card = readFileSync(here.at("run/README.md"), "utf8");
  expect(card).toContain(`base_model: "${ID}"`);
  expect(card).toContain(`| base revision | \`${COMMIT}\` |`);
  expect(JSON.parse(readFileSync(here.at("run/request.json"), "utf8"))).toMatchObject({ model: `${ID}@${COMMIT}` });
  const asked = here.hub.asked.length;
  await run("resume", here.at("run"), "--steps", "3", "--extend");
  expect(here.hub.asked).toHaveLength(asked); // the very commit is there

  // The adapter as others publish theirs.
  await run("export", ID, "--adapter", here.at("run"), "-o", here.at("peft"));
  expect(JSON.parse(readFileSync(here.at("peft/adapter_config.json"), "utf8"))).toMatchObject({ base_model_name_or_path: ID });
  here.hub.add("tiny/lora", here.at("peft"), { "training_args.bin": "x" });
  mkdirSync(here.at("own"));
  for (const name of ["adapter.json", "adapter.safetensors"]) writeFileSync(here.at("own", name), readFileSync(here.at("run", name)));
  here.hub.add("tiny/own", here.at("own"));
  const evaluated = (adapter: string) => run("eval", ID, "--adapter", adapter, "--data", data, "--rows", "4", "--max-length", "64", "--json").then((out) => (JSON.parse(out) as { results: unknown }).results); // prettier-ignore
  const local = await evaluated(here.at("run"));
  expect(await evaluated("tiny/lora")).toEqual(await evaluated(here.at("peft")));
  expect(await evaluated("tiny/own")).toEqual(local);
  expect(here.hub.fetched).not.toContain("training_args.bin");
  expect(await run("pull", "tiny/own")).toBe(`${here.at("hub/models--tiny--own/snapshots", COMMIT)}\n`);
  expect(await run("verify", "tiny/own", "--base", ID)).toContain("made for this base");
  expect(await run("merge", ID, "--adapter", "tiny/own", "-o", here.at("merged"))).toContain("merged:");
  for (const name of ["tokenizer.json", "config.json"]) expect(lstatSync(here.at("merged", name)).isFile()).toBe(true);
});

it("compare takes a plan's model by name", async () => {
  const data = writeRows(here.at("rows.jsonl"));
  const plan = here.at("plan.yaml");
  writeFileSync(plan, `model: ${ID}\ntasks: [{name: t, train: ${data}, validation: ${data}, test: ${data}, maxLength: 64}]\nmethods: [{name: m, method: {type: lora, rank: 1, targets: attention}, lr: 0.01}]\nsteps: 1\nrowsPerStep: 2\n`); // prettier-ignore
  await run("compare", plan, "--out", here.at("out"));
  expect(JSON.parse(readFileSync(here.at("out/compare.json"), "utf8"))).toMatchObject({ model: { name: ID } });
  expect(JSON.parse(readFileSync(here.at("out/plan.json"), "utf8"))).toMatchObject({ plan: { model: `${ID}@${COMMIT}` } });
});

it("progress says bytes, rate and what is left", () => {
  expect(downloadLine(0, 2e9, null)).toBe("download 0 B of 2.00 GB (0 %)");
  expect(downloadLine(5e8, 2e9, 5e7)).toBe("download 500 MB of 2.00 GB (25 %)  50.0 MB/s  ETA 30 s");
  expect(downloadLine(5e8, 2e9, 0)).toBe("download 500 MB of 2.00 GB (25 %)  0 B/s  ETA ?");
  let now = 0;
  const rate = new Rate(() => now);
  expect(rate.of(1000)).toBe(null); // what was there before is not fetched now
  now = 1000;
  expect(rate.of(3000)).toBe(2000);
  for (now = 2000; now <= 30_000; now += 1000) rate.of(3000 + now);
  expect(rate.of(33_000 + 500)).toBeGreaterThan(900);
  expect(rate.of(0)).toBe(null); // begun anew
});
