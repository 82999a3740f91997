// LoRA and PERFT from the command line: the same run from flags and from YAML, what trains is told by role, a killed run goes on to the
// same bytes, and eval, merge, verify and export take what was delivered. No GPU. Alone: npx vitest run test/cli/methods.test.ts

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { Profile } from "../../lib/experts/profile.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { cli, scratch, spawnCli, writeRows } from "./support.ts";

const dir = scratch();
const at = (...names: string[]): string => join(dir, ...names);
let data: string;
beforeAll(async () => {
  await writeTinyModel(at("model"), tinyDeepseek);
  data = writeRows(at("rows.jsonl"), toyRows(40));
  const set = new ExpertSet({ layers: [[1, { ranked: [5, 0] }], [2, { ranked: [7] }]] }); // prettier-ignore
  await set.save(at("experts.json"));
  const layers = [1, 2].map((layer) => ({ layer, tokens: 10, counts: [8, 2, 1, 4, 7, 3, 5, 0], gateSums: [1, 1, 1, 1, 1, 1, 1, 1] }));
  await new Profile({ source: "model", topK: 3, experts: 8, sequences: 1, layers }).save(at("profile.json"));
});
const quick = (): string[] => ["--model", at("model"), "--data", data, "--max-length", "64", "--rows-per-step", "4", "--lr", "0.02"];
const stages = [{ targets: ["attention"], steps: 3, lr: 0.01 }, { targets: "experts", steps: 3 }]; // prettier-ignore
const job = (method: object, out: string): string => {
  const file = at(`${out}.yaml`);
  writeFileSync(
    file,
    JSON.stringify({
      model: at("model"),
      data: { file: data, maxLength: 64 },
      method,
      outDir: at(out),
      ...(out.startsWith("stages") ? { stages } : { steps: 6 }),
      rowsPerStep: 4,
      optimizer: { lr: 0.02 },
    }),
  );
  return file;
};
const bytes = (run: string): Buffer => readFileSync(at(run, "adapter.safetensors"));

