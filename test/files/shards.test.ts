// Tensors as one file or as several under an index, and JSON files that carry their own hash. No GPU.
// Run alone: npx vitest run test/files/shards.test.ts
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { AbortError, ConfigError, IoError, LayoutError } from "../../lib/errors.ts";
import { shown, shownShape, shownType } from "../../lib/files/fault.ts";
import { sha256 } from "../../lib/files/hash.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import { damaged, readSealedJson, sealedJson } from "../../lib/files/sealed.ts";
import { isShard, shardIndex, writeShards } from "../../lib/files/shards.ts";
import type { Progress } from "../../lib/task.ts";
import { tempDir } from "../support/fixture.ts";

const root = tempDir();
const fresh = () => mkdtempSync(join(root, "s-"));
const entry = (name: string, bytes: number) => ({ name, dtype: "U8" as const, shape: [bytes], data: new Uint8Array(bytes).fill(bytes) });

describe("shards", () => {
  it("are one file below the size, with its metadata, and no index", async () => {
    const dir = fresh();
    const progress: Progress[] = [];
    const options = { maxShardBytes: 10, onProgress: (p: Progress) => void progress.push(p) };
    const where = await writeShards(dir, "model", [entry("a", 4), entry("b", 6)], { format: "pt" }, options);
    expect(readdirSync(dir)).toEqual(["model.safetensors"]);
    const file = await openSafetensors(join(dir, "model.safetensors"));
    expect([[...file.tensors.keys()], file.metadata]).toEqual([["a", "b"], { format: "pt" }]);
    const hash = (bytes: number): string => sha256(new Uint8Array(bytes).fill(bytes));
    expect(Object.fromEntries(where)).toEqual({
      a: { file: "model.safetensors", sha256: hash(4) },
      b: { file: "model.safetensors", sha256: hash(6) },
    });
    expect(progress.at(-1)).toMatchObject({ phase: "save", total: 10, unit: "bytes" });
    await writeShards(fresh(), "model", [entry("a", 4)], {}); // the default size
  });

  it("are cut between tensors where the next one does not fit; a larger one has its own", async () => {
    const dir = fresh();
    const progress: number[] = [];
    const options = { maxShardBytes: 10, onProgress: (p: Progress) => void progress.push(p.done) };
    const where = await writeShards(dir, "m", [entry("a", 12), entry("b", 4), entry("c", 6), entry("d", 1), entry("e", 0)], {}, options);
    const [one, two, three] = ["m-00001-of-00003.safetensors", "m-00002-of-00003.safetensors", "m-00003-of-00003.safetensors"];
    expect(Object.fromEntries([...where].map(([name, { file }]) => [name, file]))).toEqual({ a: one, b: two, c: two, d: three, e: three });
    expect(readdirSync(dir)).toEqual([one, two, three, "m.safetensors.index.json"]);
    expect(JSON.parse(readFileSync(join(dir, shardIndex("m")), "utf8"))).toEqual({
      metadata: { total_size: 23 },
      weight_map: { a: one, b: two, c: two, d: three, e: three },
    });
    for (const [name, { file }] of where) expect([...(await openSafetensors(join(dir, file))).tensors.keys()]).toContain(name);
    expect(progress).toEqual(progress.toSorted((x, y) => x - y)); // one count over all files
    const written = [one!, two!, three!].map((f) => readFileSync(join(dir, f)).byteLength).reduce((x, y) => x + y);
    expect(progress.at(-1)).toBe(written);
  });

  it("stop at a signal; a shape that cannot be is refused with its name", async () => {
    const aborted = writeShards(fresh(), "m", [entry("a", 4)], {}, { signal: AbortSignal.abort() });
    await expect(aborted).rejects.toBeInstanceOf(AbortError);
    const refused = writeShards(fresh(), "m", [entry("a", 4), { ...entry("b", 4), dtype: "F4", shape: [3] }], {});
    await expect(refused).rejects.toMatchObject({ code: "ERR_LAYOUT", where: { tensor: "b" } });
  });

  it("are known by their names", () => {
    const names = ["m.safetensors", "m-00001-of-00002.safetensors"];
    for (const name of names) expect(isShard("m", name), name).toBe(true);
    const others = ["n.safetensors", "mm.safetensors", "m.safetensors.index.json", "m-1-of-2.safetensors", "m-000001-of-00002.safetensors", "xm.safetensors", "m-00001-of-00002-00001-of-00002.safetensors", "m"]; // prettier-ignore
    for (const name of others) expect(isShard("m", name), name).toBe(false);
  });
});

