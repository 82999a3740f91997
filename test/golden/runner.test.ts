// The runner of fixtures: what it takes for a fixture, that a wrong number fails, and its exit codes.

import { spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { encodeFloats } from "../../lib/files/floats.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { Device } from "./model.ts";
import { findFixtures, isNamed, runFixture } from "./runner.ts";

const fixtures = resolve("test/fixtures");
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "esft-golden-"));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** Copies a fixture of the repository to `at`. */
function copy(from: string, at: string): string {
  cpSync(join(fixtures, from), join(root, at), { recursive: true });
  return join(root, at);
}
function write(at: string, text: string): void {
  mkdirSync(join(root, at, ".."), { recursive: true });
  writeFileSync(join(root, at), text);
}
function edit<T>(file: string, change: (content: T) => void): void {
  const content = JSON.parse(readFileSync(file, "utf8")) as T;
  change(content);
  writeFileSync(file, JSON.stringify(content));
}
/** Adds to one element of an f32 tensor, in place. */
async function shift(file: string, tensor: string, by: number): Promise<void> {
  const { tensors } = await openSafetensors(file);
  const bytes = readFileSync(file);
  const { begin } = tensors.get(tensor)!;
  bytes.set(encodeFloats(Float32Array.of(bytes.readFloatLE(begin) + by), "F32"), begin);
  writeFileSync(file, bytes);
}

/** One of every kind under names that say nothing. */
function everyKind(): void {
  copy("families/olmoe", "a/b");
  copy("methods/olmoe-lora-attn", "c/one");
  copy("methods/base-olmoe", "c/base-olmoe");
  symlinkSync(join(fixtures, "text"), join(root, "d"));
  write("e/packed.safetensors", "");
  write("e/packed.json", "{}");
  write("f/golden.json", "{}");
  write("g/README.md", "");
}

describe("fixtures", () => {
  it("are recognised by what a folder holds", () => {
    everyKind();
    const names = findFixtures(root).map(({ name }) => name);
    expect(names.filter((name) => !name.startsWith("d/"))).toEqual(["a/b", "c/one", "e/packed", "f"]);
    expect(names).toEqual(
      expect.arrayContaining(["d/tokenizers/phi3", "d/templates/qwen3", "d/masks.json", "d/esft_packing.json", "d/datasets.json"]),
    );
    expect(findFixtures(join(root, "a/b")).map(({ name }) => name)).toEqual(["b"]);
    expect(findFixtures(join(root, "d/tokenizers/phi3")).map(({ name }) => name)).toEqual(["phi3"]);
    expect(findFixtures(join(root, "d/masks.json")).map(({ name }) => name)).toEqual(["masks.json"]);
    expect(findFixtures(join(root, "e/packed.json")).map(({ name }) => name)).toEqual(["packed"]);
    expect(findFixtures(join(root, "c/base-olmoe"))).toEqual([]);
  });

  it("of text need not be complete", () => {
    cpSync(join(fixtures, "text/datasets.json"), join(root, "t/datasets.json"));
    cpSync(join(fixtures, "text/tokenizers/phi3"), join(root, "u/tokenizers/another"), { recursive: true });
    expect(findFixtures(root).map(({ name }) => name)).toEqual(["t/datasets.json", "u/tokenizers/another"]);
  });

  it("are chosen by parts of their path", () => {
    const fixture = { name: "text/tokenizers/phi3", path: "", check: () => Promise.reject(new Error()) };
    expect(["phi3", "tokenizers", "text/tokenizers", "text/tokenizers/phi3"].every((name) => isNamed(fixture, name))).toBe(true);
    expect(["phi", "tokenizers/phi", "3"].some((name) => isNamed(fixture, name))).toBe(false);
  });
});

