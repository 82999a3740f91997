// How weights come into a device with its own memory: what lies beside what, in which order files are read, what is converted, how far
// it is, and what is given back. The device is a stand-in that keeps a log. No GPU.
// Run alone: npx vitest run test/model/weights/upload.test.ts

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { AbortError } from "../../../lib/errors.ts";
import type { Checkpoint } from "../../../lib/files/checkpoint.ts";
import { openCheckpoint } from "../../../lib/files/checkpoint.ts";
import { modelSpec } from "../../../lib/model/families/index.ts";
import type { ModelSpec, ParameterRole } from "../../../lib/model/spec.ts";
import { Parameters } from "../../../lib/model/weights/parameters.ts";
import type { StoredWeight } from "../../../lib/model/weights/resident.ts";
import { isProductWeight, locateWeights, Weights } from "../../../lib/model/weights/resident.ts";
import type { Progress } from "../../../lib/task.ts";
import type { Device, DType, MappedFile } from "../../../lib/tensor.ts";
import { tempDir } from "../../support/fixture.ts";
import { tinyDeepseek, writeTinyModel } from "../../support/tiny_model.ts";

const config = { ...tinyDeepseek, vocab_size: 32 };
const spec = modelSpec(config, "config.json");
const none = { ...spec, layers: [] };
const root = tempDir();
let bf16: Checkpoint;
let f32: Checkpoint;
beforeAll(async () => {
  await writeTinyModel(join(root, "bf16"), config, { tokenizer: false });
  await writeTinyModel(join(root, "f32"), config, { tokenizer: false, dtype: "f32" });
  [bf16, f32] = [await openCheckpoint(join(root, "bf16")), await openCheckpoint(join(root, "f32"))];
  for (const name of ["a", "b"]) await writeFile(join(root, name), name);
});