describe("a sealed JSON file", () => {
  const value = { a: 1, list: [1, 2], inner: { sha256: "f".repeat(64) } };
  const write = (text: string): string => {
    const path = join(fresh(), "x.json");
    writeFileSync(path, text);
    return path;
  };

  it("gives back what it holds, and says that it is sealed", async () => {
    const text = sealedJson(value);
    const { sha256: seal, ...rest } = JSON.parse(text) as { sha256: string };
    expect(rest).toEqual(value);
    expect(Object.keys(JSON.parse(text) as object).at(-1)).toBe("sha256");
    expect(seal).toBe(sha256(text.replace(seal, "0".repeat(64))));
    expect(await readSealedJson(write(text))).toEqual({ value, sealed: true });
  });

  it.each([
    ["{}"],
    ["[]"],
    ["null"],
    ["5"],
    ['"sha256"'],
    [JSON.stringify(value)],
    [`${JSON.stringify({ inner: { sha256: "0".repeat(64) } }, null, 2)}\n`],
  ])(
    // prettier-ignore
    "without a seal says so: %s",
    async (text) => {
      expect(await readSealedJson(write(text))).toEqual({ value: JSON.parse(text) as unknown, sealed: false });
    },
  );

  it("that was changed is refused, with both hashes", async () => {
    const text = sealedJson(value);
    const path = write(text.replace('"a": 1', '"a": 2'));
    const error = (await readSealedJson(path, ConfigError).catch((e: unknown) => e)) as LayoutError;
    expect(error).toBeInstanceOf(LayoutError);
    const found = sha256(text.replace('"a": 1', '"a": 2').replace(/"[0-9a-f]{64}"\n\}\n$/, `"${"0".repeat(64)}"\n}\n`));
    expect(error.where).toEqual({ file: path, expected: (JSON.parse(text) as { sha256: string }).sha256, found });
    // a seal that is not the last line is none
    for (const moved of [`{"sha256": "${"0".repeat(64)}", "a": 1}`, text.trimEnd(), '{"sha256": 5}\n', `${text} `])
      await expect(readSealedJson(write(moved)), moved).rejects.toThrow(/expected sha256 at the end of the file, found elsewhere/);
  });

  it("that is no JSON is refused as whoever reads it says", async () => {
    await expect(readSealedJson(write("{"))).rejects.toBeInstanceOf(LayoutError);
    const path = write('{"a": 1, "a": 1}');
    const error = await readSealedJson(path, ConfigError).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConfigError);
    expect(error).toMatchObject({ message: `${path}: expected valid JSON, found: duplicate key "a"`, where: { file: path } });
    expect((error as Error).cause).toBeInstanceOf(Error);
    await expect(readSealedJson(join(root, "absent"))).rejects.toBeInstanceOf(IoError);
    const cause = new Error("cause");
    expect(damaged("f", "a", "b", cause)).toMatchObject({ code: "ERR_LAYOUT", where: { file: "f", expected: "a", found: "b" }, cause });
  });
});

it("values are shown in messages as JSON, of at most 120 characters", () => {
  expect([shown("a"), shown(null), shown(undefined), shown([1, "x"])]).toEqual(['"a"', "null", "undefined", '[1,"x"]']);
  expect(shown("x".repeat(118))).toBe(`"${"x".repeat(118)}"`);
  expect(shown("x".repeat(119))).toBe(`"${"x".repeat(116)}...`);
  expect([shownShape([]), shownShape([8, 6]), shownType({ dtype: "F32", shape: [8, 6] })]).toEqual(["[]", "[8, 6]", "F32 [8, 6]"]);
});
