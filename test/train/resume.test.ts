// Going on with a run: from the state before when the newest is damaged, to the same bits; refused with every option that differs; with
// a longer schedule when one asks for it. No GPU. Alone: npx vitest run test/train/resume.test.ts

import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { runCli } from "../../lib/cli/program.ts";
import { sealedJson } from "../../lib/files/sealed.ts";
import { ExpertSet, MoeModel } from "../../lib/index.ts";
import type { TrainEvent, TrainRequest } from "../../lib/index.ts";
import { keptStates, readRun } from "../../lib/train/checkpoint.ts";
import { CheckedRequest, loadRequest } from "../../lib/train/request.ts";
import { learningRate } from "../../lib/train/schedule.ts";
import { tinyDeepseek, toyRows, writeTinyModel } from "../support/tiny_model.ts";
import { loggedEvents, runUntil } from "../support/training_run.ts";

let root: string;
let model: MoeModel;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "esft-resume-"));
  await writeTinyModel(join(root, "model"), tinyDeepseek);
  model = await MoeModel.fromPretrained(join(root, "model"), { threads: 2 });
});
afterAll(async () => {
  model.dispose();
  await rm(root, { recursive: true, force: true });
});

const experts = new ExpertSet({
  layers: [
    [1, { ranked: [0, 3] }],
    [2, { ranked: [5] }],
  ],
});
const cosine = { lr: 5e-3, schedule: "cosine", warmupSteps: 2 } as const;
const request = (outDir: string, more: Partial<TrainRequest> = {}): TrainRequest => ({
  data: { rows: Dataset.fromRows(toyRows(80)), maxLength: 64 },
  method: { type: "esft", experts },
  outDir: join(root, outDir),
  steps: 12,
  rowsPerStep: 4,
  evalEvery: 4,
  saveEvery: 3,
  evalFraction: 0.1,
  keep: "last",
  optimizer: cosine,
  ...more,
});
async function train(outDir: string, more: Partial<TrainRequest> = {}, stopAt?: number) {
  const { result, events } = await runUntil(model, request(outDir, more), (e) => e.type === "step" && e.step === stopAt);
  return { result, events, started: events.find((e) => e.type === "start")!.step };
}
const at = (...parts: string[]): string => join(root, ...parts);
const same = (a: string, b: string): void => {
  for (const file of ["adapter.safetensors", "adapter.json"]) expect(readFileSync(at(a, file)).equals(readFileSync(at(b, file))), `${file} of ${a}`).toBe(true); // prettier-ignore
};
const flip = (path: string, from: number): void => {
  const bytes = readFileSync(path);
  bytes[from < 0 ? bytes.length + from : from]! ^= 4;
  writeFileSync(path, bytes);
};
const state = async (outDir: string, nth: number): Promise<string> => join((await keptStates(at(outDir)))[nth]!.path, "state.safetensors");
const logged = (outDir: string): TrainEvent[] => loggedEvents(at(outDir));
const messageOf = async (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "nothing was thrown",
    (e: unknown) => (e as Error).message,
  );

