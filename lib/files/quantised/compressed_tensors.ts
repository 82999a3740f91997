// quant_method "compressed-tensors". Below a module M:
//
//   pack-quantized    M.weight_packed i32 [N, ⌈K·bits/32⌉], M.weight_shape i64 [2], M.weight_scale; zero points packed down the rows
//   int-, float-quantized   M.weight i8 or e4m3, M.weight_scale
//   nvfp4, mxfp4      M.weight_packed u8 [N, K/2], M.weight_scale e4m3 for 16 of a row (÷ M.weight_global_scale), or exponents for 32
//
// A scale serves the matrix, a row, a group of a row or a block. Which of them, the tensors show, as far as config_groups names them: the
// lists of modules there are written in several notations, and are not needed. Source: compressed-tensors, compressors/ and
// quantization/lifecycle/forward.py.
import { z } from "zod";
import { ConfigError } from "../../errors.ts";
import { shown, shownShape, shownType } from "../fault.ts";
import { checkSchema } from "../json.ts";
import type { TensorInfo } from "../safetensors.ts";
import type { Packed, WeightFinder } from "./packed.ts";
import { matrixShape, plainParts, scaleKind } from "./packed.ts";

const PACKED = ".weight_packed";
const SHAPE = ".weight_shape";
const FORMATS = [
  "dense",
  "pack-quantized",
  "int-quantized",
  "float-quantized",
  "naive-quantized",
  "nvfp4-pack-quantized",
  "mxfp4-pack-quantized",
  "mixed-precision",
];
/** Of keys and values in a cache, where kv_cache_scheme has some. */
const CACHE = /\.[qkv]_(?:scale|zero_point)$/;
/** Scales of activations say nothing of the weights. */
const BESIDE = ["input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point"];

const size = z.int().min(1);
const block = z.union([z.tuple([size, size]), z.string().regex(/^\d+x\d+$/)]);
const Weights = z.looseObject({
  num_bits: z.int(),
  type: z.enum(["int", "float"]),
  group_size: size.or(z.literal(-1)).nullish(),
  block_structure: block.nullish(),
});
const Group = z.looseObject({ weights: Weights.nullish(), format: z.string().nullish() });
const Config = z.looseObject({
  format: z.string().nullish(),
  config_groups: z.record(z.string(), Group),
  sparsity_config: z.looseObject({ format: z.string().nullish() }).nullish(),
  transform_config: z.looseObject({ config_groups: z.record(z.string(), z.unknown()).nullish() }).nullish(),
});

/** What config_groups says of scales: each list without repetitions. */
interface Schemes {
  readonly bits: readonly number[];
  readonly groups: readonly number[];
  readonly blocks: readonly (readonly [number, number])[];
}

function schemesOf(source: string, config: Readonly<Record<string, unknown>>): Schemes {
  const c = checkSchema(Config, config, `${source}: quantization_config`, ConfigError);
  const refuse = (key: string, expected: string, found: unknown): never => {
    const where = { file: source, key: `quantization_config.${key}` };
    throw new ConfigError(`${source}: "${where.key}": expected ${expected}, found ${shown(found)}; decompress the checkpoint first`, {
      where,
    });
  };
  const groups = Object.entries(c.config_groups);
  for (const [key, format] of [["format", c.format], ...groups.map(([name, g]) => [`config_groups.${name}.format`, g.format])] as const)
    if (typeof format === "string" && !FORMATS.includes(format)) refuse(key!, `one of ${FORMATS.join(", ")}`, format);
  const sparse = c.sparsity_config?.format;
  if (typeof sparse === "string" && sparse !== "dense") refuse("sparsity_config.format", '"dense"', sparse);
  if (Object.keys(c.transform_config?.config_groups ?? {}).length > 0)
    refuse("transform_config", "no transforms of weights", c.transform_config);
  const weights = groups.flatMap(([name, g]) => (g.weights ? [{ name, ...g.weights }] : []));
  for (const { name, num_bits: bits, type } of weights)
    if (bits !== 4 && bits !== 8) refuse(`config_groups.${name}.weights.num_bits`, `4 or 8 bits of ${type}`, bits);
  const unique = <T>(list: readonly T[]): T[] => [...new Map(list.map((x) => [String(x), x])).values()];
  return {
    bits: unique(weights.flatMap((w) => (w.type === "int" ? [w.num_bits] : []))),
    groups: unique(weights.flatMap(({ group_size: g }) => (typeof g === "number" && g > 0 ? [g] : []))),
    blocks: unique(
      weights.flatMap(({ block_structure: b }): [number, number][] => {
        if (b === null || b === undefined) return [];
        const [rows = 0, cols = 0] = typeof b === "string" ? b.split("x").map(Number) : b;
        return rows > 0 && cols > 0 ? [[rows, cols]] : [];
      }),
    ),
  };
}

