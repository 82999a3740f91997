// quant_method "fp8" (DeepSeek, Qwen, Mistral): e4m3 weights [N, K] or [E, N, K] and, beside them, scales that multiply: one for each
// block of weight_block_size [rows, cols], whose last ones may be partial, or one for all where that is null. `X_scale_inv`, or `.scale`
// beside `.weight` (DeepSeek-V4, whose experts are e2m1: i8 [N, K/2], low nibble first, a scale for 32 of a row).
// Source: DeepSeek-V3 inference/kernel.py, transformers integrations/finegrained_fp8.py.
import { ConfigError } from "../../errors.ts";
import { shown } from "../fault.ts";
import type { TensorInfo } from "../safetensors.ts";
import type { WeightFinder } from "./packed.ts";
import { matrixShape, plainParts, scaleKind } from "./packed.ts";

const SCALES = ["F32", "BF16", "F16", "F8_E8M0", "U8"] as const;
const FP4_BLOCK = 32;

/** Rows and columns of a block; null: one scale for a matrix. */
function blockSize(find: WeightFinder, config: Readonly<Record<string, unknown>>): readonly [number, number] | null {
  const given = config["weight_block_size"] === undefined ? [128, 128] : config["weight_block_size"]; // transformers' default
  if (given === null) return null;
  const [rows, cols, ...more] = Array.isArray(given) ? (given as unknown[]) : [];
  const isSize = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) > 0;
  if (isSize(rows) && isSize(cols) && more.length === 0) return [rows, cols];
  const key = "quantization_config.weight_block_size";
  throw new ConfigError(`${find.source}: "${key}": expected [rows, cols] or null, found ${shown(given)}`, {
    where: { file: find.source, key },
  });
}

export function findFp8(find: WeightFinder, config: Readonly<Record<string, unknown>>): void {
  const block = blockSize(find, config);
  for (const t of find.tensors.values()) {
    const module = t.name.endsWith(".weight") ? t.name.slice(0, -".weight".length) : null;
    const names = [`${t.name}_scale_inv`, ...(module === null ? [] : [`${module}.scale`])];
    const scales = names.flatMap((name) => find.tensors.get(name) ?? [])[0];
    const isFp4 = t.dtype === "I8" && scales !== undefined;
    if (t.dtype !== "F8_E4M3" && !isFp4) continue;
    if (!scales) throw find.fault(t, `expected its scales beside it, found none: ${names.map((n) => `"${n}"`).join(" or ")}`);
    const beside = (module === null ? [`${t.name}_`] : [`${module}.`]).flatMap((at) => [`${at}activation_scale`, `${at}input_scale`]);
    addWeight(find, t, scales, isFp4 ? "fp4" : block, beside);
  }
}

function addWeight(
  find: WeightFinder,
  codes: TensorInfo,
  scales: TensorInfo,
  block: readonly [number, number] | "fp4" | null,
  beside: readonly string[],
): void {
  if (codes.shape.length !== 2 && codes.shape.length !== 3)
    throw find.fault(codes, `expected a matrix, or one for each expert, found ${codes.shape.length} dimensions`);
  const shape = block === "fp4" ? [...codes.shape.slice(0, -1), codes.shape.at(-1)! * 2] : codes.shape;
  const { matrices, rows, cols } = matrixShape(shape);
  const [blockRows, blockCols] = block === "fp4" ? [1, FP4_BLOCK] : (block ?? [rows, cols]);
  const grid = [...shape.slice(0, -2), Math.ceil(rows / blockRows), Math.ceil(cols / blockCols)];
  // One scale for a matrix: with as many dimensions as its writer liked.
  const shapes = block === null ? [shape.slice(0, -2), ...(shape.length === 2 ? [[1]] : []), grid] : [grid];
  find.expect(scales, SCALES, ...shapes);
  find.add({
    name: codes.name,
    shape,
    parts: { codes, scales },
    beside,
    layout: {
      ...plainParts,
      scheme: block === "fp4" ? `FP4, block ${FP4_BLOCK}` : block === null ? "FP8, one scale" : `FP8, blocks ${blockRows} × ${blockCols}`,
      codes: block === "fp4" ? "e2m1" : "e4m3",
      scale: scaleKind(scales.dtype),
      rounding: "f32",
      // e2m1 by a power of two has two significant bits; e4m3 by one has four, and may lie below bf16's smallest.
      held: block === "fp4" && (scales.dtype === "F8_E8M0" || scales.dtype === "U8") ? "BF16" : "F32",
      matrices,
      rows,
      cols,
      blockRows,
      blockCols,
    },
  });
}
