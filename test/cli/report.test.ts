// esft report: what it writes, where it refuses to, a run that the library made. No GPU. Alone: npx vitest run test/cli/report.test.ts

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { writeComparison } from "../../lib/compare/result.ts";
import { sample } from "../compare/sample.ts";
import { dataOf, writeRun } from "../report/support.ts";
import { tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";
import { cli, scratch, writeRows } from "./support.ts";

const dir = scratch();
const at = (name: string): string => path.join(dir, name);

describe("of what the commands made", () => {
  beforeAll(async () => {
    await writeTinyModel(at("model"), tinyOlmoe);
    writeRows(at("rows.jsonl"));
    const threads = ["--threads", "1", "--device", "cpu"];
    await cli(["profile", at("model"), at("rows.jsonl"), "-o", at("a.profile.json"), "--tokens", "64", "--max-length", "64", ...threads]);
    await cli(["select", at("a.profile.json"), "--top-k-per-layer", "2", "-o", at("a.experts.json")]);
    const job = ["--model", at("model"), "--data", at("rows.jsonl"), "--experts", at("a.experts.json"), "--out", at("run")];
    await cli(["train", ...job, "--steps", "4", "--eval-every", "2", "--max-length", "64", "--rows-per-step", "2", ...threads]);
  });

  it("a run", async () => {
    const { code, out, err } = await cli(["report", at("run"), "-o", at("run.html"), "--title", "A run"]);
    expect([code, err]).toEqual([0, ""]);
    expect(out).toMatch(/written: .*run\.html \(\d+(?:\.\d+)? kB\)/);
    const { title, figures } = dataOf(readFileSync(at("run.html"), "utf8"));
    expect(title).toBe("A run");
    const logged = readFileSync(at("run/events.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line) as { type: string; step: number; loss: number }); // prettier-ignore
    const loss = figures.find((f) => f.id === "loss")!.rows;
    for (const { type, step, loss: value } of logged)
      if (type === "step" || type === "eval")
        expect(loss).toContainEqual(expect.objectContaining({ step, [type === "step" ? "loss" : "heldOut"]: value }));
    expect(figures.find((f) => f.id === "configuration")!.rows).toContainEqual({ key: "rowsPerStep", value: "2" });
  });

  it("a profile and its selection", async () => {
    const { code } = await cli(["report", at("a.profile.json"), "--experts", at("a.experts.json"), "-o", at("a.html")]);
    expect(code).toBe(0);
    const { rows } = dataOf(readFileSync(at("a.html"), "utf8")).figures.find((f) => f.id === "affinity-1")!;
    const { layers } = JSON.parse(readFileSync(at("a.experts.json"), "utf8")) as { layers: { experts: number[] }[] };
    expect(rows.map((r) => r["selected"])).toEqual(layers.map((l) => l.experts.join(" ")));
  });
});

it("an output that is there needs --overwrite, and is none of the inputs", async () => {
  const run = writeRun(at("other"));
  writeFileSync(at("there.html"), "mine");
  const refused = await cli(["report", run, "-o", at("there.html")]);
  expect([refused.code, refused.err]).toEqual([1, `error [ERR_CONFIG]: ${at("there.html")} is there already; --overwrite replaces it\n`]);
  expect(readFileSync(at("there.html"), "utf8")).toBe("mine");
  expect((await cli(["report", run, "-o", at("there.html"), "--overwrite"])).code).toBe(0);
  writeFileSync(at("own.json"), "{}");
  expect((await cli(["report", at("own.json"), "-o", at("own.json"), "--overwrite"])).err).toContain(
    "expected an output file apart from what is read",
  );
});

it("no file that a report is made from is replaced", async () => {
  const names = ["events.jsonl", "request.json", "compare.json", "compare.times.json"];
  const run = writeRun(at("kept"));
  mkdirSync(at("compared"));
  await writeComparison(at("compared"), sample);
  const tries = [
    ...names.slice(0, 2).map((name) => [run, `${run}/${name}`]),
    ...names.slice(2).flatMap((name) => [at("compared"), at("compared/compare.json")].map((input) => [input, at(`compared/${name}`)])),
  ] as [string, string][];
  expect(tries).toHaveLength(6);
  for (const [input, output] of tries) {
    const before = readFileSync(output, "utf8");
    const { code, err } = await cli(["report", input, "-o", output, "--overwrite"]);
    expect([code, err]).toEqual([1, expect.stringContaining("expected an output file apart from what is read")]);
    expect(readFileSync(output, "utf8")).toBe(before);
  }
  expect((await cli(["report", run, "-o", `${run}/report.html`])).code).toBe(0);
});

it("usage: inputs and an output, scores that there are", async () => {
  expect((await cli(["report"])).err).toMatch(/^error \[ERR_USAGE\]: /);
  expect((await cli(["report", at("x")])).err).toContain("required option '-o, --output <file>' not specified");
  expect((await cli(["report", at("x"), "-o", at("y"), "--score", "best"])).err).toContain("Allowed choices are token, gate, gradient");
  expect((await cli(["report", at("x"), "-o", at("y.html")])).err).toMatch(/^error \[ERR_IO\]: cannot read .*x: no such file or directory/);
});