/** Memory of the stand-in, or a view of it. */
class Piece {
  disposed = false;
  readonly log: string[];
  readonly id: number;
  readonly at: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  constructor(log: string[], id: number, at: number, dtype: DType, shape: readonly number[]) {
    [this.log, this.id, this.at, this.dtype, this.shape] = [log, id, at, dtype, shape];
  }
  view = (offset: number, shape: readonly number[]) => new Piece(this.log, this.id, this.at + offset, this.dtype, shape);
  copyFromMap(file: MappedFile, byteOffset: number): void {
    this.log.push(`${file.path.slice(root.length + 1)} from ${byteOffset} to ${this}`);
  }
  dispose(): void {
    this.disposed = true;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  toString(): string {
    return `${this.id}+${this.at} ${this.dtype} [${this.shape.join(", ")}]`;
  }
}

function standIn(activationDtype: DType, { hostMemory = false, free = 0 } = {}) {
  const log: string[] = [];
  const memory: Piece[] = [];
  const mapped: MappedFile[] = [];
  const device = {
    info: { hostMemory, activationDtype, memoryBytes: 2 ** 31, name: "a small GPU" },
    memoryFree: () => free,
    empty: (dtype: DType, shape: readonly number[]) => {
      memory.push(new Piece(log, memory.length, 0, dtype, shape));
      return memory.at(-1);
    },
    mapped: (file: MappedFile, byteOffset: number, dtype: DType, shape: readonly number[]) => {
      mapped.push(file);
      return new Piece(log, -1, byteOffset, dtype, shape);
    },
    submit: (_op: number, [x, y]: Piece[]) => void log.push(`cast ${x} to ${y}`),
    synchronize: async () => void log.push("wait"),
  };
  return { device: device as unknown as Device, log, memory, mapped };
}
const pieces = (weights: Weights) => weights.tensors as unknown as ReadonlyMap<string, Piece>;

/** A weight of these files that need not be there: the stand-in reads nothing. */
const weight = (
  key: string,
  file: string,
  byteOffset: number,
  shape: number[],
  stored: DType,
  role: ParameterRole = "norm",
): StoredWeight => {
  return { key, ref: { name: key }, role, layer: 0, shape, stored, path: join(root, file), byteOffset, packed: null };
};
const load = (device: Device, stored: readonly StoredWeight[], task = {}, of: ModelSpec = none) =>
  Weights.load(device, of, bf16, stored, task);

describe("the memory of weights", () => {
  /** What lies in one piece. */
  const stackOf = ({ key, role, layer, part }: StoredWeight): string => {
    if (role === "expert") return `${layer} experts ${part === "down" ? "down" : "gate, up"}`;
    return (role === "dense" || role === "shared") && !key.includes("down_proj") ? `${layer} ${role} gate, up` : key;
  };

  it("is one piece for gate and up of an MLP or of all experts of a layer, one for their down, one for each of the rest", async () => {
    const stored = locateWeights(spec, bf16);
    const { device, memory } = standIn("bf16");
    const weights = await load(device, stored, {}, spec);
    const stacks = new Map<string, StoredWeight[]>();
    for (const w of stored) stacks.set(stackOf(w), [...(stacks.get(stackOf(w)) ?? []), w]);
    expect(stacks.get("1 experts gate, up")).toHaveLength(16);
    expect(stacks.get("0 dense gate, up")).toHaveLength(2);
    expect(stacks.get("2 shared gate, up")).toHaveLength(2);
    expect(memory).toHaveLength(stacks.size);
    for (const [name, stack] of stacks) {
      const placed = stack.map((w) => pieces(weights).get(w.key)!);
      const bytes = 2 * stack[0]!.shape.reduce((a, b) => a * b, 1);
      const step = Math.ceil(bytes / 128) * 64; // elements: every item begins at a multiple of 128 bytes
      expect(
        placed.map((p) => [p.id, p.at, p.dtype, p.shape]),
        name,
      ).toEqual(stack.map((w, i) => [placed[0]!.id, i * step, "bf16", w.shape]));
      expect([memory[placed[0]!.id]!.dtype, memory[placed[0]!.id]!.shape], name).toEqual(["bf16", [stack.length * step]]);
    }
    weights.dispose();
    expect(memory.filter((m) => !m.disposed)).toEqual([]);
    expect([...pieces(weights).values()].filter((p) => !p.disposed)).toEqual([]);
  });

  it("is taken once for what two layers share", async () => {
    const twice = { ...spec, layers: [...spec.layers, ...spec.layers] };
    const { device, memory } = standIn("bf16");
    const once = standIn("bf16");
    const stored = locateWeights(spec, bf16);
    const weights = await load(device, stored, {}, twice);
    expect(pieces(weights).size).toBe(stored.length);
    await load(once.device, stored, {}, spec);
    expect(memory.map(String)).toEqual(once.memory.map(String));
  });

  it("is of bf16 for products where activations are, else of what is stored", async () => {
    for (const [activations, checkpoint] of [
      ["bf16", f32],
      ["bf16", bf16],
      ["f32", f32],
      ["f32", bf16],
    ] as const) {
      const { device } = standIn(activations);
      const stored = locateWeights(spec, checkpoint);
      const weights = await load(device, stored, {}, spec);
      for (const w of stored)
        expect(pieces(weights).get(w.key)!.dtype).toBe(activations === "bf16" && isProductWeight(w) ? "bf16" : w.stored);
    }
  });

  it("is refused where there is not enough, and taken where there just is or nobody knows", async () => {
    const stored = [weight("w", "a", 0, [2 ** 30], "bf16")];
    const { device, memory } = standIn("bf16", { free: 2 ** 31 - 2 ** 27 });
    const refused = load(device, stored);
    await expect(refused).rejects.toThrow("the weights need 2.0 GiB of device memory, 1.9 GiB of 2.0 GiB are free on a small GPU. Fixes:");
    await expect(refused).rejects.toMatchObject({ where: { neededBytes: 2 ** 31, availableBytes: 2 ** 31 - 2 ** 27 } });
    expect(memory).toEqual([]);
    for (const free of [0, 2 ** 31]) expect((await load(standIn("bf16", { free }).device, stored)).tensors.size).toBe(1);
  });
});

describe("the way of weights into a device", () => {
  const size = 2 ** 27; // bytes
  const large = (key: string, file: string, at: number) => weight(key, file, at * size, [size / 2], "bf16");
  const stored = [large("v", "b", 2), large("w", "a", 3), large("x", "b", 0), large("y", "a", 1), large("z", "a", 4)];

  it("goes through one file after the other, from its begin, and tells after every 256 MiB how far it is", async () => {
    const { device, log } = standIn("bf16");
    const seen: Progress[] = [];
    const weights = await load(device, stored, { onProgress: (p: Progress) => seen.push(p) });
    const copy = (key: string, file: string, at: number) => `${file} from ${at * size} to ${pieces(weights).get(key)}`;
    expect(log).toEqual([copy("y", "a", 1), copy("w", "a", 3), "wait", copy("z", "a", 4), copy("x", "b", 0), "wait", copy("v", "b", 2), "wait"]); // prettier-ignore
    expect(seen).toEqual([2, 4, 5].map((n) => ({ phase: "load weights", done: n * size, total: 5 * size, unit: "bytes" })));
  });

  it("stops where it is aborted, and gives everything back", async () => {
    const { device, log, memory } = standIn("bf16");
    const stop = new AbortController();
    const run = load(device, stored, { signal: stop.signal, onProgress: () => stop.abort() });
    await expect(run).rejects.toThrow(AbortError);
    await expect(run).rejects.toThrow("loading the weights was aborted");
    expect(log.filter((line) => line !== "wait")).toHaveLength(4);
    expect(memory.map((m) => m.disposed)).toEqual([true, true, true, true, true]);
  });

  it("converts f32 products in stretches, in one piece of working memory that is given back", async () => {
    const stretch = 2 ** 24;
    const { device, log, memory } = standIn("bf16");
    const products = [weight("x", "a", 8, [2, stretch], "f32", "attention"), weight("y", "b", 4, [1, stretch + 5], "f32", "head")];
    const weights = await load(device, products);
    const staged = (file: string, begin: number, target: number, at: number, n: number) => [
      `${file} from ${begin + 4 * at} to 2+0 f32 [${n}]`,
      `cast 2+0 f32 [${n}] to ${target}+${at} bf16 [${n}]`,
    ];
    const expected = [...staged("a", 8, 0, 0, stretch), ...staged("a", 8, 0, stretch, stretch), ...staged("b", 4, 1, 0, stretch), ...staged("b", 4, 1, stretch, 5)]; // prettier-ignore
    expect(log.filter((line) => line !== "wait")).toEqual(expected);
    expect(memory.map((m) => `${m} ${m.disposed}`)).toEqual([
      `0+0 bf16 [${2 * stretch}] false`,
      `1+0 bf16 [${stretch + 64}] false`,
      `2+0 f32 [${stretch}] true`,
    ]);
    log.length = 0;
    weights.read(products[1]!, device.empty("f32", products[1]!.shape)); // as it is stored
    expect(log).toEqual([`b from 4 to 3+0 f32 [1, ${stretch + 5}]`]);
    const aborted = standIn("bf16");
    await expect(load(aborted.device, products, { signal: AbortSignal.abort() })).rejects.toThrow(AbortError);
    expect(aborted.memory.map((m) => m.disposed)).toEqual([true, true, true]);
  });

  it("is none where host memory is the device's: files are mapped once, and only what lies askew is copied", async () => {
    const { device, log, memory, mapped } = standIn("f32", { hostMemory: true });
    const askew = [weight("x", "a", 4, [2], "f32"), weight("y", "b", 6, [3], "bf16"), weight("z", "a", 6, [5], "f32")];
    const weights = await load(device, askew);
    expect([...pieces(weights).values()].map(String)).toEqual(["-1+4 f32 [2]", "-1+6 bf16 [3]", "0+0 f32 [5]"]);
    expect(log).toEqual(["a from 6 to 0+0 f32 [5]"]);
    const again = await load(device, [askew[0]!, { ...askew[0]!, key: "w" }]);
    expect(mapped.map((file) => file.path)).toEqual(["a", "b", "a", "a"].map((name) => join(root, name)));
    expect(mapped[3]).toBe(mapped[2]);
    expect(mapped.map((file) => file.bytes)).toEqual([1, 1, 1, 1]);
    for (const w of [weights, again]) w.dispose();
    expect(memory[0]!.disposed).toBe(true);
    expect(mapped.map((file) => file.bytes)).toEqual([0, 0, 0, 0]); // closed
  });
});

it("parameters are working copies only where products read bf16 from memory of the device's own", async () => {
  for (const [activations, hostMemory, some] of [
    ["bf16", false, true],
    ["f32", false, false],
    ["bf16", true, false],
  ] as const) {
    const params = await Parameters.load(standIn(activations, { hostMemory }).device, spec, f32);
    for (const p of params.all()) expect(p.inPlace, p.key).toBe(some && isProductWeight(p.weight));
  }
});
