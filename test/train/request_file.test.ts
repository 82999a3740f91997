// request.json: what of a request is kept in its run directory, and what is refused when it is read again. No GPU.
// Alone: npx vitest run test/train/request_file.test.ts

import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.ts";
import { ConfigError } from "../../lib/errors.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { sha256 } from "../../lib/files/hash.ts";
import { sealedJson } from "../../lib/files/sealed.ts";
import type { TrainableSpec } from "../../lib/methods/method.ts";
import { CheckedRequest, keepRequest, loadRequest, verifyRequest } from "../../lib/train/request.ts";
import type { TrainRequest } from "../../lib/train/request.ts";
import type { TrainSession } from "../../lib/train/session.ts";
import { tempDir } from "../support/fixture.ts";
import { withoutFsync } from "../support/faulty_disk.ts";

withoutFsync();
const root = tempDir();
const memory = Dataset.fromRows([{ text: "a" }]);
const set = new ExpertSet({ layers: [[1, { ranked: [3, 0] }]], rule: { p: 0.5 } });
const esft = { type: "esft", options: {}, experts: set } as unknown as TrainableSpec;
const lora = { type: "lora", options: { rank: 4, targets: ["linear"] }, experts: null } as unknown as TrainableSpec;
const session = (backend = "cpu"): TrainSession =>
  ({
    dir: "/models/tiny",
    device: { info: { backend } },
    transformer: { precision: "bf16" },
    params: { roundedBase: false },
  }) as unknown as TrainSession;

/** A run directory with what was asked for. */
async function kept(more: object = {}, trainable = esft, backend?: string, outDir = mkdtempSync(join(root, "r"))): Promise<string> {
  const request = CheckedRequest.parse({ data: "rows.jsonl", method: { experts: set }, outDir, steps: 9, ...more } as TrainRequest);
  await keepRequest(session(backend), request, trainable);
  return outDir;
}
const read = (dir: string): Record<string, unknown> => JSON.parse(readFileSync(join(dir, "request.json"), "utf8")) as never;

it("keeps all that decides the run, files by their absolute paths, and reads it back", async () => {
  const dir = await kept({ evalData: "held.jsonl", data: { file: "rows.jsonl", template: "own.jinja", maxLength: 32 }, keep: "last" });
  const experts = readFileSync(join(dir, "experts.json"), "utf8");
  expect((await ExpertSet.load(join(dir, "experts.json"))).toJSON()).toEqual(set.toJSON());
  expect(read(dir)).toMatchObject({
    model: "/models/tiny",
    steps: 9,
    keep: "last",
    data: { file: resolve("rows.jsonl"), template: resolve("own.jinja"), maxLength: 32, packing: "document" },
    evalData: resolve("held.jsonl"),
    method: { type: "esft", experts: "experts.json" },
    outDir: ".",
    device: "cpu",
    precision: "bf16",
    expertsSha256: sha256(experts),
  });
  const { job, file } = await loadRequest(dir);
  expect(file).toBe(join(dir, "request.json"));
  const { model, device, precision, request } = CheckedRequest.parseJob(job, file, { resume: true });
  expect([model, device, precision, request.control]).toEqual(["/models/tiny", "cpu", "bf16", { resume: true }]);
  expect([request.data, request.evalData, request.outDir]).toEqual([resolve("rows.jsonl"), resolve("held.jsonl"), dir]);
  expect(request.method).toEqual({ type: "esft", experts: join(dir, "experts.json") });
  expect(request.options).toMatchObject({ steps: 9, keep: "last", data: { template: resolve("own.jinja"), maxLength: 32 } });
  await verifyRequest(dir);
});

it("keeps the method's own options, built-in templates by name, and no device that is none", async () => {
  const dir = await kept({ data: { file: "/a/rows.jsonl", template: "esft" } });
  expect(read(dir)).toMatchObject({ data: { file: "/a/rows.jsonl", template: "esft" } });
  expect(Object.keys(read(dir))).not.toContain("evalData");
  expect(read(await kept({}))).toMatchObject({ data: { template: "tokenizer" } });
  // Another method in the same place: its experts go.
  await kept({}, lora, "ref", dir);
  expect(read(dir)).toMatchObject({ method: { type: "lora", rank: 4, targets: ["linear"] } });
  expect(Object.keys(read(dir))).not.toEqual(expect.arrayContaining(["device"]));
  expect(Object.keys(read(dir))).not.toEqual(expect.arrayContaining(["expertsSha256"]));
  expect(Object.keys(read(dir)["method"] as object)).not.toContain("experts");
  expect(existsSync(join(dir, "experts.json"))).toBe(false);
  await verifyRequest(dir);
  expect((await loadRequest(dir)).job["method"]).toEqual({ type: "lora", rank: 4, targets: ["linear"] });
});