/** Small tensors whose values say how others are to be read. */
export function compressedNotes(find: WeightFinder): TensorInfo[] {
  const notes = [...find.tensors.values()].filter((t) => t.name.endsWith(SHAPE));
  for (const t of notes) find.expect(t, ["I64"], [2]);
  return notes;
}

export function findCompressed(
  find: WeightFinder,
  config: Readonly<Record<string, unknown>>,
  notes: ReadonlyMap<string, Uint8Array>,
): void {
  const schemes = schemesOf(find.source, config);
  const hasCache = (config["kv_cache_scheme"] ?? null) !== null;
  for (const t of find.tensors.values()) {
    if (hasCache && CACHE.test(t.name)) find.leaveOut(t);
    const at = t.name.endsWith(PACKED) ? t.name.slice(0, -PACKED.length) : null;
    if (at !== null && t.dtype === "I32") addWords(find, schemes, t, at, notes);
    else if (at !== null) addFp4(find, t, at);
    else if (t.name.endsWith(".weight") && (t.dtype === "I8" || t.dtype === "F8_E4M3")) addBytes(find, schemes, t);
  }
}

const besideOf = (module: string): string[] => BESIDE.map((name) => `${module}.${name}`);

function addWords(find: WeightFinder, schemes: Schemes, codes: TensorInfo, module: string, notes: ReadonlyMap<string, Uint8Array>): void {
  const note = find.need(module + SHAPE, codes);
  const [N, K] = readShape(find, note, notes.get(note.name)!);
  const width = (bits: number): number => Math.ceil((K * bits) / 32);
  const bits = schemes.bits.filter((b) => codes.shape.join() === [N, width(b)].join());
  if (bits.length !== 1) {
    const expected = schemes.bits.map((b) => `${shownShape([N, width(b)])} for ${b} bits`).join(" or ");
    throw find.fault(
      codes,
      `a weight ${shownShape([N, K])}: expected ${expected || "integers in config_groups"}, found ${shownShape(codes.shape)}`,
    );
  }
  const scales = find.need(`${module}.weight_scale`, codes);
  find.expect(scales, ["F32", "BF16", "F16"]);
  const grid = gridOf(find, scales, [N, K], schemes);
  const G = Math.ceil(K / grid.blockCols);
  const zeros = find.tensors.get(`${module}.weight_zero_point`);
  const words = zeros?.dtype === "I32";
  if (zeros) find.expect(zeros, ["I32", "I8"], words ? [Math.ceil((N * bits[0]!) / 32), G] : [Math.ceil(N / grid.blockRows), G]);
  const order = find.tensors.get(`${module}.weight_g_idx`);
  if (order) find.expect(order, ["I32"], [K]);
  find.add({
    name: `${module}.weight`,
    shape: [N, K],
    parts: { codes, scales, ...(zeros ? { zeros } : {}), ...(order ? { order } : {}) },
    beside: [note.name, ...besideOf(module)],
    layout: {
      ...plainParts,
      ...grid,
      ...resultOf(scales),
      scheme: `int${bits[0]}, ${grid.scheme}${zeros ? ", zero points" : ""}${order ? ", columns in groups by g_idx" : ""}`,
      codes: bits[0] === 4 ? "int4" : "int8words",
      scale: scaleKind(scales.dtype),
      zeros: zeros ? (words ? "words" : "bytes") : "none",
      rows: N,
      cols: K,
    },
  });
}

function readShape(find: WeightFinder, note: TensorInfo, bytes: Uint8Array): readonly [number, number] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [N, K] = [Number(view.getBigInt64(0, true)), Number(view.getBigInt64(8, true))];
  const isSize = (n: number): boolean => Number.isSafeInteger(n) && n > 0;
  if (!isSize(N) || !isSize(K)) throw find.fault(note, `expected a shape of two positive sizes, found [${N}, ${K}]`);
  return [N, K];
}

/** The library rounds to the dtype of the scale. */
function resultOf({ dtype }: TensorInfo): Pick<Packed, "rounding" | "held"> {
  if (dtype === "BF16") return { rounding: "bf16", held: "BF16" };
  return { rounding: dtype === "F16" ? "f16" : "f32", held: "F32" };
}

