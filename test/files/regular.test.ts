// Files that are no files: pipes, devices, sockets and folders under every name that is read. Nothing may hang.
// Run alone: npx vitest run test/files/regular.test.ts
import { execFileSync, spawn } from "node:child_process";
import { createWriteStream, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { basename, join } from "node:path";
import { describe, expect, it } from "vitest";
import { Adapter } from "../../lib/adapter/adapter.ts";
import { mergeAdapter } from "../../lib/adapter/merge.ts";
import { Dataset } from "../../lib/data/dataset.ts";
import { openTemplate } from "../../lib/data/source.ts";
import { ConfigError, IoError, LayoutError } from "../../lib/errors.ts";
import { ExpertSet } from "../../lib/experts/expert_set.ts";
import { Profile } from "../../lib/experts/profile.ts";
import { readTraces } from "../../lib/experts/traces.ts";
import { openCheckpoint } from "../../lib/files/checkpoint.ts";
import { readJsonFile } from "../../lib/files/json.ts";
import { copyRegular, readTextFile, RegularFile, streamFile } from "../../lib/files/regular.ts";
import { openSafetensors, readChunks, readFileRange } from "../../lib/files/safetensors.ts";
import { loadTokenizer } from "../../lib/text/tokenizer.ts";
import { EventLog } from "../../lib/train/events.ts";
import { fresh, makeAdapter, makeBase } from "../adapter/support.ts";
import { cli } from "../cli/support.ts";
import { tempDir, tinyCheckpoint } from "../support/fixture.ts";

const root = tempDir();
const folder = () => mkdtempSync(join(root, "r-"));
function pipe(path = join(folder(), "pipe")): string {
  rmSync(path, { force: true });
  execFileSync("mkfifo", [path]);
  return path;
}
const isPipe = /expected a regular file, found a pipe/;
const text = async (stream: AsyncIterable<Uint8Array>) => {
  const parts: Uint8Array[] = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts).toString();
};

describe("a pipe under a name that is read", () => {
  it.each(["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"])("checkpoint: %s", async (name) => {
    const dir = folder();
    await tinyCheckpoint(dir, { shards: 2 });
    pipe(join(dir, name));
    await expect(openCheckpoint(dir)).rejects.toThrow(isPipe);
  });
  it("checkpoint: a side file that a merge copies", async () => {
    const base = await makeBase();
    const adapter = await makeAdapter(base);
    pipe(join(base.dir, "tokenizer.json"));
    const out = join(fresh(), "merged");
    await expect(mergeAdapter(base, adapter, out)).rejects.toThrow(isPipe);
  });
  it.each(["tokenizer.json", "tokenizer_config.json", "chat_template.json", "chat_template.jinja", "additional_chat_templates/a.jinja"])(
    "tokenizer: %s",
    async (name) => {
      const dir = folder();
      writeFileSync(join(dir, "tokenizer.json"), '{"model": {"vocab": {}}}');
      mkdirSync(join(dir, "additional_chat_templates"));
      pipe(join(dir, name));
      await expect(loadTokenizer(dir)).rejects.toThrow(isPipe);
    },
  );
  it.each(["adapter.json", "adapter.safetensors"])("adapter: %s", async (name) => {
    const dir = fresh();
    await (await makeAdapter(await makeBase())).save(dir);
    pipe(join(dir, name));
    await expect(Adapter.load(dir)).rejects.toThrow(isPipe);
  });
  it("profile, expert set, traces, template, events", async () => {
    const path = pipe();
    await expect(Profile.load(path)).rejects.toThrow(isPipe);
    await expect(ExpertSet.load(path)).rejects.toThrow(isPipe);
    await expect(openTemplate(path)).rejects.toThrow(isPipe);
    await expect(new EventLog(path).rewind(1)).rejects.toThrow(isPipe);
    const traces = folder();
    pipe(join(traces, "expert_weights_1.txt"));
    await expect(readTraces(traces)).rejects.toThrow(isPipe);
  });
  it("a job, and what else the command line takes", async () => {
    const path = pipe();
    for (const args of [
      ["train", path],
      ["select", path],
      ["inspect", "test/fixtures/families/olmoe", "--experts", path],
      ["eval", "test/fixtures/families/olmoe", "--data", path, "--adapter", "x"],
    ]) {
      const { code, err } = await cli(args);
      expect([code, err]).toEqual([1, expect.stringMatching(/found a pipe|is a pipe/)]);
    }
  });
});

