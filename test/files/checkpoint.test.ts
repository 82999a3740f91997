// Checkpoint directories: sharded and single, hostile index files, identity. No GPU.
// Run alone: npx vitest run test/files/checkpoint.test.ts
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, it } from "vitest";
import { ConfigError, IoError, LayoutError } from "../../lib/errors.ts";
import { checkpointArgument, openCheckpoint } from "../../lib/files/checkpoint.ts";
import { hashCheckpoint, sameBase } from "../../lib/files/hash.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";
import { tempDir, tinyCheckpoint } from "../support/fixture.ts";

const root = tempDir();
const shared = process.env.ESFT_SHARED ?? join(import.meta.dirname, "../../../shared");

async function make(options: Parameters<typeof tinyCheckpoint>[1] = {}): Promise<string> {
  const dir = mkdtempSync(join(root, "c-"));
  await tinyCheckpoint(dir, options);
  return dir;
}
const INDEX = "model.safetensors.index.json";
type Index = { weight_map: Record<string, unknown> };
function editIndex(dir: string, edit: (index: Index) => void): void {
  const index = JSON.parse(readFileSync(join(dir, INDEX), "utf8")) as Index;
  edit(index);
  writeFileSync(join(dir, INDEX), JSON.stringify(index));
}

describe("openCheckpoint", () => {
  it("opens single and sharded checkpoints alike", async () => {
    const [a, b] = [await openCheckpoint(await make()), await openCheckpoint(await make({ shards: 3 }))];
    expect([...b.tensors.keys()].sort()).toEqual([...a.tensors.keys()].sort());
    expect(a.totalBytes).toBe(b.totalBytes);
    expect(b.shards.length).toBe(3);
    expect(a.config).toEqual({ model_type: "tiny", hidden_size: 8 });
    expect(a.sideFiles).toEqual(["config.json", "tokenizer.json"]);
    for (const name of a.tensors.keys()) expect(await b.read(name)).toEqual(await a.read(name));
    expect((await hashCheckpoint(a)).identity).toEqual((await hashCheckpoint(b)).identity);
    expect([a.indexFile, b.indexFile]).toEqual([null, INDEX]);
    expect(b.shards.map((shard) => basename(shard.path))).toEqual([1, 2, 3].map((n) => `model-0000${n}-of-00003.safetensors`));
    await expect(a.read("nope")).rejects.toThrow(LayoutError);
  });

  it("tells what a copy needs beside the weights", async () => {
    const dir = await make();
    const side = ["LICENSE", "LICENSE.txt", "added_tokens.json", "chat_template.jinja", "config.json", "configuration_x.py", "generation_config.json", "merges.txt", "modeling_x.py", "special_tokens_map.json", "tokenization_x.py", "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt"]; // prettier-ignore
    const other = ["README.md", "my_config.json", "config.json.bak", "modeling.py", "x_modeling_x.py", "vocab.bin", "merges.txt2", "adapter.json", "merge.json"]; // prettier-ignore
    for (const name of [...side, ...other]) writeFileSync(join(dir, name), "{}");
    mkdirSync(join(dir, "tokenizer"));
    expect((await openCheckpoint(dir)).sideFiles).toEqual(side);
  });

  it("prefers the single file, and completes a save that was interrupted", async () => {
    const dir = await make({ shards: 2 });
    await tinyCheckpoint(dir);
    expect((await openCheckpoint(dir)).shards.map((s) => basename(s.path))).toEqual(["model.safetensors"]);
    renameSync(dir, join(dir, "..", `.${basename(dir)}.next`));
    expect((await openCheckpoint(dir)).tensors.size).toBeGreaterThan(0);
    expect(existsSync(dir)).toBe(true);
  });

  it("is what functions of an opened checkpoint take", async () => {
    const checkpoint = await openCheckpoint(await make());
    checkpointArgument(checkpoint, "base");
    for (const key of ["dir", "config", "shards", "tensors", "chunks"])
      expect(() => checkpointArgument({ ...checkpoint, [key]: undefined }, "base")).toThrow(/^base: expected an opened checkpoint/);
    for (const path of ["", 5, "a\0b"]) await expect(openCheckpoint(path as string)).rejects.toThrow(/^openCheckpoint: dir/);
  });

  it.each([
    ["../../etc/passwd.safetensors"], ["/etc/x.safetensors"], ["sub/m.safetensors"], ["..\\m.safetensors"], ["C:m.safetensors"],
    ["..safetensors/.."], [".hidden.safetensors"], ["a\0.safetensors"], ["config.json"], [""], [null], [3], [["x"]],
  ])("refuses an index that names %j", async (name) => {
    const dir = await make({ shards: 2 });
    editIndex(dir, (i) => (i.weight_map["model.embed_tokens.weight"] = name));
    await expect(openCheckpoint(dir)).rejects.toThrow(/same directory/);
  }); // prettier-ignore

  it("has its shards in the order of their names, whatever the order of the index", async () => {
    const dir = await make({ shards: 3 });
    editIndex(dir, (i) => (i.weight_map = Object.fromEntries(Object.entries(i.weight_map).reverse())));
    expect((await openCheckpoint(dir)).shards.map((s) => basename(s.path))).toEqual(
      [1, 2, 3].map((n) => `model-0000${n}-of-00003.safetensors`),
    );
    editIndex(dir, (i) => (i.weight_map = {}));
    await expect(openCheckpoint(dir)).rejects.toThrow('model.safetensors.index.json: expected tensors in "weight_map", found none');
  });

  it("refuses missing shards, unknown tensors, wrong shards and duplicates", async () => {
    const missing = await make({ shards: 2 });
    rmSync(join(missing, "model-00002-of-00002.safetensors"));
    await expect(openCheckpoint(missing)).rejects.toThrow(/expected the shard model-00002-of-00002.safetensors .* found no such file/);
    const unknown = await make({ shards: 2 });
    editIndex(unknown, (i) => (i.weight_map["extra"] = "model-00001-of-00002.safetensors"));
    await expect(openCheckpoint(unknown)).rejects.toThrow(/tensor "extra": expected in model-00001.*, found in no shard/);
    const swapped = await make({ shards: 2 });
    editIndex(swapped, (i) => (i.weight_map["model.embed_tokens.weight"] = "model-00002-of-00002.safetensors"));
    await expect(openCheckpoint(swapped)).rejects.toThrow(/found in model-00001/);
    const twice = await make({ shards: 2 });
    copyFileSync(join(twice, "model-00001-of-00002.safetensors"), join(twice, "model-00002-of-00002.safetensors"));
    await expect(openCheckpoint(twice)).rejects.toThrow(/each tensor in one shard/);
    const folder = await make({ shards: 2 });
    rmSync(join(folder, "model-00002-of-00002.safetensors"));
    mkdirSync(join(folder, "model-00002-of-00002.safetensors"));
    await expect(openCheckpoint(folder)).rejects.toThrow(LayoutError);
  });

  it.each(["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{", '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'])(
    "refuses the index %s",
    async (text) => {
      const dir = await make({ shards: 2 });
      writeFileSync(join(dir, INDEX), text);
      await expect(openCheckpoint(dir)).rejects.toThrow(LayoutError);
    },
  );

  it.each(["", "{", "[]", "null", "5", '"x"', '{"a": 1, "a": 2}'])("a broken config.json is a ConfigError: %j", async (text) => {
    const dir = await make();
    writeFileSync(join(dir, "config.json"), text);
    const error = await openCheckpoint(dir).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as Error).message).toContain("config.json");
  });

  it("says what is missing", async () => {
    const dir = mkdtempSync(join(root, "e-"));
    const absent = openCheckpoint(join(dir, "absent"));
    await expect(absent).rejects.toBeInstanceOf(IoError);
    await expect(absent).rejects.toMatchObject({ message: `cannot open the checkpoint ${join(dir, "absent")}: no such file or directory`, where: { file: join(dir, "absent") } }); // prettier-ignore
    await expect(openCheckpoint(dir)).rejects.toThrow(/expected a config.json/);
    writeFileSync(join(dir, "config.json"), "{}");
    await expect(openCheckpoint(dir)).rejects.toThrow(/found neither$/);
    for (const name of ["pytorch_model.bin", "x.pt", "x.pth"]) {
      writeFileSync(join(dir, name), "");
      await expect(openCheckpoint(dir)).rejects.toThrow(/found neither; pickled PyTorch weights are not read/);
      rmSync(join(dir, name));
      writeFileSync(join(dir, `${name}.txt`), "");
    }
    await expect(openCheckpoint(dir)).rejects.toThrow(/found neither$/);
    await writeSafetensors(join(dir, "model.safetensors"), []);
    await expect(openCheckpoint(dir)).rejects.toThrow(/expected model weights, found no tensor/);
    await expect(openCheckpoint(join(dir, "config.json"))).rejects.toThrow(LayoutError);
  });
});

