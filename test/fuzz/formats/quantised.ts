// Checkpoints that are quantised on disk: quantization_config, names, dtypes and shapes of the tensors and the small ones that say how the
// others are read, changed as one JSON value. What is accepted is decoded too: it has the values of the fixture where nothing changed,
// and otherwise a place in the file for every code and scale.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { LayoutError } from "../../../lib/errors.ts";
import { decodeFloats } from "../../../lib/files/floats.ts";
import { findWeights } from "../../../lib/files/quantised/index.ts";
import type { WeightInfo } from "../../../lib/files/quantised/packed.ts";
import type { Dtype, TensorInfo } from "../../../lib/files/safetensors.ts";
import { DTYPE_BITS, openSafetensors, tensorBytes } from "../../../lib/files/safetensors.ts";
import { mappedWeight, packedOf } from "../../../lib/quantised.ts";
import { Device, MappedFile } from "../../../lib/tensor.ts";
import type { Case, Format } from "../case.ts";
import { mutateJson } from "../case.ts";
import { toTree } from "../tree.ts";
import { parseBytes, readJson } from "./seeds.ts";

const root = "test/fixtures/quantised";
const names = ["bnb-nf4", "bnb-nf4-double", "bnb-int8", "ct-int4-g32-asym", "ct-int4-g32-g-idx", "ct-int8-channel", "ct-fp8-block", "ct-nvfp4", "ct-mxfp4", "fp4-experts", "fp8-qwen3", "fp8-fused", "fp8-per-tensor", "mxfp4-extremes"]; // prettier-ignore
const FILE = "model.safetensors";
const MOST = 1 << 20; // bytes of a changed file

interface Said {
  readonly config: Record<string, unknown>;
  readonly tensors: Record<string, { dtype: Dtype; shape: number[] }>;
  /** Values of the small tensors: a JSON state, or a shape. */
  readonly notes: Record<string, unknown>;
}
interface Seed {
  readonly said: Said;
  readonly data: ReadonlyMap<string, Uint8Array>;
  readonly expected: ReadonlyMap<string, Float32Array>;
}
interface Decoded {
  readonly weights: ReadonlyMap<string, WeightInfo>;
  readonly values: ReadonlyMap<string, Float32Array>;
}

const isState = (name: string): boolean => name.includes(".quant_state.");

async function seedOf(name: string): Promise<Seed> {
  const file = await openSafetensors(join(root, `${name}.safetensors`));
  const said: Said = { config: readJson(join(root, `${name}.json`)), tensors: {}, notes: {} };
  const data = new Map<string, Uint8Array>();
  const expected = new Map<string, Float32Array>();
  for (const t of file.tensors.values()) {
    const bytes = await file.read(t.name);
    if (t.name.startsWith("expected.")) {
      expected.set(t.name.slice("expected.".length), decodeFloats(bytes, t.dtype));
      continue;
    }
    data.set(t.name, bytes);
    said.tensors[t.name] = { dtype: t.dtype, shape: [...t.shape] };
    if (isState(t.name)) said.notes[t.name] = JSON.parse(Buffer.from(bytes).toString());
    if (t.name.endsWith(".weight_shape")) said.notes[t.name] = [...new BigInt64Array(bytes.slice().buffer)].map(Number);
  }
  return { said, data, expected };
}

/** The bytes of a small tensor with the value that the case says; undefined where it says none that can be written. */
function noteBytes(name: string, value: unknown): Uint8Array | undefined {
  if (value === undefined) return undefined;
  if (isState(name)) return Buffer.from(JSON.stringify(value));
  if (!Array.isArray(value) || !value.every((n) => Number.isSafeInteger(n))) return undefined;
  return new Uint8Array(BigInt64Array.from(value as number[], BigInt).buffer);
}

/** A file whose data fill the shapes that are said, with the seed's bytes repeated. */
function fileOf({ tensors, notes }: Said, { data }: Seed): Uint8Array {
  const header: Record<string, unknown> = {};
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const [name, t] of Object.entries(tensors ?? {})) {
    let { dtype, shape } = t ?? {};
    const note = noteBytes(name, notes?.[name]);
    if (note) [dtype, shape] = isState(name) ? ["U8", [note.length]] : ["I64", [note.length / 8]];
    const valid = Object.hasOwn(DTYPE_BITS, dtype) && Array.isArray(shape) && shape.every((n) => Number.isSafeInteger(n) && n >= 0);
    const bytes = valid ? tensorBytes(dtype, shape) : 0;
    if (bytes === null || at + bytes > MOST) throw new LayoutError(`more than ${MOST} bytes`, { where: { file: FILE } });
    const seed = data.get(name) ?? Uint8Array.of(1, 2, 3);
    pieces.push(note ?? Uint8Array.from({ length: bytes }, (_, i) => seed[i % Math.max(1, seed.length)] ?? 0));
    header[name] = { dtype, shape, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, ...pieces]);
}

