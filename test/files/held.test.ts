// Output that would lie in its own input, and weight files that change while a model is in use. No GPU.
// Run alone: npx vitest run test/files/held.test.ts
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, readdirSync, renameSync, rmSync, linkSync, symlinkSync, utimesSync, writeFileSync, writeSync } from "node:fs"; // prettier-ignore
import { basename, join, relative } from "node:path";
import { describe, expect, it } from "vitest";
import { mergeAdapter } from "../../lib/adapter/merge.ts";
import { ConfigError, LayoutError } from "../../lib/errors.ts";
import { requireApart, requireOutputFile } from "../../lib/files/apart.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { hashCheckpoint } from "../../lib/files/hash.ts";
import { HeldFiles } from "../../lib/files/held.ts";
import { fresh, makeAdapter, makeBase } from "../adapter/support.ts";
import { cli } from "../cli/support.ts";
import { tempDir, tinyCheckpoint } from "../support/fixture.ts";

const root = tempDir();
const folder = () => mkdtempSync(join(root, "h-"));

describe("where output goes", () => {
  it("is apart from the input, however the paths are written", async () => {
    const at = folder();
    const model = join(at, "model");
    mkdirSync(join(model, "sub"), { recursive: true });
    symlinkSync(model, join(at, "link"));
    symlinkSync(at, join(at, "up"));
    for (const [out, fault] of [
      [model, "is the folder of the model"],
      [`${model}/`, "is the folder of"],
      [join(at, "sub/../model"), "is the folder of"],
      [relative(process.cwd(), model), "is the folder of"],
      [join(at, "link"), "is the folder of"],
      [join(at, "up/link"), "is the folder of"],
      [join(model, "sub"), "lies inside the model"],
      [join(at, "link/new/deep"), "lies inside the model"],
      [at, "holds the model"],
      [join(at, "up"), "holds the model"],
      ["/", "holds the model"],
    ] as const) {
      const refused = requireApart(out, model, "the model");
      await expect(refused).rejects.toThrow(`found ${out}, which ${fault}`);
      await expect(refused).rejects.toBeInstanceOf(ConfigError);
      await expect(refused).rejects.toMatchObject({ where: { key: "outDir", file: out } });
    }
    for (const out of [`${model}2`, join(at, "mod"), join(at, "out/new"), join(at, "..model"), join(at, "link2")])
      await requireApart(out, model, "the model");
    await requireApart(join(model, "new"), model, "the adapter", "output", true);
    await expect(requireApart(at, model, "the adapter", "output", true)).rejects.toMatchObject({ where: { key: "output" } });
  });

  it("for files: outside of models", async () => {
    const dir = folder();
    await tinyCheckpoint(dir);
    mkdirSync(join(dir, "a/b"), { recursive: true });
    const into = join(folder(), "into");
    symlinkSync(join(dir, "a"), into);
    for (const out of [join(dir, "x.json"), join(dir, "config.json"), join(dir, "a/b/x.json"), join(dir, "new/x.json"), join(into, "x")])
      await expect(requireOutputFile(out, [])).rejects.toThrow(/expected an output file outside of models, found .* in the model /);
    await requireOutputFile(join(dir, "../x.json"), []);
    const sharded = folder();
    writeFileSync(join(sharded, "config.json"), "{}");
    await requireOutputFile(join(sharded, "x.json"), []); // any config.json
    writeFileSync(join(sharded, "model.safetensors.index.json"), "{}");
    await expect(requireOutputFile(join(sharded, "x.json"), [])).rejects.toThrow(ConfigError);
  });

  it("for files: none of those that are read, whatever their names", async () => {
    const dir = fresh();
    const rows = join(dir, "rows.jsonl");
    writeFileSync(rows, "{}\n");
    symlinkSync(rows, join(dir, "symbolic"));
    linkSync(rows, join(dir, "hard"));
    for (const out of [rows, join(dir, "./x/../rows.jsonl"), join(dir, "symbolic"), join(dir, "hard")])
      await expect(requireOutputFile(out, ["/dev/null", rows])).rejects.toThrow(/expected an output file apart from what is read, found /);
    await expect(requireOutputFile(join(dir, "new"), [join(dir, "new")])).rejects.toThrow(ConfigError); // not there yet
    await requireOutputFile(join(dir, "new"), [rows]);
    await requireOutputFile(rows, [join(dir, "other")]);
  });

  it("merge never writes to its base or adapter, through a symlink either", async () => {
    const base = await makeBase();
    const adapter = await makeAdapter(base);
    const link = join(fresh(), "link");
    symlinkSync(base.dir, link);
    const before = readdirSync(base.dir);
    for (const out of [base.dir, link, join(base.dir, "merged"), join(base.dir, "..")])
      for (const overwrite of [false, true])
        await expect(mergeAdapter(base, adapter, out, { overwrite })).rejects.toThrow(/apart from the base/);
    expect(readdirSync(base.dir)).toEqual(before);
  });

  it("the commands refuse before they compute", async () => {
    const model = "test/fixtures/families/olmoe";
    const at = folder();
    symlinkSync(join(process.cwd(), model), join(at, "link"));
    for (const out of [model, join(at, "link"), `${model}/run`, "test/fixtures"])
      expect(await cli(["train", "--model", model, "--method", "full", "--data", "x.jsonl", "--out", out])).toMatchObject({
        code: 1,
        err: expect.stringContaining("expected an output folder apart from the model") as string,
      });
    for (const args of [
      ["profile", model, "x.jsonl", "-o", `${model}/p.json`],
      ["select", "p.json", "-o", join(at, "link/e.json")],
    ])
      expect(await cli(args)).toMatchObject({ code: 1, err: expect.stringContaining("outside of models") as string });
    mkdirSync(join(at, "a/b"), { recursive: true });
    const merge = await cli(["merge", model, "--adapter", join(at, "a/b"), "-o", join(at, "a")]);
    expect(merge.err).toContain("which holds the adapter");
  });
});

