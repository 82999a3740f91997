// Where to compute, from the outside: --device cuda without CUDA is a clear error with the fix, auto computes on the CPU and says
// why, the doctor has one line. No GPU: the library of these tests does not exist. Alone: npx vitest run test/cli/device.test.ts

import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { openDevice } from "../../lib/device.ts";
import { tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";
import { cli, scratch, writeRows } from "./support.ts";

const dir = scratch();
const model = join(dir, "model");
const data = join(dir, "rows.jsonl");
const before = { ...process.env };

beforeAll(async () => {
  await writeTinyModel(model, tinyOlmoe);
  writeRows(data);
});
beforeEach(() => {
  process.env["ESFT_CUDA_LIBRARY"] = join(dir, "libesft_cuda.so");
  delete process.env["ESFT_DEVICE"];
});
afterAll(() => {
  for (const key of ["ESFT_CUDA_LIBRARY", "ESFT_DEVICE"])
    if (before[key] === undefined) delete process.env[key];
    else process.env[key] = before[key];
});

const evaluate = (...flags: string[]) => cli(["eval", model, "--data", data, "--max-length", "64", "--threads", "1", ...flags]);

describe("--device", () => {
  it("cuda where there is none: what is missing and what to do, nothing computed", async () => {
    const { code, out, err } = await evaluate("--device", "cuda");
    expect([code, out]).toEqual([1, ""]);
    expect(err).toMatch(
      /^error \[ERR_KERNEL\]: device "cuda": ESFT_CUDA_LIBRARY names .*libesft_cuda\.so, which cannot be read; use device "cpu"/m,
    );
  });

  it("auto computes on the CPU and says why, in one line", async () => {
    const { code, err } = await evaluate();
    expect(code).toBe(0);
    expect(err).toMatch(/^device: cpu \(auto: ESFT_CUDA_LIBRARY names .*, which cannot be read\), \S+, 1 thread, f32$/m);
    expect((await evaluate("--device", "cpu")).err).toMatch(/^device: cpu, \S+, 1 thread, f32$/m);
  });

  it("knows auto, cpu, cuda and cuda:N; ESFT_DEVICE decides for auto", async () => {
    expect((await evaluate("--device", "tpu")).err).toMatch(/expected auto, cpu, cuda or cuda:N/);
    expect((await evaluate("--device", "cuda:1")).err).toMatch(/device "cuda:1": /);
    process.env["ESFT_DEVICE"] = "cuda";
    expect((await evaluate()).code).toBe(1);
    process.env["ESFT_DEVICE"] = "tpu";
    expect((await evaluate()).err).toMatch(/ESFT_DEVICE must be "auto", "cpu", "cuda" or "cuda:N", found "tpu"/);
    process.env["ESFT_DEVICE"] = "cpu";
    expect((await evaluate()).err).toMatch(/^device: cpu \(auto\), /m);
  });

  it("auto with precision f32 is the CPU", () => {
    const { device, reason } = openDevice("auto", { threads: 1, precision: "f32" });
    expect([device.info.backend, reason]).toEqual(["cpu", 'precision "f32"']);
    device.dispose();
  });
});

describe("esft doctor", () => {
  it("says in one line that there is no CUDA, and the same as JSON", async () => {
    expect((await cli(["doctor"])).out).toMatch(/^CUDA +not available: ESFT_CUDA_LIBRARY names \S+, which cannot be read$/m);
    const { cuda } = JSON.parse((await cli(["doctor", "--json"])).out);
    expect(cuda).toMatchObject({
      loaded: false,
      devices: [],
      library: process.env["ESFT_CUDA_LIBRARY"],
      reason: expect.stringMatching(/cannot be read/),
    });
  });
});