it("of rows from memory is whole, and resumed by the program alone", async () => {
  for (const more of [{ data: memory }, { evalData: memory }]) {
    const dir = await kept(more);
    expect(read(dir)).toMatchObject("data" in more ? { data: { file: null } } : { evalData: null });
    await verifyRequest(dir);
    await expect(loadRequest(dir)).rejects.toMatchObject({
      code: "ERR_CONFIG",
      message: expect.stringMatching(/request\.json: the rows of this run came from memory, not from a file/) as string,
      where: { file: join(dir, "request.json") },
    });
  }
});

it("does not go on by damaged files", async () => {
  const dir = await kept();
  const [request, experts] = ["request.json", "experts.json"].map((name) => readFileSync(join(dir, name), "utf8")) as [string, string];
  const both = async (message: RegExp): Promise<void> => {
    await expect(loadRequest(dir)).rejects.toMatchObject({ code: "ERR_LAYOUT", message: expect.stringMatching(message) as string });
    await expect(verifyRequest(dir)).rejects.toMatchObject({ code: "ERR_LAYOUT" });
  };
  writeFileSync(join(dir, "experts.json"), experts.replace("3", "4"));
  await both(/experts\.json: expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}; the file was damaged or changed after it was written$/);
  writeFileSync(join(dir, "experts.json"), experts);
  writeFileSync(join(dir, "request.json"), request.replace('"steps": 9', '"steps": 8'));
  await both(/request\.json: expected sha256 .*\. Give changes as flags; if it was edited on purpose, remove the line "sha256" from it$/);
  // So edited it holds; its experts are those that lie there.
  const edited = request.replace('"steps": 9', '"steps": 8').replace(/,\n {2}"sha256": "[0-9a-f]{64}"/, "");
  writeFileSync(join(dir, "request.json"), edited);
  writeFileSync(join(dir, "experts.json"), experts.replace("3", "4"));
  const { job, file } = await loadRequest(dir);
  expect(CheckedRequest.parseJob(job, file, {}).request.options.steps).toBe(8);
});

it("is finished when it was interrupted in the middle of being replaced", async () => {
  const dir = await kept();
  mkdirSync(join(dir, ".request.next"));
  for (const name of ["request.json", "experts.json"]) renameSync(join(dir, name), join(dir, ".request.next", name));
  expect((await loadRequest(dir)).job["steps"]).toBe(9);
  expect(existsSync(join(dir, ".request.next"))).toBe(false);
});

it("that is none is told from one that is missing", async () => {
  const dir = mkdtempSync(join(root, "r"));
  const path = join(dir, "request.json");
  await expect(loadRequest(dir)).rejects.toMatchObject({
    code: "ERR_CONFIG",
    message: `${dir}: expected a run directory with request.json, found none; start a run with esft train`,
  });
  for (const [text, message] of [
    ["{", /expected valid JSON/],
    ["[]", /expected keys and values, found object$/],
    ["5", /expected keys and values, found number$/],
  ] as const) {
    writeFileSync(path, text);
    const error: unknown = await loadRequest(dir).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as Error).message).toMatch(message);
    if (text !== "{") await verifyRequest(dir);
  }
  // Parts that are no objects are the parser's to refuse.
  writeFileSync(path, sealedJson({ data: "rows.jsonl", method: "full", expertsSha256: 5 }));
  expect((await loadRequest(dir)).job).toMatchObject({ data: "rows.jsonl", method: "full", outDir: dir });
  writeFileSync(path, sealedJson({ data: {}, method: { experts: "other.json" } }));
  expect((await loadRequest(dir)).job).toMatchObject({ method: { experts: "other.json" } });
  const folder = join(dir, "folder");
  mkdirSync(join(folder, "request.json"), { recursive: true });
  await expect(loadRequest(folder)).rejects.toMatchObject({
    code: "ERR_IO",
    message: expect.stringMatching(/expected a regular file/) as string,
  });
});
