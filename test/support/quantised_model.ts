// A bf16 checkpoint quantised as published ones are, for tests: block-scaled FP8 (values need f32) and int8 with a scale for each row
// (compressed-tensors, values are bf16). Scales may lie in another shard than their weights.

import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { bf16ToF32, f32ToBf16 } from "../../lib/floats.ts";
import { decodeFloats, encodeFloats } from "../../lib/files/floats.ts";
import { openSafetensors } from "../../lib/files/safetensors.ts";
import type { TensorEntry } from "../../lib/files/safetensors_writer.ts";
import { writeSafetensors } from "../../lib/files/safetensors_writer.ts";

export type Scheme = "fp8" | "int8";

const BLOCK = [16, 24] as const;
const E4M3 = Float32Array.from({ length: 256 }, (_, x) => {
  const [exponent, mantissa] = [(x >> 3) & 15, x & 7];
  const size = exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7);
  return (x & 127) === 127 ? NaN : x & 128 ? -size : size;
});
const round = (x: number): number => bf16ToF32(f32ToBf16(Float32Array.of(x)))[0]!;

interface Quantised {
  readonly entries: TensorEntry[];
  /** What the format's library makes of it. */
  readonly values: Float32Array;
}

function fp8(name: string, [rows, cols]: readonly [number, number], w: Float32Array): Quantised {
  const [R, C] = [Math.ceil(rows / BLOCK[0]), Math.ceil(cols / BLOCK[1])];
  const block = (i: number): number => Math.floor(Math.floor(i / cols) / BLOCK[0]) * C + Math.floor((i % cols) / BLOCK[1]);
  const scales = new Float32Array(R * C);
  w.forEach((x, i) => (scales[block(i)] = Math.max(scales[block(i)]!, Math.abs(x) / 448)));
  const codes = Uint8Array.from(w, (x, i) => {
    const wanted = x / (scales[block(i)]! || 1);
    let best = 0;
    for (let c = 0; c < 256; c++) if (Math.abs(E4M3[c]! - wanted) < Math.abs(E4M3[best]! - wanted)) best = c;
    return best;
  });
  const values = Float32Array.from(codes, (c, i) => Math.fround(E4M3[c]! * scales[block(i)]!));
  return {
    values,
    entries: [
      { name, dtype: "F8_E4M3", shape: [rows, cols], data: codes },
      { name: `${name}_scale_inv`, dtype: "F32", shape: [R, C], data: encodeFloats(scales, "F32") },
    ],
  };
}

function int8(name: string, [rows, cols]: readonly [number, number], w: Float32Array): Quantised {
  const scales = Float32Array.from({ length: rows }, (_, r) => round(w.subarray(r * cols, (r + 1) * cols).reduce((m, x) => Math.max(m, Math.abs(x)), 0) / 127 || 1));
  const codes = Int8Array.from(w, (x, i) => Math.max(-128, Math.min(127, Math.round(x / scales[Math.floor(i / cols)]!))));
  return {
    values: Float32Array.from(codes, (c, i) => round(Math.fround(c * scales[Math.floor(i / cols)]!))),
    entries: [
      { name, dtype: "I8", shape: [rows, cols], data: new Uint8Array(codes.buffer) },
      { name: `${name}_scale`, dtype: "BF16", shape: [rows, 1], data: encodeFloats(scales, "BF16") },
    ],
  };
} // prettier-ignore

const configs: Readonly<Record<Scheme, Record<string, unknown>>> = {
  fp8: { quant_method: "fp8", weight_block_size: BLOCK, activation_scheme: "dynamic", fmt: "e4m3" },
  int8: {
    quant_method: "compressed-tensors",
    format: "int-quantized",
    config_groups: { group_0: { targets: ["Linear"], weights: { num_bits: 8, type: "int", strategy: "channel", symmetric: true } } },
  },
};

/**
 * Quantises the projections of attention and MLPs of the checkpoint `from` into the folder `to`; `shards`: scales in a file of their own.
 * Returns what every quantised weight stands for.
 */