describe("a damaged checkpoint", () => {
  it("is told in an event, and the run goes on from the one before to the same bits", async () => {
    await train("whole");
    await train("flipped", {}, 8); // states of steps 6 and 8
    const path = await state("flipped", 0);
    flip(path, -100);
    const { events, started } = await train("flipped", { resume: true });
    expect(started).toBe(6);
    const [warning] = events.filter((e) => e.type === "warning");
    expect(warning).toMatchObject({ type: "warning", step: 6 });
    expect(warning!.message).toMatch(/state\.safetensors: expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}; .* The state of step 8 .* the run goes back to that of step 6$/); // prettier-ignore
    expect(warning!.message).toContain(path);
    same("flipped", "whole");
    // The log holds each step once, and the warning.
    const log = logged("flipped");
    expect(log.filter((e) => e.type === "step").map((e) => e.step)).toEqual(Array.from({ length: 12 }, (_, i) => i + 1));
    expect(log.filter((e) => e.type === "warning").length).toBe(1);
    expect((await keptStates(at("flipped"))).map((k) => k.step)).toEqual([12, 9]);
  });

  it("with NaN in a moment is damage, not a story about learning rates", async () => {
    await train("nan", {}, 8);
    const path = await state("nan", 0);
    const bytes = readFileSync(path);
    bytes.writeUInt32LE(0x7fc00000, bytes.length - 64);
    writeFileSync(path, bytes);
    const { events, started } = await train("nan", { resume: true });
    expect(started).toBe(6);
    expect(events.find((e) => e.type === "warning")!.message).toMatch(/state\.safetensors: expected sha256/);
    same("nan", "whole");
  });

  it("and the one before too: the run is refused with the fix, and nothing is changed", async () => {
    await train("both", {}, 8);
    for (const n of [0, 1]) flip(await state("both", n), 200);
    const log = readFileSync(at("both/events.jsonl"), "utf8");
    const message = await messageOf(train("both", { resume: true }));
    expect(message).toMatch(/no state to go on from: .*step-8.*step-6.*Restore these files from a copy, or train anew in another outDir/);
    expect(readFileSync(at("both/events.jsonl"), "utf8")).toBe(log);
    expect((await keptStates(at("both"))).length).toBe(2);
  });

  describe("and the best adapter", () => {
    const best = { keep: "best", optimizer: { lr: 0.2, clipNorm: 0 }, evalEvery: 3 } as const;
    const bestOf = async (outDir: string, nth: number) => (await readRun((await keptStates(at(outDir)))[nth]!)).best;

    it("is that of the state gone back to: both are kept while both are named", async () => {
      await train("best-whole", best);
      await train("best", { ...best, saveEvery: 4 }, 8);
      const [newest, before] = [await bestOf("best", 0), await bestOf("best", 1)];
      expect([newest!.step, before!.step]).toEqual([6, 3]);
      expect(readdirSync(at("best/best")).sort()).toEqual(["step-3", "step-6"]);
      flip(await state("best", 0), -9);
      const { started } = await train("best", { ...best, saveEvery: 3, resume: true });
      expect(started).toBe(4);
      expect(readFileSync(at("best/adapter.safetensors")).equals(readFileSync(at("best-whole/adapter.safetensors")))).toBe(true);
    });

    it("that is damaged makes its state a damaged one", async () => {
      await train("best-flipped", { ...best, saveEvery: 4 }, 8);
      flip(at("best-flipped/best/step-6/adapter.safetensors"), -5);
      const { events, started } = await train("best-flipped", { ...best, saveEvery: 3, resume: true });
      expect(started).toBe(4);
      expect(events.find((e) => e.type === "warning")!.message).toMatch(/best\/step-6: expected the best adapter, that of step 6, found a damaged one .*sha256/); // prettier-ignore
      expect(readFileSync(at("best-flipped/adapter.safetensors")).equals(readFileSync(at("best-whole/adapter.safetensors")))).toBe(true);
    });

    it("that is gone for good: keep last goes on", async () => {
      await train("best-gone", { ...best, saveEvery: 4 }, 8);
      rmSync(at("best-gone/best"), { recursive: true });
      expect(await messageOf(train("best-gone", { ...best, saveEvery: 3, resume: true }))).toMatch(/expected the best adapter, that of step 6, found none; train again, or resume with --keep last/); // prettier-ignore
      const { result } = await train("best-gone", { ...best, saveEvery: 3, keep: "last", resume: true });
      expect(result.adapter!.training!["step"]).toBe(12);
    });

    it("delivered once stays within reach of the states that name it, also of the older one", async () => {
      const constant = { ...best, optimizer: { lr: 0.2, clipNorm: 0 }, evalEvery: 4, saveEvery: 5 } as const;
      await train("delivered", constant);
      const [newest, before] = [await bestOf("delivered", 0), await bestOf("delivered", 1)];
      expect([newest!.step, before!.step]).toEqual([12, 8]);
      expect(readdirSync(at("delivered/best"))).toEqual(["step-8"]);
      cpSync(at("delivered"), at("delivered-damaged"), { recursive: true });
      // On from the newest: its best is the delivered one. The states that are kept then name no other.
      const on = await train("delivered", { ...constant, steps: 14, resume: true });
      expect(on.started).toBe(12);
      flip(await state("delivered-damaged", 0), -9);
      const back = await train("delivered-damaged", { ...constant, steps: 14, resume: true });
      expect(back.started).toBe(10);
      expect(back.result.adapter).not.toBeNull();
      for (const out of ["delivered", "delivered-damaged"]) {
        const named = [...new Set([await bestOf(out, 0), await bestOf(out, 1)].map((b) => b!.step))];
        const there = existsSync(at(out, "best")) ? readdirSync(at(out, "best")).map((n) => Number(n.slice(5))) : [];
        const delivered = (JSON.parse(readFileSync(at(out, "adapter.json"), "utf8")) as { training: { step: number } }).training.step;
        expect(named.filter((s) => s > 0 && s !== delivered).toSorted(), out).toEqual(there.toSorted());
      }
    });
  });
});

