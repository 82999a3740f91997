// Streams that cannot be written: a full disk is one line and exit code 1, a reader that has gone is no error, for commands and the
// benchmark alike; what is written to a file is written whole or the command fails. Linux (/dev/full); no GPU.
// Alone: npx vitest run test/cli/output.test.ts

import { spawn } from "node:child_process";
import { existsSync, openSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { tinyOlmoe, writeTinyModel } from "../support/tiny_model.ts";
import { cli, projectRoot, scratch, writeRows } from "./support.ts";

const root = scratch();
const at = (name: string): string => join(root, name);
const [model, data] = [at("model"), at("rows.jsonl")];
const command = [process.execPath, "--import", "tsx"];
const esft = (...args: string[]): string[] => [...command, join(projectRoot, "lib/cli/main.ts"), ...args];
const bench = (...args: string[]): string[] => [...command, join(projectRoot, "bench/main.ts"), ...args];

beforeAll(async () => {
  await writeTinyModel(model, tinyOlmoe);
  writeRows(data);
});

/** Runs `argv` with its stdout, or its stderr, in `file`; "gone": a pipe that nobody reads. */
function run(argv: readonly string[], to: { readonly out?: string; readonly err?: string }) {
  const target = (path: string | undefined) => (path === undefined || path === "gone" ? ("pipe" as const) : openSync(path, "w"));
  const child = spawn(argv[0]!, argv.slice(1), { cwd: projectRoot, stdio: ["ignore", target(to.out), target(to.err)] });
  if (to.out === "gone") child.stdout?.destroy();
  let err = "";
  child.stderr?.on("data", (b: Buffer) => void (err += b.toString()));
  return new Promise<{ code: number | null; signal: string | null; err: string }>((resolve) => {
    child.on("close", (code, signal) => resolve({ code, signal, err }));
  });
}

const commands: readonly [string, string[], string][] = [
  ["--help", esft("--help"), "error [ERR_IO]"],
  ["--version", esft("--version"), "error [ERR_IO]"],
  ["train --help", esft("train", "--help"), "error [ERR_IO]"],
  ["doctor", esft("doctor"), "error [ERR_IO]"],
  ["inspect --json", esft("inspect", model, "--json"), "error [ERR_IO]"],
  ["preview", esft("preview", model, data), "error [ERR_IO]"],
  ["bench --help", bench("--help"), "bench"],
  ["bench --list", bench("--list"), "bench"],
];

describe.skipIf(!existsSync("/dev/full"))("a full disk under stdout", () => {
  it.each(commands)("%s: one line, exit code 1", async (_, argv, who) => {
    const { code, signal, err } = await run(argv, { out: "/dev/full" });
    expect([code, signal, err]).toEqual([1, null, `${who}: cannot write to stdout: the disk is full\n`]);
  });

  it("ends a run with a checkpoint", async () => {
    const { code, err } = await run(esft("train", ...job("full"), "--json"), { out: "/dev/full" });
    expect([code, err.match(/^error .*$/gm)]).toEqual([1, ["error [ERR_IO]: cannot write to stdout: the disk is full"]]);
    expect(err).not.toMatch(/\n {4}at /);
    expect((await cli(["resume", at("full"), "--json"])).out.trim().split("\n").at(-1)).toMatch(/"type":"result".*"reason":"finished"/);
  });

  it("under stderr: the exit code says it, the result is there", async () => {
    const { code } = await run(esft("eval", model, "--data", data, "--json"), { out: at("eval.json"), err: "/dev/full" });
    expect([code, JSON.parse(readFileSync(at("eval.json"), "utf8"))]).toEqual([1, expect.any(Object)]);
  });
});

describe("a reader that has gone", () => {
  it.each(commands)("%s: nothing to say", async (_, argv) => {
    expect(await run(argv, { out: "gone" })).toEqual({ code: 0, signal: null, err: "" });
  });

  it("a check that failed stays failed", async () => {
    writeRows(at("bad.jsonl"), [{ text: 1 }]);
    expect(await run(esft("preview", model, at("bad.jsonl"), "--lint", "-n", "0"), { out: "gone" })).toMatchObject({ code: 1 });
  });

  it("ends a run with a checkpoint", async () => {
    const { code, err } = await run(esft("train", ...job("gone"), "--json"), { out: "gone" });
    expect([code, err]).toEqual([0, expect.not.stringMatching(/error|\n {4}at /)]);
    expect((await cli(["resume", at("gone"), "--json"])).code).toBe(0);
  });
});

describe.skipIf(process.platform === "win32")("a file that cannot grow", () => {
  it("fails the command where Node's stream would take a short write for a whole one", async () => {
    const file = at("short.txt");
    const script = `trap "" XFSZ; ulimit -f 2; exec "$@" > ${file}`;
    const { code, err } = await run(["bash", "-c", script, "bash", ...esft("train", "--help")], {});
    expect([code, err]).toEqual([1, "error [ERR_IO]: cannot write to stdout: the file would exceed the size limit\n"]);
    expect(statSync(file).size).toBe(2048);
    expect(readFileSync(file)).toEqual(Buffer.from((await cli(["train", "--help"])).out).subarray(0, 2048));
  });
});

function job(name: string): string[] {
  const flags = { model, data, method: "full", out: at(name), steps: "40", "rows-per-step": "4", "max-length": "64", lr: "0.01" };
  return Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, value]);
}