const lora = { type: "lora", rank: 4, targets: "attention,experts", ranks: { experts: 2 }, experts: "" };
const cases: readonly [string, string[], () => object, RegExp][] = [
  [
    "lora",
    ["--method", "lora", "--rank", "4", "--targets", "attention,experts", "--ranks", "experts=2", "--experts", "@"],
    () => ({ ...lora, experts: at("experts.json") }),
    /trains beside attention: 24 tensors, .*\n.*trains beside routed experts: 18 tensors/,
  ],
  [
    "reallocated",
    "--method lora --rank 4 --targets experts,head --reallocate dr --reallocate-warmup 1 --reallocate-every 2 --max-rank 6".split(" "),
    () => ({ type: "lora", rank: 4, targets: "experts,head", reallocate: "dr", reallocateWarmup: 1, reallocateEvery: 2, maxRank: 6 }),
    /trains beside routed experts: 96 tensors, .*\n.*trains beside the head: 2 tensors, .*\n.*re-allocated \(dr\): 4 per expert on average, memory for 6/,
  ],
  [
    "stages",
    [...'--method lora --rank 4 --targets attention,experts --stages'.split(" "), '[{"targets": "attention", "steps": 3, "lr": 0.01}, {"targets": ["experts"], "steps": 3}]'], // prettier-ignore
    () => ({ type: "lora", rank: 4, targets: "attention,experts" }),
    /stage 1 of 2 begins with step 1\n {2}trains beside attention: 24 tensors, [^\n]*\n(.*\n)*stage 2 of 2 begins with step 4\n {2}trains beside routed experts: 96 tensors/,
  ],
  [
    "perft",
    ["--method", "perft", "--variant", "R", "--rank", "3", "--adapters", "3", "--adapters-per-token", "1", "--base-balance-loss", "0.01"],
    () => ({ type: "perft", variant: "R", rank: 3, adapters: 3, adaptersPerToken: 1, baseBalanceLoss: 0.01 }),
    /trains beside routed experts: 12 tensors, .*\n.*trains beside routers: 2 tensors/,
  ],
  [
    "esft-router",
    ["--experts", "@", "--router", "train"],
    () => ({ experts: at("experts.json"), router: "train" }),
    /trains routers: 2 tensors, .*\n.*trains routed experts: 9 tensors/,
  ],
  [
    "esft-router-lora",
    ["--experts", "@", "--router", "lora", "--router-rank", "2"],
    () => ({ type: "esft", experts: at("experts.json"), router: "lora", routerRank: 2 }),
    /trains routed experts: 9 tensors, .*\n.*trains beside routers: 4 tensors/,
  ],
  [
    "esft-ste",
    ["--experts", "@", "--router", "ste"],
    () => ({ type: "esft", experts: at("experts.json"), router: "ste" }),
    /routers straight through: every backward runs all experts on all tokens, [\d.]+ ?% more multiply-adds a step and .* more memory/,
  ],
  [
    "esft-condensers",
    ["--experts", "@", "--router", "train", "--condensers", "1", "--condenser-rate", "0.3"],
    () => ({ type: "esft", experts: at("experts.json"), router: "train", condensers: 1, condenserRate: 0.3 }),
    /trains routers: 2 tensors, .*\n.*trains routed experts: 9 tensors, .*\n.*trains beside selection biases: 2 tensors/,
  ],
  [
    "lora-ste",
    ["--method", "lora", "--rank", "2", "--targets", "attention,router", "--router", "ste"],
    () => ({ type: "lora", rank: 2, targets: ["attention", "router"], router: "ste" }),
    /trains beside routers: 4 tensors(.|\n)*routers straight through/,
  ],
  [
    "perft-router-lora",
    ["--method", "perft", "--variant", "S", "--rank", "2", "--router", "lora"],
    () => ({ type: "perft", variant: "S", rank: 2, router: "lora" }),
    /trains beside routed experts: 4 tensors, .*\n.*trains beside routers: 4 tensors/,
  ],
  [
    "esft-grouped",
    ["--profile", "%", "--p", "0.6", "--group-size", "2"],
    // Sums of the groups: 10, 5, 10, 5 of 30.
    () => ({ experts: { 1: [0, 1, 4, 5], 2: [5, 4, 0, 1] } }),
    /trains routed experts: 24 tensors/,
  ],
  [
    "esft-shared",
    ["--profile", "%", "--fixed", "none", "--shared-experts"],
    () => ({ type: "esft", experts: {}, sharedExperts: true }),
    /trains shared experts: 6 tensors/,
  ],
  [
    "esft-modules",
    ["--profile", "%", "--fixed", "none", "--shared-experts", "--non-expert-modules"],
    () => ({ type: "esft", profile: at("profile.json"), select: { fixed: {} }, sharedExperts: true, nonExpertModules: true }),
    /trains (?!routed)(.|\n)*shared experts: 6 tensors/,
  ],
];

describe.each(cases)("%s", (name, flags, yaml, roles) => {
  it("from flags and from YAML: the same run; killed and resumed: the same bytes", async () => {
    const given = flags.map((flag) => (flag === "@" ? at("experts.json") : flag === "%" ? at("profile.json") : flag));
    const run = await cli(["train", ...quick(), ...given, "--out", at(name), "--steps", "6"]);
    expect([run.code, run.err]).toEqual([0, expect.stringMatching(roles)]);
    expect((await cli(["train", job(yaml(), `${name}-yaml`)])).code).toBe(0);
    expect(bytes(`${name}-yaml`)).toEqual(bytes(name));
    const killed = spawnCli(["train", job({ ...yaml() }, `${name}-killed`), "--save-every", "1", "--json"]);
    const events = at(`${name}-killed`, "events.jsonl");
    const reached = async (): Promise<boolean> => {
      try {
        return readFileSync(events, "utf8").includes('"type":"step","step":2');
      } catch {
        return false;
      }
    };
    while (killed.running() && !(await reached())) await new Promise((resolve) => setTimeout(resolve, 20));
    killed.kill("SIGKILL");
    await killed.done;
    expect((await cli(["resume", at(`${name}-killed`)])).code).toBe(0);
    expect(bytes(`${name}-killed`)).toEqual(bytes(name));
  }, 120_000);
});