describe("other options", () => {
  it("are all named, from what to what", async () => {
    await train("options", {}, 4);
    const optimizer = { ...cosine, lr: 0.001 };
    const other = new ExpertSet({ layers: [[1, { ranked: [0, 4] }]], sharedExperts: true });
    const cases: [Partial<TrainRequest>, RegExp][] = [
      [{ seed: 2 }, /: seed 1 → 2(, the training rows [0-9a-f]+ → [0-9a-f]+, the held-out rows .*)?; resume with the same ones/],
      [{ optimizer, rowsPerStep: 5 }, /: rowsPerStep 4 → 5, optimizer\.lr 0\.005 → 0\.001; /],
      [{ method: { type: "esft", experts: other } }, /experts "layer 1: 0 3; layer 2: 5" → "layer 1: 0 4; shared experts", the list of trained tensors /], // prettier-ignore
      [{ method: "full" }, /method\.type "esft" → "full", experts "layer 1: 0 3; layer 2: 5" → none/],
      [
        { data: { rows: Dataset.fromRows(toyRows(80, 9)), maxLength: 64 } },
        /: the training rows [0-9a-f]{12} → [0-9a-f]{12}, the held-out rows /,
      ],
      [{ evalFraction: 0 }, /evalFraction 0\.1 → 0, .*the held-out rows "?[0-9a-f]+"? → none/],
      [{ data: { rows: Dataset.fromRows(toyRows(80)), maxLength: 32 } }, /data\.maxLength 64 → 32, the training rows .* → /],
      [{ keep: "best" }, /: keep "last" → "best"; /],
      [{ steps: 10 }, /: steps 12 → 10 \(a schedule can be lengthened, not shortened\)/],
      [{ steps: 13 }, /: steps 12 → 13 \(a longer schedule is taken with --extend, extend: true\)/],
      [{ steps: 13, seed: 2, extend: true }, /: seed 1 → 2/],
    ];
    for (const [more, message] of cases) {
      const error: unknown = await train("options", { ...more, resume: true }).catch((e: unknown) => e);
      expect(error).toMatchObject({ code: "ERR_CONFIG", message: expect.stringMatching(message) as string });
    }
    await expect(train("options", { seed: 2, resume: true })).rejects.toMatchObject({ where: { key: "seed", expected: "1", found: "2" } });
  });

  it("that decide nothing of the result may change: saveEvery, keep last, a constant schedule's steps", async () => {
    await train("free", { optimizer: { lr: 1e-3 }, keep: "best" }, 4);
    const { result } = await train("free", { optimizer: { lr: 1e-3 }, keep: "last", saveEvery: 5, steps: 14, resume: true });
    expect([result.step, result.extensions]).toEqual([14, []]);
  });

  it("name another base, another precision", async () => {
    await writeTinyModel(at("other"), tinyDeepseek, { seed: 9 });
    using other = await MoeModel.fromPretrained(at("other"), { threads: 1 });
    const message = await messageOf(other.train(request("options", { resume: true })).result);
    expect(message).toMatch(/: the base model [0-9a-f]{12} → [0-9a-f]{12}; resume with the same ones, or choose another outDir$/);
    const run = await readRun((await keptStates(at("options")))[0]!);
    expect(run.facts["precision"]).toBe("f32");
  });
});

describe("a longer schedule", () => {
  it("goes on with its own rates, is told and recorded, and resumes without being asked for again", async () => {
    await train("extended");
    const { events, result, started } = await train("extended", { steps: 20, resume: true, extend: true });
    expect(started).toBe(12);
    expect(events.find((e) => e.type === "extend")).toEqual({ type: "extend", step: 12, from: 12, to: 20 });
    const rates = events.filter((e) => e.type === "step").map((e) => [e.step, e.lr]);
    expect(rates.length).toBe(8);
    const optimizer = CheckedRequest.parse(request("x")).options.optimizer;
    for (const [step, lr] of rates) expect(lr).toBe(learningRate(optimizer, 20, step! - 1));
    expect(result.extensions).toEqual([{ step: 12, from: 12, to: 20 }]);
    expect(result.adapter!.training!["extended"]).toEqual([{ step: 12, from: 12, to: 20 }]);
    expect(logged("extended").filter((e) => e.type === "extend").length).toBe(1);
    // Interrupted after it: no --extend any more, and the same bits.
    await train("cut");
    await train("cut", { steps: 20, resume: true, extend: true }, 15);
    const rest = await train("cut", { steps: 20, resume: true });
    expect(rest.events.filter((e) => e.type === "extend")).toEqual([]);
    same("cut", "extended");
    // Twice, and asked for where nothing is longer.
    const twice = await train("cut", { steps: 22, resume: true, extend: true });
    expect(twice.result.extensions).toEqual([
      { step: 12, from: 12, to: 20 },
      { step: 20, from: 20, to: 22 },
    ]);
    expect((await train("cut", { steps: 22, resume: true, extend: true })).events.filter((e) => e.type === "extend")).toEqual([]);
  });

  it("is kept before anything else is done by it", async () => {
    await train("kept", {}, 4);
    const { events } = await train("kept", { steps: 20, resume: true, extend: true }, 5);
    const types = events.map((e) => e.type);
    expect(types.slice(0, 3)).toEqual(["extend", "checkpoint", "start"]);
    expect((await readRun((await keptStates(at("kept")))[1]!)).extensions).toEqual([{ step: 4, from: 12, to: 20 }]);
  });

  it("a run that was not lengthened says nothing of it in its adapter", async () => {
    await train("plain");
    expect(Object.keys(JSON.parse(readFileSync(at("plain/adapter.json"), "utf8")).training)).not.toContain("extended");
  });
});