async function decode(device: Device, path: string, config: Record<string, unknown>): Promise<Decoded> {
  const file = await openSafetensors(path);
  const weights = await findWeights(config, join(path, "../config.json"), file.tensors, [file]);
  const values = new Map<string, Float32Array>();
  using mapped = new MappedFile(path);
  for (const w of weights.values()) {
    const packed = w.packed && packedOf(w);
    if (!packed) continue;
    using tensor = device.empty("f32", [w.shape.reduce((a, b) => a * b, 1)].concat(w.shape.slice(-1)).map((n, i, [all, width]) => (i === 0 ? all! / width! : n)));
    tensor.decode(mappedWeight(w, packed, "exact", () => mapped));
    try {
      values.set(w.name, await tensor.readF32());
    } catch (error) {
      throw new LayoutError((error as Error).message, { where: { file: FILE } }); // what values say of groups is seen when they are read
    }
  }
  return { weights, values };
} // prettier-ignore

/** A code for every element, a scale for every block, no tensor for two weights, nothing of a quantiser left over. */
function faultOf({ weights }: Decoded, tensors: ReadonlyMap<string, TensorInfo>): string | null {
  const seen = new Map<number, string>();
  for (const w of weights.values()) {
    const { packed } = w;
    if (!packed) continue;
    const elements = w.shape.reduce((a, b) => a * b, 1);
    if (elements !== packed.matrices * packed.rows * packed.cols) return `${w.name}: ${elements} elements, ${JSON.stringify(packed)}`;
    const bits = { table4: 4, e2m1: 4, int4: 4, int8words: 8, int8: 8, e4m3: 8, f16: 16 }[packed.codes];
    const codes = packed.parts.codes!;
    if ((codes.end - codes.begin) * 8 < elements * bits) return `${w.name}: too few codes`;
    for (const [part, { begin, end }] of Object.entries(packed.parts)) {
      if (end > begin && seen.has(begin)) return `${w.name}: its ${part} belong to ${seen.get(begin)} too`;
      seen.set(begin, w.name);
    }
    const blocks = packed.codes === "table4" ? Math.ceil(elements / packed.blockCols) : packed.matrices * Math.ceil(packed.rows / packed.blockRows) * Math.ceil(packed.cols / packed.blockCols); // prettier-ignore
    const { begin } = packed.parts.scales!;
    const scales = [...tensors.values()].find((t) => t.begin === begin)!;
    if (scales.shape.reduce((a, b) => a * b, 1) !== blocks) return `${w.name}: ${blocks} blocks, scales [${scales.shape.join(", ")}]`;
  }
  return null;
}

function different({ values }: Decoded, { expected }: Seed): string | null {
  for (const [name, want] of expected) {
    const found = values.get(name);
    if (!found || found.some((x, i) => !Object.is(x, want[i]))) return `${name}: not the values of the fixture`;
  }
  return null;
}

export const quantised: Format = {
  name: "quantised",
  async open(dir) {
    const seeds = await Promise.all(names.map(seedOf));
    const trees = seeds.map(({ said }) => toTree(said));
    const device = new Device({ kind: "cpu", threads: 1 });
    const path = join(dir, FILE);
    return (dice): Case => {
      const i = dice.top.below(seeds.length);
      const { bytes, steps, same } = mutateJson(trees[i]!, dice);
      return {
        steps: [`${names[i]}`, ...steps],
        same,
        files: { "said.json": bytes },
        file: dir,
        parse: async () => {
          const said = parseBytes(bytes, `${dir}/said.json`, LayoutError) as Said;
          if (typeof said !== "object" || said === null || typeof said.config !== "object" || said.config === null) throw new LayoutError(`${dir}: no object`);
          writeFileSync(path, fileOf(said, seeds[i]!));
          return decode(device, path, said.config);
        },
        judge: async (found: Decoded) => {
          if (same) return different(found, seeds[i]!);
          return faultOf(found, (await openSafetensors(path)).tensors);
        },
      };
    }; // prettier-ignore
  },
};