describe("RegularFile", () => {
  it("says what it found instead", async () => {
    const dir = folder();
    await expect(RegularFile.open(dir)).rejects.toThrow(/found a directory/);
    await expect(RegularFile.open("/dev/null")).rejects.toThrow(/found a device/);
    for (const [read, what] of [
      [RegularFile.open, "open"],
      [readTextFile, "open"],
      [(p: string) => copyRegular(p, join(dir, "copy")), "copy"],
      [(p: string) => streamFile(p).next(), "read"],
    ] as const) {
      // prettier-ignore
      const path = join(dir, "absent");
      await expect(read(path)).rejects.toMatchObject({ code: "ERR_IO", message: `cannot ${what} ${path}: no such file or directory`, where: { file: path } }); // prettier-ignore
    }
    writeFileSync(join(dir, "closed"), "x");
    const closed = await RegularFile.open(join(dir, "closed"));
    await closed[Symbol.asyncDispose]();
    for (const read of [closed.read(0, 1), closed.content()])
      await expect(read).rejects.toMatchObject({ code: "ERR_IO", message: expect.stringContaining(`cannot read ${closed.path}: `) as string, where: { file: closed.path } }); // prettier-ignore
    const server = createServer().listen(join(dir, "s"));
    await new Promise((resolve) => server.once("listening", resolve));
    await expect(RegularFile.open(join(dir, "s"))).rejects.toThrow(/found a socket/);
    server.close();
    for (const what of [
      readTextFile,
      openSafetensors,
      (p: string) => readFileRange(p, 0, 1),
      (p: string) => readChunks({ path: p, begin: 0, end: 1 }).next(),
    ])
      await expect(what(pipe())).rejects.toThrow(IoError);
    await expect(copyRegular(pipe(), join(dir, "copy"))).rejects.toThrow(isPipe);
    await expect(readJsonFile(pipe(), ConfigError)).rejects.toMatchObject({ code: "ERR_IO" });
  });

  it("reads through a symlink, and tells by its stamp what happened to the file", async () => {
    const dir = folder();
    const path = join(dir, "a");
    writeFileSync(path, "0123456789");
    symlinkSync(path, join(dir, "link"));
    await using file = await RegularFile.open(join(dir, "link"));
    expect(file.size).toBe(10);
    expect(Buffer.from(await file.read(2, 5)).toString()).toBe("234");
    expect((await file.content()).toString()).toBe("0123456789");
    await expect(file.read(8, 12)).rejects.toThrow(/expected data up to byte 12, found the end of the file at 10/);
    await expect(file.read(8, 12)).rejects.toThrow(LayoutError);
    expect((await file.currentStamp()).mtimeNs).toBe(file.stamp.mtimeNs);
    writeFileSync(join(dir, "b"), "x");
    renameSync(join(dir, "b"), path);
    expect(await file.currentStamp()).toMatchObject({ size: 10n, ino: file.stamp.ino }); // the one that was opened
    writeFileSync(path, "");
    expect((await file.currentStamp()).size).toBe(10n);
  });

  it("reads text in UTF-8 alone, a torn end where that is asked for", async () => {
    const path = join(folder(), "x.yaml");
    writeFileSync(path, Buffer.from([0x61, 0xc3]));
    await expect(readTextFile(path)).rejects.toMatchObject({
      code: "ERR_LAYOUT",
      message: `${path}: expected text in UTF-8, found bytes that are none; save it as UTF-8`,
    });
    expect(await readTextFile(path, 10, "replace")).toBe("a\ufffd");
    writeFileSync(path, "\ufeffé");
    expect(await readTextFile(path)).toBe("\ufeffé");
  });

  it("reads text of at most so many bytes", async () => {
    const path = join(folder(), "t");
    writeFileSync(path, "grün");
    expect(await readTextFile(path)).toBe("grün");
    expect(await readTextFile(path, 5)).toBe("grün");
    await expect(readTextFile(path, 4)).rejects.toThrow(/at most 4 bytes of text, found 5/);
  });
});

describe("rows from a pipe", () => {
  const row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n';

  it("come as they are written, also from a writer that is late", async () => {
    const path = pipe();
    const lines = text(streamFile(path));
    await new Promise((resolve) => setTimeout(resolve, 50));
    createWriteStream(path).end(row.repeat(2000));
    expect(await lines).toBe(row.repeat(2000));
    const again = Dataset.fromFile(path);
    setTimeout(() => createWriteStream(path).end(row), 20);
    expect(await again.lint()).toMatchObject({ rows: 1, good: 1 });
  });

  it("of a device that is empty, or of a pipe of /dev that nobody writes to, are none", async () => {
    expect(await text(streamFile("/dev/null"))).toBe("");
    if (!existsSync("/dev/shm")) return;
    const path = pipe(join("/dev/shm", basename(folder())));
    expect(await text(streamFile(path)).finally(() => rmSync(path))).toBe("");
  });

  it("are waited for until the signal fires", async () => {
    const path = pipe();
    const stop = new AbortController();
    const reading = Dataset.fromFile(path).lint(undefined, { signal: stop.signal });
    setTimeout(() => stop.abort(), 30);
    await expect(reading).rejects.toMatchObject({ code: "ERR_ABORTED" });
    await expect(streamFile(path, AbortSignal.abort()).next()).rejects.toThrow(`reading ${path} was aborted`);
    await expect(Dataset.fromFile(path).lint(undefined, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "ERR_ABORTED" });
  });

  it("the command says that it waits, and does not read a pipe twice", async () => {
    const path = pipe();
    const writer = spawn("sh", ["-c", 'cat > "$0"', path], { stdio: ["pipe", "ignore", "ignore"] });
    writer.stdin.end(row);
    const { code, out, err } = await cli(["preview", "examples/embedded", path]);
    expect([code, err]).toEqual([0, `rows: waiting for what is written to the pipe ${path}\n`]);
    expect(out).toContain("b");
    const twice = await cli(["preview", "examples/embedded", path, "--lint"]);
    expect(twice.err).toMatch(/reads the rows twice; write them to a file/);
  });

  it("a folder, a socket or an absent file are errors in words", async () => {
    await expect(Dataset.fromFile(root).lint()).rejects.toThrow(/expected a regular file, found a directory/);
    await expect(Dataset.fromFile(join(root, "absent")).lint()).rejects.toThrow(/cannot read .*absent: no such file/);
  });
});