it.each(["esft-router", "esft-router-lora", "esft-ste", "esft-grouped", "esft-shared", "esft-modules", "lora-ste"])(
  "%s is evaluated, merged and verified",
  async (run) => {
    const evaluated = await cli(["eval", at("model"), "--adapter", at(run), "--data", data, "--max-length", "64", "--json"]);
    expect(JSON.parse(evaluated.out).results[0].lossChange).toBeLessThan(0);
    const merged = await cli(["merge", at("model"), "--adapter", at(run), "-o", at(`${run}-merged`), "--json"]);
    expect([merged.code, merged.err]).toEqual([0, expect.any(String)]);
    expect(JSON.parse(merged.out)).toMatchObject({ ok: true, logits: { ok: true, different: 0 } });
    expect((await cli(["verify", at(`${run}-merged`), "--base", at("model"), "--adapter", at(run)])).code).toBe(0);
    expect((await cli(["verify", at(run), "--base", at("model")])).code).toBe(0);
  },
);

it("without an expert and without a switch nothing trains, and that is said before anything is read", async () => {
  const none = (method: object) => cli(["train", job({ type: "esft", ...method }, "never-3")]);
  const words =
    /expected experts, or sharedExperts or nonExpertModules: true, which train without them, found no expert and both switches off/;
  for (const [key, method] of [
    ["method.experts", { experts: {} }],
    ["method.experts", { experts: { 1: [], 2: [] }, sharedExperts: false }],
    ["method.select.fixed", { profile: "absent.json", select: { fixed: "none" } }],
  ] as const) {
    const { code, err } = await none(method);
    expect([code, err]).toEqual([1, expect.stringMatching(words)]);
    expect(err).toContain(key);
  }
});

it("PERFT with a term beside the routers is evaluated; a mode that contradicts the method is refused", async () => {
  const evaluated = await cli(["eval", at("model"), "--adapter", at("perft-router-lora"), "--data", data, "--max-length", "64", "--json"]);
  expect(JSON.parse(evaluated.out).results[0].lossChange).toBeLessThan(0);
  const refused = await cli(["train", ...quick(), "--method", "full", "--router", "frozen", "--out", at("never-2"), "--steps", "1"]);
  expect([refused.code, refused.err]).toEqual([1, expect.stringMatching(/ERR_CONFIG.*contradicts full fine-tuning/)]);
});

it("LoRA is evaluated, merged, verified and exported; PERFT is not merged", async () => {
  const evaluated = await cli(["eval", at("model"), "--adapter", at("lora"), "--data", data, "--max-length", "64", "--json"]);
  expect(JSON.parse(evaluated.out).results[0].lossChange).not.toBe(0);
  const merged = await cli(["merge", at("model"), "--adapter", at("lora"), "-o", at("merged"), "--json"]);
  expect([merged.code, merged.err]).toEqual([0, expect.any(String)]);
  expect(JSON.parse(merged.out)).toMatchObject({ ok: true, logits: { ok: true, different: 0 } });
  expect((await cli(["verify", at("merged"), "--base", at("model"), "--adapter", at("lora")])).code).toBe(0);
  expect((await cli(["export", at("model"), "--adapter", at("lora"), "-o", at("peft")])).out).toMatch(/^PEFT folder: /);
  const again = await cli(["eval", at("model"), "--adapter", at("peft"), "--data", data, "--max-length", "64", "--json"]);
  const loss = (text: string): number => JSON.parse(text).results[0].lossChange as number;
  expect(loss(again.out)).toBeCloseTo(loss(evaluated.out), 5);
  const refused = await cli(["merge", at("model"), "--adapter", at("perft"), "-o", at("never")]);
  expect([refused.code, refused.err]).toEqual([1, expect.stringMatching(/ERR_LAYOUT.*variant R, cannot be merged/)]);
});