/** What shares a scale, by the shape of the scales. @throws LayoutError none of the schemes makes that shape, or two do */
function gridOf(
  find: WeightFinder,
  scales: TensorInfo,
  shape: readonly number[],
  schemes: Schemes,
): { blockRows: number; blockCols: number; scheme: string } {
  const { rows: N, cols: K } = matrixShape(shape);
  const grids = [
    { blockRows: N, blockCols: K, scheme: "one scale" },
    { blockRows: 1, blockCols: K, scheme: "a scale for each row" },
    ...schemes.groups.filter((g) => g < K).map((g) => ({ blockRows: 1, blockCols: g, scheme: `groups of ${g}` })),
    ...schemes.blocks.map(([r, c]) => ({ blockRows: r, blockCols: c, scheme: `blocks ${r} × ${c}` })),
  ].map((grid) => ({ ...grid, scales: [...shape.slice(0, -2), Math.ceil(N / grid.blockRows), Math.ceil(K / grid.blockCols)] }));
  const fits = grids.filter((g) => g.scales.join() === scales.shape.join() || (scales.shape.join() === "1" || scales.shape.length === 0) && g.blockRows >= N && g.blockCols >= K); // prettier-ignore
  const [first, ...others] = fits;
  const reach = (g: { blockRows: number; blockCols: number }): string => `${Math.min(g.blockRows, N)} ${Math.min(g.blockCols, K)}`;
  if (first && others.every((g) => reach(g) === reach(first)))
    return { blockRows: first.blockRows, blockCols: first.blockCols, scheme: first.scheme };
  const expected = grids.map((g) => `${shownShape(g.scales)} (${g.scheme})`).join(" or ");
  throw find.fault(
    scales,
    `a weight ${shownShape(shape)}: expected ${expected}, found ${shownType(scales)}${first ? ", which several explain" : ""}`,
  );
}

function addFp4(find: WeightFinder, codes: TensorInfo, module: string): void {
  const [N = 1, half = 1] = codes.shape;
  find.expect(codes, ["U8"], [N, half]);
  const scales = find.need(`${module}.weight_scale`, codes);
  const isNv = scales.dtype === "F8_E4M3";
  const group = isNv ? 16 : 32;
  find.expect(scales, ["F8_E4M3", "U8"], [N, Math.ceil((half * 2) / group)]);
  const global = find.tensors.get(`${module}.weight_global_scale`);
  if (global) find.expect(global, ["F32"], [1], []);
  find.add({
    name: `${module}.weight`,
    shape: [N, half * 2],
    parts: { codes, scales, ...(global ? { global } : {}) },
    beside: besideOf(module),
    layout: {
      ...plainParts,
      scheme: `${isNv ? "NVFP4" : "MXFP4"}, groups of ${group}`,
      codes: "e2m1",
      scale: isNv ? "e4m3" : "power",
      rounding: "bf16",
      held: "BF16",
      rows: N,
      cols: half * 2,
      blockCols: group,
    },
  });
}

function addBytes(find: WeightFinder, schemes: Schemes, codes: TensorInfo): void {
  const module = codes.name.slice(0, -".weight".length);
  const scales = find.need(`${module}.weight_scale`, codes);
  find.expect(scales, ["F32", "BF16", "F16"]);
  if (codes.shape.length < 2) throw find.fault(codes, `expected a matrix, found ${shownType(codes)}`);
  const { matrices, rows, cols } = matrixShape(codes.shape);
  const grid = gridOf(find, scales, codes.shape, schemes);
  const zeros = find.tensors.get(`${module}.weight_zero_point`);
  if (zeros && codes.dtype !== "I8") throw find.fault(zeros, "expected no zero points of floats, found some");
  if (zeros) find.expect(zeros, ["I8"], scales.shape);
  find.add({
    name: codes.name,
    shape: codes.shape,
    parts: { codes, scales, ...(zeros ? { zeros } : {}) },
    beside: besideOf(module),
    layout: {
      ...plainParts,
      ...grid,
      ...resultOf(scales),
      scheme: `${codes.dtype === "I8" ? "int8" : "FP8"}, ${grid.scheme}${zeros ? ", zero points" : ""}`,
      codes: codes.dtype === "I8" ? "int8" : "e4m3",
      scale: scaleKind(scales.dtype),
      zeros: zeros ? "bytes" : "none",
      matrices,
      rows,
      cols,
    },
  });
}
