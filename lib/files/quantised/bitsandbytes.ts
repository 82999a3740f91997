// quant_method "bitsandbytes": nf4 and fp4 (W u8 with two codes a byte of the flattened matrix, W.absmax, W.quant_map, and a JSON text as
// the tensor W.quant_state.bitsandbytes__nf4), absmax itself quantised where W.nested_absmax stands beside it; int8 (M.weight i8 and
// M.SCB, the largest value of each row). Source: bitsandbytes functional.py, backends/default/ops.py.
import { z } from "zod";
import { LayoutError } from "../../errors.ts";
import { checkSchema, parseStrictJson } from "../json.ts";
import type { TensorInfo } from "../safetensors.ts";
import { DTYPE_BITS } from "../safetensors.ts";
import type { Packed, WeightFinder } from "./packed.ts";
import { matrixShape, plainParts } from "./packed.ts";

const STATE = /\.quant_state\.bitsandbytes__(nf4|fp4)$/;
const FORMAT = ".weight_format";
const SCB = ".SCB";
const MOST_STATE = 65_536;
/** 1/127 as the library rounds it to f32. */
const INT8_FACTOR = 7.874015718698502e-3;

const size = z.int().min(1);
const State = z.looseObject({
  quant_type: z.enum(["nf4", "fp4"]),
  blocksize: size,
  dtype: z.enum(["bfloat16", "float16", "float32"]),
  shape: z.array(size).min(1).max(4),
  nested_blocksize: size.optional(),
  nested_offset: z.number().optional(),
});
const roundings = { bfloat16: "bf16", float16: "f16", float32: "f32" } as const;

/** Small tensors whose values say how others are to be read. */
export function bitsandbytesNotes(find: WeightFinder): TensorInfo[] {
  return [...find.tensors.values()].filter((t) => {
    if (t.name.endsWith(FORMAT)) find.expect(t, ["U8"], [], [1]);
    else if (!STATE.test(t.name)) return false;
    else if (t.dtype !== "U8" || t.end - t.begin > MOST_STATE) throw find.fault(t, `expected at most ${MOST_STATE} bytes of JSON as U8`);
    return true;
  });
}

export function findBitsandbytes(find: WeightFinder, notes: ReadonlyMap<string, Uint8Array>): void {
  for (const t of find.tensors.values()) {
    const [suffix, kind] = STATE.exec(t.name) ?? [];
    if (suffix !== undefined && kind !== undefined) addTable(find, t, t.name.slice(0, -suffix.length), kind, notes.get(t.name)!);
    else if (t.name.endsWith(SCB)) addInt8(find, t, t.name.slice(0, -SCB.length), notes);
  }
}

function addTable(find: WeightFinder, note: TensorInfo, name: string, kind: string, bytes: Uint8Array): void {
  const state = readState(note, bytes);
  if (state.quant_type !== kind) throw find.fault(note, `expected quant_type "${kind}" as in its name, found "${state.quant_type}"`);
  const { shape, blocksize } = state;
  const count = shape.reduce((a, b) => a * b, 1);
  if (!Number.isSafeInteger(count)) throw find.fault(note, `expected a shape that can be counted, found [${shape.join(", ")}]`);
  const codes = find.need(name, note);
  const unit = DTYPE_BITS[codes.dtype] / 8; // any dtype may hold the bytes (bnb_4bit_quant_storage)
  const codeBytes = Math.ceil(count / 2);
  const stored = codes.end - codes.begin;
  if (stored !== Math.ceil(codeBytes / unit) * unit)
    throw find.fault(codes, `expected ${codeBytes} bytes for a weight [${shape.join(", ")}], two codes a byte, found ${stored}`);
  const [scales, table] = [find.need(`${name}.absmax`, codes), find.need(`${name}.quant_map`, codes)];
  const blocks = Math.ceil(count / blocksize);
  find.expect(table, ["F32"], [16]);
  const { nested_blocksize: nestedBlock, nested_offset: nestedOffset } = state;
  const layout: Packed["scale"] = nestedBlock === undefined ? "f32" : "nested";
  find.expect(scales, [nestedBlock === undefined ? "F32" : "U8"], [blocks]);
  const parts = { codes, scales, table };
  const nested =
    nestedBlock === undefined
      ? null
      : { nestedScales: find.need(`${name}.nested_absmax`, codes), nestedTable: find.need(`${name}.nested_quant_map`, codes) };
  if (nested) {
    find.expect(nested.nestedScales, ["F32"], [Math.ceil(blocks / nestedBlock!)]);
    find.expect(nested.nestedTable, ["F32"], [256]);
    if (nestedOffset === undefined) throw find.fault(note, `expected "nested_offset" beside "nested_blocksize", found none`);
  }
  const { cols } = matrixShape(shape);
  find.add({
    name,
    shape,
    parts: nested ? { ...parts, ...nested } : parts,
    beside: [note.name],
    codeBytes,
    layout: {
      ...plainParts,
      scheme: `bitsandbytes ${kind}, block ${blocksize}${nested ? ", scales quantised too" : ""}`,
      codes: "table4",
      scale: layout,
      rounding: roundings[state.dtype],
      held: state.dtype === "bfloat16" ? "BF16" : "F32",
      rows: count / cols,
      cols,
      blockCols: blocksize,
      nestedBlock: nestedBlock ?? 1,
      nestedOffset: nestedOffset ?? 0,
    },
  });
}

function readState(note: TensorInfo, bytes: Uint8Array): z.output<typeof State> {
  const place = `${note.path}: tensor "${note.name}"`;
  let json: unknown;
  try {
    json = parseStrictJson(new TextDecoder("utf-8", { fatal: true }).decode(bytes), { maxDepth: 4, maxItems: 10_000 });
  } catch (error) {
    throw new LayoutError(`${place}: expected valid JSON, found: ${(error as Error).message}`, {
      where: { file: note.path, tensor: note.name },
      cause: error,
    });
  }
  return checkSchema(State, json, place);
}

function addInt8(find: WeightFinder, scales: TensorInfo, module: string, notes: ReadonlyMap<string, Uint8Array>): void {
  const codes = find.need(`${module}.weight`, scales);
  const { rows, cols } = matrixShape(codes.shape);
  find.expect(codes, ["I8"], [rows, cols]);
  find.expect(scales, ["F32"], [rows]);
  const format = find.tensors.get(module + FORMAT);
  const [word] = notes.get(module + FORMAT) ?? [0];
  if (format && word !== 0) throw find.fault(format, `expected 0 (rows in order), found ${word}; save the model with a newer bitsandbytes`);
  find.add({
    name: codes.name,
    shape: codes.shape,
    parts: { codes, scales },
    beside: format ? [format.name] : [],
    layout: {
      ...plainParts,
      scheme: "bitsandbytes int8, a scale for each row",
      codes: "int8",
      scale: "f32",
      rounding: "f32",
      held: "F32",
      rows,
      cols,
      blockCols: cols,
      factor: INT8_FACTOR,
    },
  });
}