describe("files that are held open", () => {
  async function held() {
    const dir = folder();
    await tinyCheckpoint(dir, { shards: 2 });
    const checkpoint = await openCheckpoint(dir);
    await checkpoint.files.hold(checkpoint.shards);
    return { dir, checkpoint, path: checkpoint.shards[0]!.path };
  }

  it("are read though they were deleted, until they are let go", async () => {
    const { dir, checkpoint } = await held();
    const names = [...checkpoint.tensors.keys()];
    const wanted = await Promise.all(names.map((n) => checkpoint.read(n)));
    const { identity } = await hashCheckpoint(checkpoint);
    expect(await checkpoint.files.requireUnchanged()).toEqual([]);
    rmSync(dir, { recursive: true });
    expect(await checkpoint.files.requireUnchanged()).toEqual(checkpoint.shards.map((s) => s.path));
    for (const [i, name] of names.entries()) {
      expect(await checkpoint.read(name)).toEqual(wanted[i]);
      expect(await checkpoint.range(name, 2, 6)).toEqual(wanted[i]!.slice(2, 6));
      for await (const piece of checkpoint.chunks(name)) expect(piece).toEqual(wanted[i]);
    }
    expect((await hashCheckpoint(checkpoint)).identity).toEqual(identity);
    await checkpoint.files.close();
    expect(await checkpoint.files.requireUnchanged()).toEqual([]);
    await expect(checkpoint.read(names[0]!)).rejects.toMatchObject({ code: "ERR_IO" });
  });

  it.each<[string, (path: string) => void, RegExp]>([
    ["written to, of the same size", (p) => { const f = openSync(p, "r+"); writeSync(f, "x", 600); closeSync(f); utimesSync(p, 1e9, 1e9); }, /model-00001-of-00002.safetensors \(written at 2001-09-09T01:46:40.000Z\)/],
    ["cut", (p) => { const f = openSync(p, "r+"); ftruncateSync(f, 100); closeSync(f); }, /model-00001-of-00002.safetensors \(\d+ bytes before, 100 now\)/],
    ["replaced", (p) => { writeFileSync(`${p}.new`, "x"); renameSync(`${p}.new`, p); }, /model-00001-of-00002.safetensors \(another file took its place\)/],
  ])("are named when they are %s", async (_, change, message) => {
    const { dir, checkpoint, path } = await held();
    change(path);
    const error = await checkpoint.files.requireUnchanged().catch((e: unknown) => e as Error);
    expect(error).toBeInstanceOf(LayoutError);
    expect(error).toMatchObject({ message: expect.stringMatching(message) as string, where: { file: path, changed: 1 } });
    expect((error as Error).message).toContain(`${dir}: weight files changed while the model was in use: `);
    await checkpoint.files.close();
  }); // prettier-ignore

  it("are refused when they changed between header and hold", async () => {
    const dir = folder();
    await tinyCheckpoint(dir, { shards: 2 });
    const checkpoint = await openCheckpoint(dir);
    for (const { path } of checkpoint.shards) utimesSync(path, 5, 5);
    await expect(checkpoint.files.hold(checkpoint.shards)).rejects.toThrow(/00001-of-00002.safetensors \(written.*, model-00002-of/);
    expect(checkpoint.files.get(checkpoint.shards[0]!.path)).toBeUndefined();
    rmSync(checkpoint.shards[1]!.path);
    await expect(checkpoint.files.hold(checkpoint.shards)).rejects.toThrow(/no such file/);
    expect(checkpoint.files.get(checkpoint.shards[0]!.path)).toBeUndefined();
  });

  it("lists at most five", async () => {
    const dir = folder();
    await tinyCheckpoint(dir, { shards: 6 });
    const checkpoint = await openCheckpoint(dir);
    await using files = new HeldFiles();
    await files.hold(checkpoint.shards);
    for (const { path } of checkpoint.shards.slice(1)) utimesSync(path, 5, 5);
    await expect(files.requireUnchanged()).rejects.toThrow(/\); what was computed/); // all five
    utimesSync(checkpoint.shards[0]!.path, 5, 5);
    const error = (await files.requireUnchanged().catch((e: unknown) => e)) as Error;
    for (const [i, { path }] of checkpoint.shards.entries()) expect(error.message.includes(basename(path))).toBe(i < 5);
    expect(error.message).toContain(") …;");
    expect(error).toMatchObject({ where: { file: checkpoint.shards[0]!.path, changed: 6 } });
  });

  it("are let go when all reads are over, also by who closes them twice", async () => {
    const { checkpoint, path } = await held();
    const file = checkpoint.files.get(path)!;
    const read = file.read(0, 8);
    const [one, two] = [checkpoint.files.close(), checkpoint.files[Symbol.asyncDispose]()];
    expect(checkpoint.files.get(path)).toBeUndefined();
    expect((await read).length).toBe(8);
    await Promise.all([one, two]);
    const files = new HeldFiles();
    await files.hold(checkpoint.shards);
    await files[Symbol.asyncDispose]();
    expect(files.get(path)).toBeUndefined();
    await expect(file.read(0, 8)).rejects.toMatchObject({ code: "ERR_IO" });
  });
});