describe("request.json and experts.json", () => {
  it("are refused when any byte of them was flipped", async () => {
    writeFileSync(at("rows.jsonl"), toyRows(40).map((r) => JSON.stringify(r)).join("\n")); // prettier-ignore
    await train("asked", { data: { file: at("rows.jsonl"), maxLength: 64 }, steps: 1 });
    const read = async (): Promise<unknown> => {
      const { job, file } = await loadRequest(at("asked"));
      return CheckedRequest.parseJob(job, file, {});
    };
    await read();
    for (const name of ["request.json", "experts.json"]) {
      const path = at("asked", name);
      const whole = readFileSync(path);
      for (let i = 0; i < whole.length; i++) {
        const bytes = Buffer.from(whole);
        bytes[i]! ^= 1 << (i % 7);
        writeFileSync(path, bytes);
        const error: unknown = await read().catch((e: unknown) => e);
        expect(error, `${name}, byte ${i}`).toMatchObject({ code: expect.stringMatching(/ERR_(LAYOUT|CONFIG)/) as string });
      }
      writeFileSync(path, whole);
    }
    await read();
    // Edited on purpose, without its hash, it is what it says.
    const { sha256: _, expertsSha256: __, ...kept } = JSON.parse(readFileSync(at("asked/request.json"), "utf8")) as Record<string, unknown>;
    writeFileSync(at("asked/request.json"), JSON.stringify({ ...kept, steps: 7 }));
    expect(((await read()) as { request: CheckedRequest }).request.options.steps).toBe(7);
    writeFileSync(at("asked/request.json"), JSON.stringify({ ...kept, sha256: "x" }, null, 2));
    await expect(read()).rejects.toThrow(/Give changes as flags; if it was edited on purpose, remove the line "sha256"/);
    writeFileSync(at("asked/request.json"), sealedJson({ ...kept, steps: 8 }));
    expect(((await read()) as { request: CheckedRequest }).request.options.steps).toBe(8);
  });
});

describe("esft verify of a run directory", () => {
  const verify = async (out: string): Promise<{ code: number; checks: { name: string; ok: boolean; detail: string }[] }> => {
    let printed = "";
    const code = await runCli(["verify", at(out), "--json"], {
      out: (text) => void (printed += text),
      err: () => undefined,
      interactive: false,
      signal: new AbortController().signal,
    });
    return { code, ...(JSON.parse(printed) as { checks: [] }) };
  };

  it("reads its states, its request and its best adapters, with a delivered adapter and without", async () => {
    const best = { keep: "best", optimizer: { lr: 0.2, clipNorm: 0 }, evalEvery: 3 } as const;
    await train("verified", { ...best, saveEvery: 4 }, 8);
    const whole = await verify("verified");
    expect([whole.code, whole.checks.map((c) => `${c.name} ${c.ok}`)]).toEqual([
      0,
      ["state true", "state true", "request true", "best true", "best true"],
    ]);
    expect(whole.checks[0]!.detail).toBe("step 8: every byte as it was saved");
    for (const [path, name, nth] of [
      [await state("verified", 1), "state", 1],
      [at("verified/experts.json"), "request", 2],
      [at("verified/best/step-3/adapter.safetensors"), "best", 3],
    ] as const) {
      flip(path, -30);
      const { code, checks } = await verify("verified");
      expect([code, checks.flatMap((c, i) => (c.ok ? [] : [`${c.name} ${i}`]))]).toEqual([1, [`${name} ${nth}`]]);
      expect(checks[nth]!.detail).toMatch(/expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}/);
      flip(path, -30);
    }
    await train("verified", { ...best, saveEvery: 4, resume: true });
    const delivered = await verify("verified");
    expect([delivered.code, delivered.checks.filter((c) => c.name === "tensors").length]).toEqual([0, 1]);
  });
});
