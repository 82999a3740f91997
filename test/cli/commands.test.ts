// Every command on tiny models: what it prints, writes and refuses, and its exit code. No GPU.
// Alone: npx vitest run test/cli/commands.test.ts

import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { tinyDeepseek, tinyOlmoe, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { cli, scratch, writeRows } from "./support.ts";

const root = scratch();
const at = (...parts: string[]): string => join(root, ...parts);
const [model, other, olmoe, data] = [at("model"), at("other"), at("olmoe"), at("rows.jsonl")];
const shared = join(process.env.ESFT_SHARED ?? join(import.meta.dirname, "../../../shared"), "data/esft");

beforeAll(async () => {
  await writeTinyModel(model, tinyDeepseek);
  await writeTinyModel(other, tinyDeepseek, { seed: 2 });
  await writeTinyModel(olmoe, tinyOlmoe);
  writeRows(data);
});

const quick = ["--steps", "6", "--rows-per-step", "4", "--max-length", "64", "--lr", "0.01", "--eval-every", "3"];

describe("usage", () => {
  it("has help with an example for every command, at most 100 columns wide", async () => {
    const top = await cli(["--help"]);
    expect(top.code).toBe(0);
    const names = [...top.out.matchAll(/^ {2}([a-z]+) (?:\[|<)/gm)].map((m) => m[1]!).filter((n) => n !== "help");
    expect(names).toEqual(
      expect.arrayContaining([
        "inspect",
        "profile",
        "select",
        "train",
        "resume",
        "eval",
        "merge",
        "export",
        "verify",
        "doctor",
        "preview",
        "build",
        "demo",
      ]),
    );
    for (const name of names) {
      const { code, out } = await cli([name, "--help"]);
      expect([name, code]).toEqual([name, 0]);
      expect(out).toMatch(/Examples?:/);
      const body = out.split(/Examples?:/)[0]!;
      expect(Math.max(...body.split("\n").map((l) => l.length))).toBeLessThanOrEqual(100);
    }
  });

  it("train has a flag for every option that a file can hold, none for what only a program can give", async () => {
    const { out } = await cli(["train", "--help"]);
    const flags = new Map([...out.matchAll(/^ {2}--([a-z0-9-]+)(?: \S+)? {2,}(\S.*)$/gm)].map((m) => [m[1]!, m[2]!]));
    for (const name of ["data", "eval-data", "experts", "profile", "template", "device", "precision"])
      expect([...flags.keys()]).toContain(name);
    for (const name of ["rows", "signal", "on-progress"]) expect(flags.has(name)).toBe(false);
    for (const [name, text] of flags) expect(text, name).toMatch(/^["A-Za-z]/); // a description comes first
  });

  it.each([
    [["traim"], /unknown command traim; did you mean train\?/],
    [["train", "--max-lenght", "4"], /unknown option --max-lenght; did you mean --max-length\?/],
    [["train", "--optimizer.weight-decoy", "4"], /did you mean --optimizer.weight-decay\?/],
    [["select"], /missing required argument 'profile'/],
    [["select", "p.json", "--p", "half"], /expected a number/],
    [["select", "p.json", "--score", "both"], /Allowed choices are token, gate/],
    [["profile", "-o", "p.json"], /expected a checkpoint directory and a data file, or --from-traces DIR/],
    [["eval", "dir"], /required option '--data/],
  ])("%j is a usage error", async (args, message) => {
    const { code, out, err } = await cli(args);
    expect([code, out]).toEqual([2, ""]);
    expect(err).toMatch(/^error \[ERR_USAGE\]: /);
    expect(err).toMatch(message);
  });

  it("shows the stack of an error only with --verbose", async () => {
    const plain = await cli(["inspect", at("nowhere")]);
    expect(plain.code).toBe(1);
    expect(plain.err).toBe(
      `error [ERR_IO]: cannot open the checkpoint ${at("nowhere")}: no such file or directory, and not the form of a model on the Hugging Face Hub (org/name or org/name@revision)\n`,
    );
    expect((await cli(["inspect", at("nowhere"), "--verbose"])).err).toMatch(/\n {4}at /);
  });
});

describe("inspect", () => {
  it.each([
    ["model", 3, [1, 2], 8, 3],
    ["olmoe", 2, [0, 1], 6, 2],
  ])("describes %s from its headers", async (name, layers, moeLayers, experts, topK) => {
    const { code, out } = await cli(["inspect", at(name), "--json"]);
    expect(code).toBe(0);
    const found = JSON.parse(out);
    expect(found).toMatchObject({ layers, moeLayers, experts, topK });
    const sum = (key: "parameters" | "bytes"): number => found.roles.reduce((s: number, r: Record<string, number>) => s + r[key]!, 0);
    expect(sum("parameters")).toBe(found.parameters);
    expect(sum("bytes")).toBe(found.bytes);
    expect(found.activeParameters).toBeLessThan(found.parameters);
    for (const t of found.training) expect(t.totalBytes).toBe(t.weightBytes + 16 * t.trainedParameters + t.activationBytes + t.hostBytes);
  });

  it("estimates a selection as training then reports it", async () => {
    writeFileSync(at("one.json"), JSON.stringify({ experts: { 2: [5, 1] }, shared_experts: false, non_expert_modules: false }));
    const estimate = JSON.parse(
      (await cli(["inspect", model, "--experts", at("one.json"), "--max-length", "64", "--micro-batch", "4", "--json"])).out,
    ).training[0];
    const { code, out } = await cli([
      "train",
      "--model",
      model,
      "--data",
      data,
      "--experts",
      at("one.json"),
      "--out",
      at("estimate"),
      ...quick,
      "--micro-batch",
      "4",
      "--json",
    ]);
    expect(code).toBe(0);
    const start = JSON.parse(out.split("\n")[0]!);
    expect(start).toMatchObject({
      type: "start",
      trainedParameters: estimate.trainedParameters,
      activationBytes: estimate.activationBytes,
    });
    expect(estimate.lowestLayer).toBe(2);
    expect(estimate.adapterBytes).toBe(2 * estimate.trainedParameters);
  });
});

it("doctor names the addon, the instruction set and the state of CUDA", async () => {
  const { code, out } = await cli(["doctor", "--json"]);
  const found = JSON.parse(out);
  expect(code).toBe(0);
  expect(found.addon.ok).toBe(true);
  expect(existsSync(found.addon.path)).toBe(true);
  expect(found.addon.instructionSets).toContain(found.addon.instructionSet);
  expect(found.cuda).toMatchObject({ loaded: expect.any(Boolean), devices: expect.any(Array) });
  expect((await cli(["doctor"])).out).toMatch(/^CUDA +\S/m);
});

describe("profile and select", () => {
  it("profiles a model; an interrupted run goes on to the same profile", async () => {
    const args = (out: string): string[] => [
      "profile",
      model,
      data,
      "-o",
      at(out),
      "--tokens",
      "600",
      "--max-length",
      "64",
      "--batch-tokens",
      "64",
    ];
    expect((await cli(args("whole.json"))).code).toBe(0);
    const stop = new AbortController();
    const cut = await cli(args("cut.json"), {
      signal: stop.signal,
      onErr: (text) => text.startsWith("profile ") && stop.abort(new Error("interrupted")),
    });
    expect([cut.code, existsSync(at("cut.json")), existsSync(at("cut.json.partial"))]).toEqual([130, false, true]);
    expect(cut.err).toMatch(/cut\.json\.partial keeps \d+ scored tokens/);

    copyFileSync(at("cut.json.partial"), at("wrong.json.partial"));
    const wrong = await cli(["profile", other, data, "-o", at("wrong.json"), "--tokens", "600", "--max-length", "64"]);
    expect([wrong.code, wrong.err]).toEqual([1, expect.stringMatching(/ERR_CONFIG.*belongs to another model/)]);
    expect((await cli(["profile", other, data, "-o", at("wrong.json"), "--tokens", "600", "--max-length", "64", "--restart"])).code).toBe(
      0,
    );

    const rest = await cli(args("cut.json"));
    expect(rest.err).toMatch(/going on from .*cut\.json\.partial/);
    expect(readFileSync(at("cut.json"), "utf8")).toBe(readFileSync(at("whole.json"), "utf8"));
    expect(existsSync(at("cut.json.partial"))).toBe(false);
  });

  it("selects by p, per layer and by budget, and writes both formats", async () => {
    expect((await cli(["profile", model, data, "-o", at("p.json"), "--max-length", "64", "--json"])).code).toBe(0);
    const select = async (...args: string[]) => cli(["select", at("p.json"), "--json", ...args]);
    const byP = JSON.parse((await select("--p", "0.5", "-o", at("c.json"), "--model", model)).out);
    expect(byP.summary.layers.every((l: { tokenShare: number }) => l.tokenShare >= 0.5)).toBe(true);
    expect(byP.summary.total).toMatchObject({ of: 16, parameters: byP.summary.total.experts * 3 * 48 * 24 });
    expect(JSON.parse((await select("--p", "0.2", "--random", "3")).out)).toMatchObject({ rule: { p: 0.2, random: 3 } });
    const tied = JSON.parse((await select("--top-k-per-layer", "2", "--group-size", "2", "-o", at("tied.json"))).out);
    expect([tied.rule.groupSize, tied.layers.map((l: { experts: number[] }) => l.experts.map((e) => e >> 1))]).toEqual([
      2,
      tied.layers.map((l: { experts: number[] }) => l.experts.map(() => l.experts[0]! >> 1)),
    ]);
    const words = (...args: string[]) => cli(["select", at("p.json"), ...args]).then(({ out }) => /^rule: (.*)$/m.exec(out)?.[1]);
    expect(await words("--p", "0.5", "--group-size", "4")).toBe("token scores up to p = 0.5, in groups of 4 neighbours");
    expect(await words("--fixed", "none", "--shared-experts")).toBe("experts that were named");
    expect((await cli(["inspect", model, "--experts", at("tied.json")])).out).toContain(
      "tied.json (the best 2 of each layer by token scores, in groups of 2 neighbours)",
    );
    expect(JSON.parse((await select("--top-k-per-layer", "2", "--score", "gate", "--shared-experts")).out)).toMatchObject({
      sharedExperts: true,
      summary: { total: { experts: 4 } },
    });
    expect(JSON.parse((await select("--max-params", "11000", "--model", model)).out).summary.total.parameters).toBe(3 * 3456);
    expect((await cli(["select", at("p.json"), "--p", "0.5", "--format", "esft", "-o", at("cfg.json")])).code).toBe(0);
    const cfg = JSON.parse(readFileSync(at("cfg.json"), "utf8"));
    expect(cfg.experts).toEqual(Object.fromEntries(byP.layers.map((l: { layer: number; experts: number[] }) => [l.layer, l.experts])));
    const diagnosis = await cli(["doctor", "selection", at("p.json"), at("cfg.json"), "--json"]);
    expect([diagnosis.code, JSON.parse(diagnosis.out).hypotheses.length]).toEqual([0, 6]);
  });

  it.each([
    [["--p", "0"], /expected p in \(0, 1\], found 0/],
    [["--p", "1.2"], /expected p in \(0, 1\], found 1.2/],
    [[], /expected exactly one of p, topKPerLayer, maxTrainableParams, fixed, found none/],
    [["--p", "0.2", "--top-k-per-layer", "2"], /found p and topKPerLayer/],
    [["--p", "0.2", "--group-size", "3"], /layer 1: expected a groupSize that divides its 8 experts, found 3; take one of 1, 2, 4, 8/],
    [["--fixed", "1=3", "--group-size", "2"], /expected no groupSize with fixed experts/],
    [["--max-params", "5000"], /--model DIR or --expert-params N/],
    [["--p", "0.2", "--model", "olmoe"], /was it made for another model\?/],
  ])("select %j is refused", async (args, message) => {
    const { code, err } = await cli(["select", at("p.json"), ...args.map((a) => (a === "olmoe" ? olmoe : a))]);
    expect(code).toBe(1);
    expect(err).toMatch(/^error \[ERR_CONFIG\]: /);
    expect(err).toMatch(message);
  });

  it("reads routing logs", async () => {
    const traces = join(import.meta.dirname, "../fixtures/traces");
    expect((await cli(["profile", "--from-traces", traces, "-o", at("t.json")])).code).toBe(0);
    const { out } = await cli(["select", at("t.json"), "--p", "0.3", "--compat", "esft-2024"]);
    expect(out).toMatch(/^total: \d+ of \d+ experts/m);
  });

  for (const task of ["law", "intent"])
    it.skipIf(!existsSync(join(shared, `traces/${task}.tar.xz`)))(
      `gives the released configuration of ${task}, byte for byte (skipped without the shared data)`,
      async () => {
        const dir = at("traces", task);
        mkdirSync(dir, { recursive: true });
        execFileSync("tar", ["xf", join(shared, `traces/${task}.tar.xz`), "-C", dir]);
        const folder = readdirSync(dir).includes("expert_weights_1.txt") ? dir : join(dir, readdirSync(dir)[0]!);
        const profiled = await cli(["profile", "--from-traces", folder, "-o", at(`${task}.p.json`), "--json"]);
        const summary = JSON.parse(readFileSync(join(shared, `configs/${task}.summary.json`), "utf8"));
        const { layers } = JSON.parse(profiled.out) as { layers: { layer: number; tokenScores: number[]; gateScores: number[] }[] };
        expect(layers.length).toBe(26);
        for (const { layer, tokenScores, gateScores } of layers)
          for (const [scores, published] of [
            [tokenScores, summary.token_scores[layer]],
            [gateScores, summary.gate_scores[layer]],
          ] as const)
            // prettier-ignore
            for (const [e, s] of Object.entries(published as Record<string, number>)) expect(Math.abs(scores[Number(e)]! - s)).toBeLessThan(5.1e-5);
        await cli([
          "select",
          at(`${task}.p.json`),
          "--score",
          "token",
          "--p",
          "0.2",
          "--compat",
          "esft-2024",
          "--format",
          "esft",
          "-o",
          at(`${task}.c.json`),
        ]);
        expect(readFileSync(at(`${task}.c.json`), "utf8")).toBe(readFileSync(join(shared, `configs/${task}.json`), "utf8"));
      },
    );
});

describe("train, eval, merge, verify", () => {
  it("trains from YAML with flags on top, and delivers what eval, merge and verify accept", async () => {
    writeFileSync(
      at("job.yaml"),
      `model: ${model}\ndata: {file: ${data}, maxLength: 64}\nmethod: {experts: ${at("c.json")}}\noutDir: ${at("run")}\nsteps: 99\nrowsPerStep: 4\noptimizer: {lr: 0.5, schedule: linear}\n`,
    );
    const { code, out } = await cli(["train", at("job.yaml"), "--steps", "8", "--optimizer.lr", "0.02", "--eval-every=4", "--json"]);
    expect(code).toBe(0);
    const events = out.trimEnd().split("\n").map((l) => JSON.parse(l)); // prettier-ignore
    expect(events.filter((e) => e.type === "step").map((e) => e.step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(events.find((e) => e.type === "step").lr).toBe(0.02);
    const result = events.at(-1);
    expect(result).toMatchObject({ type: "result", reason: "finished", step: 8 });
    expect(result.lastEval).toBeLessThan(result.firstEval);

    const evaluated = JSON.parse((await cli(["eval", model, "--adapter", at("run"), "--data", data, "--max-length", "64", "--json"])).out);
    expect(evaluated.results[0].lossChange).toBeLessThan(0);
    expect((await cli(["eval", model, "--adapter", at("run"), "--data", data, "--rows", "4"])).out).toMatch(/base loss +adapter loss/);
    // progress counts the rows of the file, not those that they are packed into
    const { err } = await cli(["eval", model, "--data", data, "--rows", "50", "--batch-tokens", "256"]);
    const seen = [...err.matchAll(/base .*: (\d+) of (\d+) rows/g)].map(([, done, total]) => [Number(done), Number(total)]);
    expect(new Set(seen.map(([, total]) => total))).toEqual(new Set([50]));

    const merged = await cli(["merge", model, "--adapter", at("run"), "-o", at("merged"), "--json"]);
    expect(merged.code).toBe(0);
    expect(JSON.parse(merged.out)).toMatchObject({ ok: true, logits: { ok: true, different: 0 } });
    const again = await cli(["merge", model, "--adapter", at("run"), "-o", at("merged")]);
    expect([again.code, again.err]).toEqual([1, expect.stringMatching(/ERR_IO.*already exists and is not empty/)]);
    expect((await cli(["merge", model, "--adapter", at("run"), "-o", at("merged"), "--overwrite", "--no-logits"])).out).toMatch(
      /the same ones/,
    );

    const verified = JSON.parse((await cli(["verify", at("merged"), "--base", model, "--adapter", at("run"), "--json"])).out);
    expect(verified).toMatchObject({ ok: true, checks: [{ name: "bits" }, { name: "digest" }, { name: "logits" }] });
    expect((await cli(["verify", at("run"), "--base", model])).out).toMatch(/frozen weights of the base are those of training/);
  });

  it("verify fails on one flipped bit, in the merged model and in the adapter", async () => {
    const path = at("merged", "model.safetensors");
    const bytes = readFileSync(path);
    bytes[bytes.length - 3]! ^= 1;
    writeFileSync(path, bytes);
    const merged = await cli(["verify", at("merged"), "--base", model, "--adapter", at("run")]);
    expect([merged.code, merged.out]).toEqual([1, expect.stringMatching(/^FAILED bits .*differ from the base although they are frozen/m)]);
    const file = at("run", "adapter.safetensors");
    const adapter = readFileSync(file);
    const broken = Buffer.from(adapter);
    broken[broken.length - 1]! ^= 1;
    writeFileSync(file, broken);
    const found = await cli(["verify", at("run")]);
    expect([found.code, found.err]).toEqual([1, expect.stringMatching(/ERR_LAYOUT.*sha256/)]);
    writeFileSync(file, adapter);
  });

  it("refuses an adapter for another base everywhere", async () => {
    for (const args of [
      ["eval", other, "--adapter", at("run"), "--data", data],
      ["merge", other, "--adapter", at("run"), "-o", at("m2")],
      ["verify", at("run"), "--base", other],
    ]) {
      const { code, err } = await cli(args);
      expect([args[0], code, err]).toEqual([
        args[0],
        1,
        expect.stringMatching(/^error \[ERR_LAYOUT\]: .*adapter for another base.*expected .*found /m),
      ]);
    }
    expect(existsSync(at("m2"))).toBe(false);
  });

  it("selects inline from a profile, and trains everything with method full", async () => {
    const inline = await cli([
      "train",
      "--model",
      model,
      "--data",
      data,
      "--profile",
      at("p.json"),
      "--score",
      "token",
      "--p",
      "0.5",
      "--out",
      at("inline"),
      ...quick,
    ]);
    expect([inline.code, inline.out]).toEqual([0, expect.stringMatching(/held-out loss .* → /)]);
    expect(JSON.parse(readFileSync(at("inline", "experts.json"), "utf8")).layers).toEqual(
      JSON.parse(readFileSync(at("c.json"), "utf8")).layers,
    );
    const full = await cli(["train", "--model", olmoe, "--data", data, "--method", "full", "--out", at("full"), ...quick]);
    expect([full.code, full.out]).toEqual([0, expect.stringMatching(/100 % of the model/)]);
  });

  it.each([
    [{ modle: "x" }, [], /unknown key "modle"; did you mean "model"\?/],
    [{ optimizer: { learningRate: 1 } }, [], /\.optimizer: unknown key "learningRate"/],
    [{ data: { fiel: "x" } }, [], /unknown key "fiel"; did you mean "file"\?/],
    [{ method: { type: "qlora" } }, [], /method\.type/],
    [{ method: { type: "lora", rank: 0 } }, [], /method\.rank/],
    [{ method: { type: "lora", rank: 4096 } }, [], /rank must be at most \d+ beside "model\.layers\.0/],
    [{ method: { type: "lora", targets: ["qproj"] } }, [], /target "qproj" matches nothing.*did you mean "q_proj"/],
    [{ method: { type: "lora", targets: "gate_proj,input_layernorm" } }, [], /"input_layernorm" matches only vectors/],
    [{ method: { type: "lora", targets: "experts", ranks: "expert=4" } }, [], /did you mean "experts"/],
    [{ method: { type: "lora", targets: "experts", ranks: "experts:4" } }, [], /method\.ranks: expected target=number/],
    [{ method: { type: "perft", variant: "T" } }, [], /method\.variant/],
    [{ method: { type: "perft", adapters: 2, adaptersPerToken: 3 } }, [], /cannot visit 3 of 2 adapters/],
    [{ method: { type: "perft", targets: "experts" } }, [], /method\.targets|targets/],
    [{}, ["--steps", "0"], /steps: .*found 0/],
    [{}, ["--lr", "fast"], /optimizer\.lr: expected a number >= 0, found "fast"/],
    [{}, ["--lr", "NaN"], /optimizer\.lr: expected a number >= 0, found "NaN"/],
    [{}, ["--lr", "1e999"], /optimizer\.lr: expected a number >= 0, found "1e999"/],
    [{}, ["--lr", "0x10"], /optimizer\.lr: expected a number >= 0, found "0x10"/],
    [{}, ["--lr", ""], /optimizer\.lr: expected a number >= 0, found ""/],
    [{}, ["--lr", "-1"], /optimizer\.lr: expected a number >= 0, found -1/],
    [{}, ["--steps", "1.5"], /steps: expected a whole number >= 1, found 1.5/],
    [{}, ["--eval-fraction", "1"], /evalFraction: expected a number < 1, found 1/],
    [{}, ["--eval-fraction", "most"], /evalFraction: expected a number >= 0 and < 1, found "most"/],
    [{}, ["--max-length", "9999"], /maxLength 9999 exceeds the model's 256 positions/],
    [{}, ["--profile", "p.json"], /expected either experts .* or profile and select, found both/],
    [{}, ["--device", "tpu"], /device: .*found "tpu"/],
  ])("refuses %j %j", async (yaml, flags, message) => {
    const job = {
      model,
      data: { file: data, maxLength: 64 },
      method: { type: "esft", experts: at("c.json") },
      outDir: at("never"),
      ...yaml,
    };
    writeFileSync(at("bad.yaml"), JSON.stringify({ ...job, ...("data" in yaml ? { data: { ...job.data, ...yaml.data } } : {}) }));
    const { code, err } = await cli(["train", at("bad.yaml"), ...flags]);
    expect(code).toBe(1);
    expect(err).toMatch(/error \[ERR_CONFIG\]: /);
    expect(err).toMatch(message);
    expect(existsSync(at("never"))).toBe(false);
  });

  it("names what is missing, broken YAML, and broken rows by line", async () => {
    expect((await cli(["train", "--model", model])).err).toMatch(/data\.file is required \(--data FILE/);
    writeFileSync(at("broken.yaml"), "a: [1\nb: }");
    expect((await cli(["train", at("broken.yaml")])).err).toMatch(/ERR_CONFIG\]: .*broken\.yaml: not YAML/);
    const bad = writeRows(at("rows2.jsonl"), [...toyRows(3), { messages: [] }]);
    const args = ["train", "--model", model, "--data", bad, "--experts", at("c.json"), "--out", at("rows2"), ...quick];
    const refused = await cli(args);
    expect([refused.code, refused.err]).toEqual([1, expect.stringMatching(/ERR_DATA\].*1 of 4 rows cannot be used[^]*rows2\.jsonl:4: /)]);
    expect(existsSync(at("rows2"))).toBe(false);
    expect((await cli([...args, "--on-bad-row", "skip"])).code).toBe(0);
  });

  it("does not write over a run, and says how to go on", async () => {
    const { code, err } = await cli(["train", at("job.yaml")]);
    expect([code, err]).toEqual([1, expect.stringMatching(/holds a run already; resume it \("esft resume/)]);
    expect((await cli(["resume", at("model")])).err).toMatch(/expected a run directory with request\.json, found none/);
  });
});