describe("hashCheckpoint", () => {
  it("tells bases apart by one byte, by dtype and by name, and honours contents: false", async () => {
    const a = await openCheckpoint(await make());
    const full = await hashCheckpoint(a);
    expect(full.identity).toMatchObject({ tensors: a.tensors.size, bytes: a.totalBytes });
    const cheap = await hashCheckpoint(a, { contents: false });
    expect(cheap.identity.contents).toBeUndefined();
    expect(sameBase(full.identity, cheap.identity)).toBe(true);
    const dir = await make();
    const path = join(dir, "model.safetensors");
    const bytes = readFileSync(path);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(path, bytes);
    for (const other of [dir, await make({ seed: 2 }), await make({ dtype: "F32" })])
      expect(sameBase(full.identity, (await hashCheckpoint(await openCheckpoint(other))).identity)).toBe(false);
  });

  const WINDOW = 16 * 1024;
  it.each([
    ["read whole", 3 * WINDOW, [0, 1, WINDOW, 2 * WINDOW, 3 * WINDOW - 1], []],
    ["sampled at both ends and in the middle", 9 * WINDOW, [0, WINDOW - 1, 4 * WINDOW, 5 * WINDOW - 1, 8 * WINDOW, 9 * WINDOW - 1], [WINDOW, 4 * WINDOW - 1, 5 * WINDOW, 8 * WINDOW - 1]],
    ["sampled from one byte more", 3 * WINDOW + 1, [0, WINDOW, 3 * WINDOW], []],
    ["of an odd size", 5 * WINDOW + 3, [2 * WINDOW + 1, 3 * WINDOW], [2 * WINDOW, 3 * WINDOW + 1, 4 * WINDOW + 2]],
  ])("a tensor %s: %i bytes", async (_, size, seen, unseen) => {
    const dir = mkdtempSync(join(root, "w-"));
    writeFileSync(join(dir, "config.json"), "{}");
    const bytes = new Uint8Array(size).map((_x, i) => (i * 7) & 255);
    const write = () => writeSafetensors(join(dir, "model.safetensors"), [{ name: "x", dtype: "U8", shape: [size], data: bytes }]);
    const identity = async () => (await hashCheckpoint(await openCheckpoint(dir))).identity;
    await write();
    const before = await identity();
    for (const at of [...seen, ...unseen]) {
      bytes[at]! ^= 1;
      await write();
      const after = await identity();
      expect(after.fingerprint === before.fingerprint, `byte ${at}`).toBe(unseen.includes(at));
      expect(after.contents, `byte ${at}`).not.toBe(before.contents);
      expect(sameBase(before, after)).toBe(false);
      bytes[at]! ^= 1;
    }
    await write();
    expect(await identity()).toEqual(before);
  }); // prettier-ignore
});

describe.skipIf(!existsSync(join(shared, "golden/families")))("published layouts (skipped without ../shared)", () => {
  const families = join(shared, "golden/families");
  it.each(existsSync(families) ? readdirSync(families) : [])("opens %s", async (name) => {
    const checkpoint = await openCheckpoint(join(families, name));
    expect(checkpoint.tensors.size).toBeGreaterThan(10);
  });
});