describe("a wrong number fails", () => {
  let device: Device;
  beforeAll(() => {
    device = new Device({ kind: "cpu", threads: 1 });
  });
  afterAll(() => device.dispose());

  async function check(at: string, name?: string): Promise<string[]> {
    const [fixture] = findFixtures(at).filter((f) => name === undefined || isNamed(f, name));
    const { outcome, failures } = await runFixture(fixture!, device);
    return [outcome, ...failures];
  }

  it.each([
    ["loss", (dir: string) => edit<{ loss: number }>(join(dir, "golden.json"), (g) => (g.loss *= 1 + 1e-5))],
    ["logits", (dir: string) => shift(join(dir, "golden.safetensors"), "logits", 1e-3)],
    ["gradients", (dir: string) => shift(join(dir, "golden.safetensors"), "grad.lm_head.weight", 1e-3)],
    [
      "greedy tokens",
      (dir: string) => edit<{ generation: { tokens: number[] } }>(join(dir, "golden.json"), (g) => g.generation.tokens.push(0, 0, 0)),
    ],
    ["moved tensors", (dir: string) => edit<{ esft: { moved: string[] } }>(join(dir, "golden.json"), (g) => g.esft.moved.pop())],
    ["hidden", (dir: string) => shift(join(dir, "golden.safetensors"), "hidden.1", 1e-3)],
  ] as const)("family: %s", async (what, spoil) => {
    const dir = copy("families/olmoe", "olmoe");
    await spoil(dir);
    expect(await check(dir)).toEqual(expect.arrayContaining(["FAIL", expect.stringContaining(`${what}: `)]));
  });

  it.each([
    [
      "losses",
      (dir: string) => edit<{ training: { losses: number[] } }>(join(dir, "golden.json"), (g) => (g.training.losses[7]! *= 1 + 1e-4)),
    ],
    ["logits", (dir: string) => shift(join(dir, "golden.safetensors"), "logits", 1e-4)],
    ["router weights", (dir: string) => shift(join(dir, "golden.safetensors"), "router.1.weights", 1e-5)],
    [
      "zero gradients",
      (dir: string) =>
        edit<{ zero_gradients: string[] }>(join(dir, "golden.json"), (g) =>
          g.zero_gradients.push("lora.model.layers.0.self_attn.q_proj.weight.A"),
        ),
    ],
    ["final tensors", (dir: string) => shift(join(dir, "golden.safetensors"), "final.lora.model.layers.0.self_attn.q_proj.weight.A", 1e-3)],
  ] as const)("method: %s", async (what, spoil) => {
    copy("methods/base-olmoe", "base-olmoe");
    const dir = copy("methods/olmoe-lora-attn", "one");
    await spoil(dir);
    expect(await check(dir)).toEqual(["FAIL", expect.stringContaining(`${what}: `)]);
  });

  it("text: an id, a rendering, a label, a draw, a row", async () => {
    type Json = { [key: string]: Json } & Json[] & { pop(): Json | undefined };
    const dir = copy("text", "text");
    edit<Json>(join(dir, "tokenizers/phi3/cases.json"), (g) => g["cases"]![3]!["ids"]!.push(1 as unknown as Json));
    edit<Json>(join(dir, "templates.json"), (g) => ((g["templates"]![0]!["cases"]![0]!["text"] as unknown) = "other"));
    edit<Json>(join(dir, "masks.json"), (g) => (g["cases"]!.find((c) => c["labels"])!["labels"]![0] = 7 as unknown as Json));
    edit<Json>(join(dir, "esft_packing.json"), (g) => g["packed"]![0]!["draws"]!.pop());
    edit<Json>(join(dir, "datasets.json"), (g) => ((g["bad"]![0]!["code"] as unknown) = "other"));
    const rows = findFixtures(dir);
    for (const name of ["tokenizers/phi3", "masks.json", "esft_packing.json", "datasets.json"])
      expect((await check(dir, name))[0], name).toBe("FAIL");
    expect(
      (
        await runFixture(
          rows.find(({ name }) => name.startsWith("templates/"))!,
          device,
        )
      ).outcome,
    ).toBe("FAIL");
    expect((await check(dir, "tokenizers/qwen2"))[0]).toBe("pass");
  });

  it("and so does a fixture that compares nothing, or cannot be read", async () => {
    write("t/datasets.json", '{ "good": [], "bad": [] }');
    expect(await check(join(root, "t"))).toEqual(["FAIL", "nothing was compared"]);
    const dir = copy("families/olmoe", "olmoe");
    rmSync(join(dir, "golden.safetensors"));
    expect(await check(dir)).toEqual(["FAIL", expect.stringContaining("golden.safetensors")]);
  });
});

describe("npm run golden", () => {
  /** Exit code and lines of the command. */
  function golden(...args: string[]): Promise<{ code: number | null; lines: string[] }> {
    const child = spawn(process.execPath, ["--import", "tsx", "scripts/golden.ts", ...args], { stdio: ["ignore", "pipe", "pipe"] });
    const lines: string[] = [];
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (text: Buffer) => lines.push(...String(text).trimEnd().split("\n")));
    return new Promise((done) => child.on("close", (code) => done({ code, lines })));
  }

  it("passes what is served, and fails what is not unless it is told", async () => {
    copy("families/olmoe", "families/olmoe");
    copy("families/olmoe", "families/other");
    edit<{ model_type: string }>(join(root, "families/other/config.json"), (c) => (c.model_type = "none"));
    const [without, served, none] = await Promise.all([
      golden(root),
      golden(root, "--served"),
      golden(root, "--served", "--only", "other"),
    ]);
    expect(served.lines).toEqual([
      expect.stringMatching(/^device: cpu/),
      expect.stringMatching(/^pass +families\/olmoe +logits /),
      expect.stringMatching(/^not served +families\/other +"model_type" "none" is not supported/),
      "1 passed, 0 failed, 1 not served",
    ]);
    expect([without.code, served.code, none.code]).toEqual([1, 0, 1]);
    expect(without.lines).toEqual(served.lines);
    expect(none.lines.at(-1)).toBe("0 passed, 0 failed, 1 not served");
  });

  it("fails when one does, and says what differs", async () => {
    const dir = copy("families/olmoe", "olmoe");
    await shift(join(dir, "golden.safetensors"), "logits", 1e-3);
    const { code, lines } = await golden(root, "--served");
    expect(code).toBe(1);
    expect(lines).toEqual(expect.arrayContaining([expect.stringMatching(/^FAIL +olmoe +FAIL logits/), "0 passed, 1 failed, 0 not served"]));
  });

  it("says in one line why it cannot begin", async () => {
    const empty = join(root, "empty");
    mkdirSync(empty);
    const runs = [
      [],
      [join(root, "absent")],
      [empty],
      [empty, "--unknown"],
      [fixtures, "--only", "nobody"],
      [fixtures, "extra"],
      [fixtures, "--device", "gpu"],
    ];
    const ends = await Promise.all(runs.map((args) => golden(...args)));
    expect(ends.map(({ code, lines }) => [code, lines.length])).toEqual(runs.map(() => [2, 1]));
    expect(ends.map(({ lines }) => lines[0])).toEqual([
      expect.stringMatching(/^usage: /),
      expect.stringContaining("no such file or folder"),
      expect.stringContaining("no fixture under"),
      expect.stringContaining("'--unknown'"),
      expect.stringContaining("no fixture nobody under"),
      expect.stringMatching(/^usage: /),
      expect.stringContaining("device must be"),
    ]);
  });
});