export async function quantiseModel(from: string, to: string, scheme: Scheme, shards = false): Promise<Map<string, Float32Array>> {
  await cp(from, to, { recursive: true });
  const file = await openSafetensors(join(from, "model.safetensors"));
  const values = new Map<string, Float32Array>();
  const [weights, scales]: [TensorEntry[], TensorEntry[]] = [[], []];
  for (const t of file.tensors.values()) {
    const [rows, cols] = t.shape;
    const bytes = await file.read(t.name);
    if (!t.name.endsWith("_proj.weight") || rows === undefined || cols === undefined) {
      weights.push({ name: t.name, dtype: t.dtype, shape: t.shape, data: bytes });
      continue;
    }
    const made = (scheme === "fp8" ? fp8 : int8)(t.name, [rows, cols], decodeFloats(bytes, t.dtype));
    values.set(t.name, made.values);
    weights.push(made.entries[0]!);
    (shards ? scales : weights).push(made.entries[1]!);
  }
  if (shards) {
    await rm(join(to, "model.safetensors"));
    const files = { "model-00001-of-00002.safetensors": weights, "model-00002-of-00002.safetensors": scales };
    const map = Object.entries(files).flatMap(([name, entries]) => entries.map((e) => [e.name, name] as const));
    for (const [name, entries] of Object.entries(files)) await writeSafetensors(join(to, name), entries);
    await writeFile(join(to, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map: Object.fromEntries(map) }));
  } else await writeSafetensors(join(to, "model.safetensors"), weights);
  const config = JSON.parse(await readFile(join(from, "config.json"), "utf8")) as Record<string, unknown>;
  await writeFile(join(to, "config.json"), JSON.stringify({ ...config, quantization_config: configs[scheme] }));
  return values;
}

/** The experts of every layer of the checkpoint `from` as fused FP8 tensors [E, 2F, D] and [E, D, F], their scales beside them; `to` is a folder. */
export async function fuseExperts(from: string, to: string): Promise<Map<string, Float32Array>> {
  await cp(from, to, { recursive: true });
  const file = await openSafetensors(join(from, "model.safetensors"));
  const entries: TensorEntry[] = [];
  const values = new Map<string, Float32Array>();
  const matrix = async (name: string): Promise<Float32Array> => decodeFloats(await file.read(name), file.tensors.get(name)!.dtype);
  const concat = (list: readonly Float32Array[]): Float32Array => Float32Array.from(list.flatMap((x) => [...x]));
  for (const t of file.tensors.values()) {
    const [, at, part] = /^(.*\.experts)\.0\.(gate|down)_proj\.weight$/.exec(t.name) ?? [];
    if (at === undefined) {
      if (!/\.experts\.\d/.test(t.name)) entries.push({ name: t.name, dtype: t.dtype, shape: t.shape, data: await file.read(t.name) });
      continue;
    }
    const E = [...file.tensors.keys()].filter((n) => n.startsWith(`${at}.`) && n.endsWith("down_proj.weight")).length;
    const [rows, cols] = part === "gate" ? [2 * t.shape[0]!, t.shape[1]!] : [t.shape[0]!, t.shape[1]!];
    const name = `${at}.${part === "gate" ? "gate_up_proj" : "down_proj"}`;
    const made = await Promise.all(
      Array.from({ length: E }, async (_, e) => {
        const parts = part === "gate" ? ["gate", "up"] : ["down"];
        const list = await Promise.all(parts.map((p) => matrix(`${at}.${e}.${p}_proj.weight`)));
        return fp8(name, [rows, cols], concat(list));
      }),
    );
    values.set(name, concat(made.map((m) => m.values)));
    for (const i of [0, 1]) {
      const { dtype, shape, name: own } = made[0]!.entries[i]!;
      entries.push({ name: own, dtype, shape: [E, ...shape], data: Buffer.concat(made.map((m) => m.entries[i]!.data as Uint8Array)) });
    }
  }
  await writeSafetensors(join(to, "model.safetensors"), entries);
  const config = JSON.parse(await readFile(join(from, "config.json"), "utf8")) as Record<string, unknown>;
  await writeFile(join(to, "config.json"), JSON.stringify({ ...config, quantization_config: configs.fp8 }));
  return values;
}
